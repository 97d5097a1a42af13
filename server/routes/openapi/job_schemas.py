"""Schemas of jobs, exact like those of the other answers."""

from __future__ import annotations

from typing import get_args

from scribewire.server.jobs.job import CallbackStatus, EventKind, JobStatus
from scribewire.server.routes.openapi.schemas import (
    INTEGER,
    SECONDS,
    TEXT,
    UNIX_SECONDS,
    WARNINGS,
    WORDS,
    Schema,
    closed,
    list_of,
    one_value,
    or_null,
    ref,
)

_JOB_STATUS: Schema = {"type": "string", "enum": list(get_args(JobStatus))}
_JOB_ID: Schema = {"type": "string", "pattern": "^job_[0-9a-f]{32}$"}

_LISTED: dict[str, Schema] = {
    "job_id": _JOB_ID,
    "status": _JOB_STATUS,
    "created_at": UNIX_SECONDS,
    "started_at": or_null(UNIX_SECONDS),
    "finished_at": or_null(UNIX_SECONDS),
    "progress": closed(
        {
            "audio_seconds_done": SECONDS,
            "audio_seconds_total": or_null(SECONDS),
            "fraction": {"type": "number", "minimum": 0, "maximum": 1},
        }
    ),
    "attempts": {
        **INTEGER,
        "description": "Workers that started the job. Those stopped together with the server are not counted.",
    },
    "worker_deaths": {
        **list_of(closed({"attempt": INTEGER, "at": UNIX_SECONDS, "code": TEXT})),
        "description": "Workers that died while they held the job. It is tried again until there are three.",
    },
    "demo": {"type": "boolean"},
    "error": or_null(ref("ErrorFields")),
}

JOB_SCHEMAS: dict[str, Schema] = {
    "AcceptedJob": closed({"job_id": _JOB_ID, "status": _JOB_STATUS, "created_at": UNIX_SECONDS}),
    "DeletedJob": closed(
        {
            "job_id": _JOB_ID,
            "status": {**_JOB_STATUS, "description": "The job's final status."},
            "erased": {"type": "boolean", "description": "True when the job and all its data were removed."},
        }
    ),
    "ListedJob": closed(_LISTED),
    "JobList": closed(
        {
            "object": one_value("list"),
            "data": list_of(ref("ListedJob")),
            "next_cursor": {**or_null(TEXT), "description": "Value of `cursor` for the next page."},
            "has_more": {"type": "boolean"},
        }
    ),
    "Job": closed(
        {
            **_LISTED,
            "queue_position": {
                **or_null({"type": "integer", "minimum": 1}),
                "description": "1 for the next job; null unless the job is queued.",
            },
            "partial_text": {**TEXT, "description": "The text so far, while the job is processed."},
            "has_audio": {"type": "boolean", "description": "True while the recording is kept."},
            "callback": or_null(ref("JobCallback")),
            "result": or_null(ref("JobResult")),
        }
    ),
    "JobCallback": closed(
        {
            "url": TEXT,
            "status": {"type": "string", "enum": ["waiting", *get_args(CallbackStatus)]},
            "attempts": INTEGER,
            "last_error": or_null(TEXT),
            "last_attempt_at": or_null(UNIX_SECONDS),
        },
        description="Progress of the webhook to `callback_url`; `waiting` until the job has ended.",
    ),
    "JobResult": closed(
        {
            "text": TEXT,
            "language": or_null(TEXT),
            "duration": SECONDS,
            "model": TEXT,
            "segments": list_of(
                closed(
                    {
                        "id": INTEGER,
                        "start": SECONDS,
                        "end": SECONDS,
                        "text": TEXT,
                        "speaker": {**TEXT, "description": "Only with diarization."},
                    },
                    optional=("speaker",),
                )
            ),
            "words": WORDS,
            "warnings": WARNINGS,
        },
        optional=("words", "warnings"),
    ),
    "JobEvent": closed(
        {
            "at": UNIX_SECONDS,
            "attempt": INTEGER,
            "audio_seconds_done": SECONDS,
            "audio_seconds_total": or_null(SECONDS),
            "text": {
                **TEXT,
                "description": "Of `partial`: continues the text of the events before it, since the last `queued`.",
            },
            "error": ref("ErrorFields"),
        },
        optional=("text", "error"),
        description="The `data` of one event of a job.",
    ),
    "JobEventKind": {"type": "string", "enum": list(get_args(EventKind))},
}
