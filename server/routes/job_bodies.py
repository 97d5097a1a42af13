"""Jobs as JSON, whole and in lists."""

from __future__ import annotations

import dataclasses
from typing import Any

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.jobs.job import Job, JobEvent, JobFailure
from scribewire.server.routes.bodies import job_result_body, shows_words


def accepted_body(job: Job) -> dict[str, Any]:
    """Body of the answer to a submission."""
    return {"job_id": job.job_id, "status": job.status, "created_at": int(job.created_at)}


def listed_body(job: Job) -> dict[str, Any]:
    """A job without its texts."""
    return {
        "job_id": job.job_id,
        "status": job.status,
        "created_at": int(job.created_at),
        "started_at": int(job.started_at) if job.started_at is not None else None,
        "finished_at": int(job.finished_at) if job.finished_at is not None else None,
        "progress": _progress(job),
        "attempts": job.attempts,
        "worker_deaths": [
            {"attempt": death.attempt, "at": int(death.at), "code": death.code} for death in job.deaths
        ],
        "demo": job.is_demo,
        "error": failure_body(job.failure),
    }


def job_body(job: Job) -> dict[str, Any]:
    """A job with all its data."""
    return {
        **listed_body(job),
        "queue_position": job.queue_position,
        "partial_text": job.partial_text,
        "has_audio": job.has_audio,
        "callback": _callback(job),
        "result": job_result_body(job.transcript, with_words=shows_words(job.options))
        if job.transcript is not None
        else None,
    }


def _callback(job: Job) -> dict[str, Any] | None:
    """Progress of a job's webhook: `waiting` until the job has ended."""
    if job.callback_url is None:
        return None
    state = job.callback
    at = state.last_attempt_at if state is not None else None
    return {
        "url": job.callback_url,
        "status": state.status if state is not None else "waiting",
        "attempts": state.attempts if state is not None else 0,
        "last_error": state.last_error if state is not None else None,
        "last_attempt_at": int(at) if at is not None else None,
    }


def event_body(event: JobEvent) -> dict[str, Any]:
    """The data of one event of a job's log."""
    body: dict[str, Any] = {
        "at": int(event.at),
        "attempt": event.attempt,
        "audio_seconds_done": round(event.audio_seconds_done, 3),
        "audio_seconds_total": _seconds(event.audio_seconds_total),
    }
    if event.kind == "partial":
        body["text"] = event.text
    if event.kind == "failed":
        body["error"] = failure_body(event.failure)
    return body


def failure_body(failure: JobFailure | None) -> dict[str, Any] | None:
    """A job's failure as OpenAI's error object."""
    if failure is None:
        return None
    return {
        "message": failure.message,
        "type": failure.type,
        "param": failure.param,
        "code": failure.code,
    }


def info_of(job: Job, resident: ModelInfo | None) -> ModelInfo:
    """The model of a job's result, which may differ from the one loaded now, if any."""
    if job.transcript is None and resident is not None:
        return resident
    model_id = job.transcript.model_id if job.transcript is not None else ""
    if resident is not None:
        return dataclasses.replace(resident, model_id=model_id, is_demo=job.is_demo)
    return ModelInfo(model_id, job.is_demo, (), "", "", 0, 0, 0, 0.0)


def _progress(job: Job) -> dict[str, Any]:
    total = job.audio_seconds_total
    fraction = min(1.0, job.audio_seconds_done / total) if total else (1.0 if job.is_finished else 0.0)
    return {
        "audio_seconds_done": round(job.audio_seconds_done, 3),
        "audio_seconds_total": _seconds(total),
        "fraction": round(fraction, 4),
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
