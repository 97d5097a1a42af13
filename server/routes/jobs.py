"""Routes of jobs: submit a recording, fetch its transcript later, follow it live. Only its owner sees a job."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from scribewire.engine.protocol.config import DEMO_MODEL
from scribewire.server.context import ServerContext, client_of, context_of, owner_of
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.formats import DEFAULT_FORMAT, FORMATS
from scribewire.server.intake.job_request import JobRequest
from scribewire.server.intake.request import FormatName, validated
from scribewire.server.jobs.job import EventKind, Job, JobStatus
from scribewire.server.jobs.refusals import as_refusal
from scribewire.server.jobs.store import CURSOR_PATTERN, MAX_PAGE, CursorInvalid
from scribewire.server.routes.documents import answer, answer_headers, json_answer, made_apart
from scribewire.server.routes.job_bodies import (
    AcceptedJob,
    DeletedJob,
    JobList,
    info_of,
    job_list,
    warnings_of,
    whole_job,
)
from scribewire.server.routes.job_bodies import Job as JobBody
from scribewire.server.routes.job_events import JobEventStream
from scribewire.server.routes.openapi import (
    ABOUT_MODEL,
    FORBIDDEN_FILE,
    ReadingRoute,
    described,
    event_stream,
    in_header,
    in_query,
    transcripts,
)

IDEMPOTENCY_HEADER = "idempotency-key"
REPLAY_HEADER = "x-scribewire-replayed"
"""On the 202 of a submission whose idempotency key was used before."""

DEFAULT_PAGE = 20

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
_LOCATION = {
    "location": {"required": True, "schema": {"type": "string", "pattern": "^/jobs/job_[0-9a-f]{32}$"}}
}
_LINKS = {"job": {"operationId": "getJob", "parameters": {"job_id": "$response.body#/job_id"}}}
_SUBMISSION = described(
    "The job; `location` is its address.",
    AcceptedJob,
    status=202,
    headers={
        **_LOCATION,
        REPLAY_HEADER: {
            "description": "Sent when the Idempotency-Key was used before; the job is the earlier one.",
            "schema": {"type": "string", "const": "true"},
        },
    },
    links=_LINKS,
    request=JobRequest,
    parameters=[
        in_header(
            IDEMPOTENCY_HEADER,
            "The same key with the same recording and parameters is the same job.",
            type="string",
            pattern="^[!-~]{1,255}$",
        )
    ],
    refusals={
        403: FORBIDDEN_FILE,
        404: None,
        409: "The Idempotency-Key was used for another recording, or with other parameters.",
        429: None,
        507: None,
    },
)

router = APIRouter(tags=["jobs"], route_class=ReadingRoute)


class ListQuery(BaseModel):
    """The query of a list of jobs."""

    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(
        None,
        description="`next_cursor` of the previous page.",
        json_schema_extra={"pattern": CURSOR_PATTERN},
    )
    status: JobStatus | None = Field(None, description="Only jobs with this status.")


class ResultQuery(BaseModel):
    """The query of a job's result."""

    format: FormatName | None = Field(
        None, description="When left out, the response_format of the job's submission."
    )


@router.post("/v1/audio/transcriptions/jobs", name="create_transcription_job", openapi_extra=_SUBMISSION)
@router.post("/transcribe", openapi_extra=_SUBMISSION)
async def submit_job(request: Request) -> Response:
    """Submit one recording and fetch its transcript later.

    An accepted job survives crashes and restarts of the server.
    """
    context = context_of(request)
    context.engine.check_admission(is_patient=True)
    idempotency_key = _idempotency_key(request)
    upload = await context.uploads.receive(request, file_fields=("audio", "file"))
    try:
        wanted = JobRequest.of(upload.fields)
        wanted.check_languages(context.engine.info)
        model = None
        if wanted.model is not None:
            # Known since the first load of the model; a job need not wait for an engine that is restarting.
            info = context.engine.info or await context.engine.wait_ready()
            model = context.engine.resolve_model(wanted.model, info)
        parameters = wanted.parameters(model, context.callback_targets)
        if parameters.options.speakers is not None:
            await context.speakers.check()
        submitted = await context.runner.submit(
            upload,
            parameters,
            owner=owner_of(request),
            idempotency_key=idempotency_key,
            request_id=request.state.request_id,
        )
    except BaseException:
        await upload.delete()
        raise
    request.state.job_id = submitted.job.job_id
    headers = {"location": f"/jobs/{submitted.job.job_id}"}
    if not submitted.is_new:
        headers[REPLAY_HEADER] = "true"
    return json_answer(AcceptedJob.model_validate(_with_model(context, submitted.job)), 202, headers)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise bad_request(
            "invalid_parameter",
            "Idempotency-Key must be 1 to 255 printable ASCII characters without spaces.",
            IDEMPOTENCY_HEADER,
        )
    return key


@router.get(
    "/jobs",
    openapi_extra=described(
        "One page.",
        JobList,
        parameters=in_query(ListQuery),
    ),
)
async def list_jobs(request: Request) -> Response:
    """The key's jobs, newest first."""
    context = context_of(request)
    query = validated(ListQuery, request.query_params)
    try:
        page = await context.jobs.list(
            owner_of(request),
            status=query.status,
            cursor=query.cursor,
            limit=query.limit,
        )
    except CursorInvalid as error:
        raise as_refusal(error) from None
    jobs = tuple(_with_model(context, job) for job in page.jobs)
    return json_answer(job_list(dataclasses.replace(page, jobs=jobs)))


@router.get(
    "/jobs/{job_id}",
    openapi_extra=described("The job.", JobBody, headers=ABOUT_MODEL, refusals={404: None}),
)
async def get_job(request: Request, job_id: str) -> Response:
    """A job's state, with its result when it is completed.

    Only the key that submitted a job sees it.
    """
    job = await _job(request, job_id)
    info = context_of(request).engine.info
    headers = (
        answer_headers(info_of(job, info), warnings_of(job)) if job.transcript is not None or info else None
    )
    return await made_apart(job.transcript, lambda: json_answer(whole_job(job), headers=headers))


@router.delete("/jobs/{job_id}", openapi_extra=described("The outcome.", DeletedJob, refusals={404: None}))
async def delete_job(request: Request, job_id: str) -> Response:
    """Cancel an unfinished job; erase a finished one with all its data."""
    context = context_of(request)
    job = await _job(request, job_id)
    if job.is_finished:
        await context.runner.erase(job, request_id=request.state.request_id)
        return json_answer(DeletedJob(job_id=job.job_id, status=job.status, erased=True))
    ended = await context.runner.cancel(job.job_id, job.owner, request_id=request.state.request_id)
    status = ended.status if ended is not None else "cancelled"
    return json_answer(DeletedJob(job_id=job.job_id, status=status, erased=False))


@router.get(
    "/jobs/{job_id}/result",
    openapi_extra=described(
        "The transcript in the requested format.",
        transcripts(),
        headers=ABOUT_MODEL,
        parameters=in_query(ResultQuery),
        refusals={404: None, 409: _CONFLICT},
    ),
)
async def get_job_result(request: Request, job_id: str) -> Response:
    """A completed job's transcript in any format."""
    chosen = validated(ResultQuery, request.query_params).format
    job = await _job(request, job_id)
    if job.transcript is None:
        raise ApiError(
            409,
            "job_not_completed",
            f"This job is {job.status}; only a completed one has a result.",
            param="job_id",
            should_retry=False,
        )
    response_format = FORMATS.get(chosen or job.result_format, FORMATS[DEFAULT_FORMAT])
    if "speakers" in response_format.wants and job.options.speakers is None:
        raise ApiError(
            409,
            "job_not_diarized",
            f"This job's speakers were not told apart; submit it with response_format={response_format.name}.",
            param="format",
            should_retry=False,
        )
    info = info_of(job, context_of(request).engine.info)
    transcript = dataclasses.replace(job.transcript, warnings=warnings_of(job, response_format))
    return await made_apart(transcript, partial(answer, transcript, info, response_format, job.options))


@router.get(
    "/jobs/{job_id}/events",
    openapi_extra=described(
        "Server-sent events, and comments that keep the connection alive.",
        event_stream("JobEvent", EVENTS_EXAMPLE, get_args(EventKind), is_log=True),
        parameters=[
            in_header(
                "last-event-id",
                "Leave out the events up to this one.",
                type="integer",
                minimum=0,
                maximum=10**15 - 1,
            )
        ],
        refusals={404: None, 429: None},
    ),
)
async def follow_job(request: Request, job_id: str) -> Response:
    """A job's events from its beginning, then live, until it has ended.

    `queued` after other events means that the job, and with it its text, begins again.
    """
    after_id = _last_event_id(request)
    job = await _job(request, job_id)
    context = context_of(request)
    events = context.jobs.events(job.job_id, job.owner, after_id=after_id)
    return JobEventStream(
        request,
        events,
        held=context.streams.hold(client_of(request)),
        stopping=context.stopping,
        keep_alive_seconds=context.stream_keep_alive_seconds,
    )


@router.post(
    "/jobs/{job_id}/cancel",
    openapi_extra=described("The job's state now.", DeletedJob, refusals={404: None}),
)
async def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel an unfinished job; a finished one stays as it is.

    Unlike DELETE it never erases, so it is safe to repeat and when the job ends at the same time.
    """
    job = await context_of(request).runner.cancel(
        job_id, owner_of(request), request_id=request.state.request_id
    )
    if job is None:
        raise _not_found()
    return json_answer(DeletedJob(job_id=job.job_id, status=job.status, erased=False))


@router.post(
    "/jobs/{job_id}/retry",
    openapi_extra=described(
        "The job; `location` is its address.",
        AcceptedJob,
        status=202,
        headers=_LOCATION,
        links=_LINKS,
        refusals={404: None, 409: _CONFLICT, 429: None, 507: None},
    ),
)
async def retry_job(request: Request, job_id: str) -> Response:
    """Queue a failed job again, as long as its recording is kept."""
    context = context_of(request)
    job = await context.runner.retry(job_id, owner_of(request), request_id=request.state.request_id)
    if job is None:
        raise _not_found()
    return json_answer(
        AcceptedJob.model_validate(_with_model(context, job)), 202, {"location": f"/jobs/{job.job_id}"}
    )


async def _job(request: Request, job_id: str) -> Job:
    context = context_of(request)
    job = await context.jobs.get(job_id, owner_of(request))
    if job is None:
        raise _not_found()
    return _with_model(context, job)


def _with_model(context: ServerContext, job: Job) -> Job:
    """A job that says from the start whether the demo model answers it: so far, the one that would."""
    if job.status == "completed":
        return job
    info = context.engine.info
    is_demo = context.settings.model == DEMO_MODEL if info is None else info.is_demo
    return dataclasses.replace(job, is_demo=is_demo)


def _not_found() -> ApiError:
    return ApiError(404, "job_not_found", "There is no such job, or its time is over.", param="job_id")


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise bad_request(
            "invalid_parameter", "Last-Event-ID must be an id of this job's events.", "last-event-id"
        )
    return int(text)
