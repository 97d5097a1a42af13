"""Jobs as JSON, whole and in lists."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.http.answers import Answer, Count, ErrorFields, UnixSeconds, about, optional
from scribewire.server.intake.formats import FORMATS, ResponseFormat
from scribewire.server.jobs import job as stored
from scribewire.server.jobs.job import CallbackStatus, JobPage, JobStatus
from scribewire.server.routes.documents import Seconds, Share, Warnings, Words, shown_warnings, words_of

JobId = Annotated[str, about(pattern="^job_[0-9a-f]{32}$")]
_QueuePosition = Annotated[int, about(minimum=1)]
_Progress = Annotated[
    float, BeforeValidator(lambda seconds: round(seconds, 3)), about("Seconds of the recording.", minimum=0)
]

DEMO = "True where the bundled demo model answers: the one that did, or else the one that is loaded now."
POSITION = "1 and the number of jobs that will be begun before it; null unless the job is queued."


class AcceptedJob(Answer):
    """The answer to a submission."""

    job_id: JobId
    status: JobStatus
    queue_position: _QueuePosition | None = about(POSITION)
    created_at: UnixSeconds
    demo: bool = about(DEMO, of="is_demo")


class DeletedJob(Answer):
    """The answer to a cancellation, or to a deletion."""

    job_id: JobId
    status: JobStatus = about("The job's final status.")
    erased: bool = about("True when the job and all its data were removed.")


class JobProgress(Answer):
    """How far a job is."""

    audio_seconds_done: _Progress
    audio_seconds_total: _Progress | None
    fraction: Share


class JobWorkerDeath(Answer):
    """A worker that died while it held the job."""

    attempt: Count
    at: UnixSeconds
    code: str


class ListedJob(Answer):
    """A job without its texts."""

    job_id: JobId
    status: JobStatus = about("`queued` until decoding has begun.")
    queue_position: _QueuePosition | None = about(POSITION)
    filename: str | None = about("Base name of the uploaded file, where one was sent.")
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None
    progress: JobProgress
    speed: float | None = about("Seconds of audio transcribed in one second, once completed.", minimum=0)
    attempts: Count = about(
        "Workers that started the job. Those stopped together with the server are not counted."
    )
    worker_deaths: list[JobWorkerDeath] = about(
        "Workers that died while they held the job. It is tried again until there are three.", of="deaths"
    )
    demo: bool = about(DEMO, of="is_demo")
    error: ErrorFields | None = about(of="failure")


class JobList(Answer):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[ListedJob]
    next_cursor: str | None = about("Value of `cursor` for the next page.")
    has_more: bool


class JobCallback(Answer):
    """Progress of the webhook to `callback_url`; `waiting` until the job has ended."""

    url: str
    status: Literal["waiting", CallbackStatus]
    attempts: Count
    last_error: str | None
    last_attempt_at: UnixSeconds | None


class JobSegment(Answer):
    """A segment of a job's result."""

    id: Count = about(of="index")
    start: Seconds = about(of="start_seconds")
    end: Seconds = about(of="end_seconds")
    text: str
    speaker: str | None = optional("Only with diarization.")


class JobChunk(Answer):
    """A segment in mlx-qwen3-asr's names."""

    text: str
    start: Seconds = about(of="start_seconds")
    end: Seconds = about(of="end_seconds")
    chunk_index: Count = about(of="index")
    language: str | None


class JobResult(Answer):
    """A completed job's transcript."""

    text: str
    language: Annotated[str, BeforeValidator(str.lower)] | None
    duration: Seconds = about(of="duration_seconds")
    model: str = about(of="model_id")
    segments: list[JobSegment]
    chunks: list[JobChunk] = about("The segments in mlx-qwen3-asr's names.")
    words: Words | None = optional()
    warnings: Warnings | None = optional()


class Job(ListedJob):
    """A job with all its data."""

    partial_text: str = about("The text so far, while the job is processed.")
    has_audio: bool = about("True while the recording is kept.")
    callback: JobCallback | None
    completed_at: str | None = optional("`finished_at` in mlx-qwen3-asr's form: UTC, ISO 8601.")
    result: JobResult | None


class JobEvent(Answer):
    """The `data` of one event of a job."""

    at: UnixSeconds
    attempt: Count
    audio_seconds_done: _Progress
    audio_seconds_total: _Progress | None
    text: str | None = optional(
        "Of `partial`: continues the text of the events before it, since the last `queued`."
    )
    queue_position: _QueuePosition | None = optional(
        "Of a `queued` that is the newest event: 1 and the number of jobs that will be begun before."
    )
    error: ErrorFields | None = optional()


def job_list(page: JobPage) -> JobList:
    """A page of jobs without their texts."""
    jobs = [_values(ListedJob, job, progress=job) for job in page.jobs]
    more = {"next_cursor": page.cursor, "has_more": page.cursor is not None}
    return JobList.model_validate({"object": "list", "data": jobs, **more})


def whole_job(job: stored.Job) -> Job:
    """A job with all its data."""
    transcript, state = job.transcript, job.callback or stored.CallbackState()
    callback, result = None, None
    if job.callback_url is not None:
        status = "waiting" if job.callback is None else state.status
        callback = _values(JobCallback, state, url=job.callback_url, status=status)
    if transcript is not None:
        words, warnings = words_of(transcript, job.options), warnings_of(job) or None
        more = {"chunks": transcript.segments, "words": words, "warnings": warnings}
        result = _values(JobResult, transcript, **more)
    ended = None if job.finished_at is None else datetime.fromtimestamp(job.finished_at, UTC)
    completed_at = None if ended is None else f"{ended:%Y-%m-%dT%H:%M:%SZ}"
    values = _values(Job, job, progress=job, callback=callback, completed_at=completed_at, result=result)
    return Job.model_validate(values)


def warnings_of(job: stored.Job, chosen: ResponseFormat | None = None) -> tuple[str, ...]:
    """The warnings of a job's transcript in this format, by default that of its submission."""
    if job.transcript is None:
        return ()
    is_asked_for = job.options.words and not job.options.words_optional
    wanted = chosen or FORMATS.get(job.result_format)
    return shown_warnings(job.transcript, with_words=is_asked_for or bool(wanted and "words" in wanted.wants))


def event_data(event: stored.JobEvent) -> dict[str, Any]:
    """The data of one event of a job's log."""
    text = event.text if event.kind == "partial" else None
    error = event.failure if event.kind == "failed" else None
    return JobEvent.model_validate(_values(JobEvent, event, text=text, error=error)).values()


def info_of(job: stored.Job, resident: ModelInfo | None) -> ModelInfo:
    """The model of a job's result, which may differ from the one loaded now, if any."""
    if job.transcript is None and resident is not None:
        return resident
    model_id = job.transcript.model_id if job.transcript is not None else ""
    if resident is not None:
        return dataclasses.replace(resident, model_id=model_id, is_demo=job.is_demo)
    return ModelInfo(model_id, job.is_demo, (), "", "", 0, 0, 0, 0.0)


def _values(kind: type[Answer], source: object, **more: object) -> dict[str, Any]:
    """An answer's values by field: further ones, and the others from the source's attributes."""
    attributes = {
        name: str(field.validation_alias or name)
        for name, field in kind.model_fields.items()
        if name not in more
    }
    return {name: getattr(source, attribute) for name, attribute in attributes.items()} | more
