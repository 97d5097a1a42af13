"""The addresses of jobs."""

from __future__ import annotations

from typing import get_args

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.intake.form import ResponseFormat
from scribewire.server.jobs.job import JobStatus
from scribewire.server.jobs.store import CURSOR_PATTERN, MAX_PAGE
from scribewire.server.routes.openapi.parameters import encoding, job_form, job_json
from scribewire.server.routes.openapi.responses import (
    ABOUT_MODEL,
    FORBIDDEN_FILE,
    REQUEST_ID,
    errors,
    json_answer,
)
from scribewire.server.routes.openapi.schemas import TRANSCRIPTION_SHAPES, Schema, one_value, ref

EVENTS_EXAMPLE = (
    "id: 1\nevent: queued\n"
    'data: {"at":1700000000,"attempt":0,"audio_seconds_done":0.0,"audio_seconds_total":null}\n\n'
    "id: 2\nevent: partial\n"
    'data: {"at":1700000001,"attempt":1,"audio_seconds_done":2.5,"audio_seconds_total":2.5,"text":"Hello there."}\n\n'
    ": keep-alive\n\n"
    "id: 3\nevent: done\n"
    'data: {"at":1700000002,"attempt":1,"audio_seconds_done":2.5,"audio_seconds_total":2.5}\n\n'
)

_CONFLICT = "The job is not in a state for this."
_JOB_ID: Schema = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "example": "job_" + "0" * 32,
}
_LINKS = {"job": {"operationId": "getJob", "parameters": {"job_id": "$response.body#/job_id"}}}


def job_paths(info: ModelInfo | None, *, has_callbacks: bool) -> dict[str, Schema]:
    """Every address of jobs with its operations."""
    return {
        "/transcribe": {"post": _submit_job(info, "submitJob", has_callbacks)},
        "/v1/audio/transcriptions/jobs": {"post": _submit_job(info, "createTranscriptionJob", has_callbacks)},
        "/jobs": {"get": _list_jobs()},
        "/jobs/{job_id}": {"get": _get_job(), "delete": _delete_job()},
        "/jobs/{job_id}/result": {"get": _get_job_result()},
        "/jobs/{job_id}/events": {"get": _follow_job()},
        "/jobs/{job_id}/cancel": {"post": _cancel_job()},
        "/jobs/{job_id}/retry": {"post": _retry_job()},
    }


def _submit_job(info: ModelInfo | None, operation_id: str, has_callbacks: bool) -> Schema:
    form = job_form(info, has_callbacks=has_callbacks)
    accepted = _accepted(
        {
            "x-scribewire-replayed": {
                "description": "Sent when the Idempotency-Key was used before; the job is the earlier one.",
                "schema": one_value("true"),
            }
        }
    )
    return {
        "operationId": operation_id,
        "summary": "Submit one recording and fetch its transcript later.",
        "description": "An accepted job survives crashes and restarts of the server.",
        "tags": ["jobs"],
        "parameters": [
            {
                "name": "idempotency-key",
                "in": "header",
                "description": "The same key with the same recording and parameters is the same job.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form, "encoding": encoding(form)},
                "application/json": {"schema": job_json(info, has_callbacks=has_callbacks)},
            },
        },
        "responses": {
            "202": accepted,
            **errors(
                404,
                409,
                429,
                507,
                described={
                    403: FORBIDDEN_FILE,
                    409: "The Idempotency-Key was used for another recording, or with other parameters.",
                },
            ),
        },
    }


def _accepted(headers: dict[str, Schema]) -> Schema:
    location = {"type": "string", "pattern": "^/jobs/job_[0-9a-f]{32}$"}
    accepted = json_answer(
        "The job; `location` is its address.",
        "AcceptedJob",
        {"location": {"required": True, "schema": location}, **headers},
    )
    accepted["links"] = _LINKS
    return accepted


def _list_jobs() -> Schema:
    return {
        "operationId": "listJobs",
        "summary": "The key's jobs, newest first.",
        "tags": ["jobs"],
        "parameters": [
            _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 20}),
            _query(
                "cursor", {"type": "string", "pattern": CURSOR_PATTERN}, "`next_cursor` of the previous page."
            ),
            _query(
                "status", {"type": "string", "enum": list(get_args(JobStatus))}, "Only jobs with this status."
            ),
        ],
        "responses": {"200": json_answer("One page.", "JobList", {}), **errors()},
    }


def _get_job() -> Schema:
    return {
        "operationId": "getJob",
        "summary": "A job's state, with its result when it is completed.",
        "description": "Only the key that submitted a job sees it.",
        "tags": ["jobs"],
        "parameters": [_JOB_ID],
        "responses": {"200": json_answer("The job.", "Job", ABOUT_MODEL), **errors(404)},
    }


def _delete_job() -> Schema:
    return {
        "operationId": "deleteJob",
        "summary": "Cancel an unfinished job; erase a finished one with all its data.",
        "tags": ["jobs"],
        "parameters": [_JOB_ID],
        "responses": {"200": json_answer("The outcome.", "DeletedJob", {}), **errors(404)},
    }


def _cancel_job() -> Schema:
    return {
        "operationId": "cancelJob",
        "summary": "Cancel an unfinished job; a finished one stays as it is.",
        "description": "Unlike DELETE it never erases, so it is safe to repeat and when the job ends at the same time.",
        "tags": ["jobs"],
        "parameters": [_JOB_ID],
        "responses": {"200": json_answer("The job's state now.", "DeletedJob", {}), **errors(404)},
    }


def _retry_job() -> Schema:
    return {
        "operationId": "retryJob",
        "summary": "Queue a failed job again, as long as its recording is kept.",
        "tags": ["jobs"],
        "parameters": [_JOB_ID],
        "responses": {"202": _accepted({}), **errors(404, 409, 429, 507, described={409: _CONFLICT})},
    }


def _get_job_result() -> Schema:
    texts = ("text/plain", "application/x-subrip", "text/vtt")
    return {
        "operationId": "getJobResult",
        "summary": "A completed job's transcript in any format.",
        "tags": ["jobs"],
        "parameters": [
            _JOB_ID,
            _query(
                "format",
                {"type": "string", "enum": list(get_args(ResponseFormat))},
                "When left out, the response_format of the job's submission.",
            ),
        ],
        "responses": {
            "200": {
                "description": "The transcript in the requested format.",
                "headers": {**REQUEST_ID, **ABOUT_MODEL},
                "content": {
                    "application/json": {"schema": TRANSCRIPTION_SHAPES},
                    **{kind: {"schema": {"type": "string"}} for kind in texts},
                },
            },
            **errors(404, 409, described={409: _CONFLICT}),
        },
    }


def _follow_job() -> Schema:
    return {
        "operationId": "followJob",
        "summary": "A job's events from its beginning, then live, until it has ended.",
        "description": "`queued` after other events means that the job, and with it its text, begins again.",
        "tags": ["jobs"],
        "parameters": [
            _JOB_ID,
            {
                "name": "last-event-id",
                "in": "header",
                "description": "Leave out the events up to this one.",
                "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
            },
        ],
        "responses": {
            "200": {
                "description": "Server-sent events, and comments that keep the connection alive.",
                "headers": REQUEST_ID,
                "content": {
                    "text/event-stream": {
                        # Before OpenAPI 3.2, which has itemSchema, the schema of such a type describes one event.
                        "schema": {
                            "type": "object",
                            "properties": {
                                "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                                "event": ref("JobEventKind"),
                                "data": {
                                    "type": "string",
                                    "contentMediaType": "application/json",
                                    "contentSchema": ref("JobEvent"),
                                },
                            },
                            "required": ["id", "event", "data"],
                        },
                        "example": EVENTS_EXAMPLE,
                    }
                },
            },
            **errors(404),
        },
    }


def _query(name: str, schema: Schema, description: str = "") -> Schema:
    parameter: Schema = {"name": name, "in": "query", "schema": schema}
    return {**parameter, "description": description} if description else parameter
