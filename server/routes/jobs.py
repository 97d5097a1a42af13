"""Routes of jobs: submit a recording, fetch its transcript later, follow it live. Only its owner sees a job."""

from __future__ import annotations

import re
from typing import get_args

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from scribewire.server.context import context_of, owner_of
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form import (
    ResponseFormat,
    TranscriptionForm,
    check_model,
    read_callback_url,
    read_job_form,
    read_result_format,
)
from scribewire.server.jobs.job import Job, JobStatus
from scribewire.server.jobs.refusals import as_refusal
from scribewire.server.jobs.store import MAX_PAGE, CursorInvalid
from scribewire.server.routes.bodies import answer, answer_headers
from scribewire.server.routes.job_bodies import accepted_body, info_of, job_body, listed_body
from scribewire.server.routes.job_events import JobEventStream

IDEMPOTENCY_HEADER = "idempotency-key"
REPLAY_HEADER = "x-scribewire-replayed"
"""On the 202 of a submission whose idempotency key was used before."""

DEFAULT_PAGE = 20

router = APIRouter()


@router.post("/transcribe")
async def submit_job(request: Request) -> Response:
    """Accept a recording (field `audio` or `file`) and answer 202 as soon as it is stored."""
    return await _submit(request)


@router.post("/v1/audio/transcriptions/jobs")
async def create_transcription_job(request: Request) -> Response:
    """Submit a job at an address below OpenAI's own, with its fields."""
    return await _submit(request)


async def _submit(request: Request) -> Response:
    context = context_of(request)
    context.engine.check_admission(is_patient=True)
    idempotency_key = _idempotency_key(request)
    upload = await context.uploads.receive(request, file_fields=("audio", "file"))
    try:
        form = read_job_form(upload.fields)
        if form.model:
            # Known since the first load of the model; a job need not wait for an engine that is restarting.
            check_model(form.model, context.engine.info or await context.engine.wait_ready())
        if form.options.speakers is not None:
            await context.speakers.check()
        submitted = await context.runner.submit(
            upload,
            form.options,
            owner=owner_of(request),
            result_format=form.response_format,
            idempotency_key=idempotency_key,
            callback_url=read_callback_url(upload.fields, context.callback_targets),
            request_id=request.state.request_id,
        )
    except BaseException:
        await upload.delete()
        raise
    request.state.job_id = submitted.job.job_id
    headers = {"location": f"/jobs/{submitted.job.job_id}"}
    if not submitted.is_new:
        headers[REPLAY_HEADER] = "true"
    return JSONResponse(accepted_body(submitted.job), status_code=202, headers=headers)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise bad_request(
            "invalid_parameter",
            "Idempotency-Key must be 1 to 255 printable ASCII characters without spaces.",
            IDEMPOTENCY_HEADER,
        )
    return key


@router.get("/jobs")
async def list_jobs(request: Request) -> Response:
    """List the owner's jobs, newest first."""
    context = context_of(request)
    try:
        page = await context.jobs.list(
            owner_of(request),
            status=_status(request),
            cursor=_given(request, "cursor"),
            limit=_limit(request),
        )
    except CursorInvalid as error:
        raise as_refusal(error) from None
    return JSONResponse(
        {
            "object": "list",
            "data": [listed_body(job) for job in page.jobs],
            "next_cursor": page.cursor,
            "has_more": page.cursor is not None,
        }
    )


@router.api_route("/jobs/{job_id}", methods=["GET", "DELETE"])
async def one_job(request: Request, job_id: str) -> Response:
    """Get or delete a job: one route for both, so that a 405 names both in `Allow`."""
    return await (_delete_job if request.method == "DELETE" else _get_job)(request, job_id)


async def _get_job(request: Request, job_id: str) -> Response:
    """A job's state, with its result when it is completed."""
    job = await _job(request, job_id)
    warnings = job.transcript.warnings if job.transcript is not None else ()
    info = context_of(request).engine.info
    headers = answer_headers(info_of(job, info), warnings) if job.transcript is not None or info else None
    return JSONResponse(job_body(job), headers=headers)


@router.get("/jobs/{job_id}/result")
async def get_job_result(request: Request, job_id: str) -> Response:
    """A completed job's transcript, in the format requested now, or else at its submission."""
    wanted = _given(request, "format")
    chosen = read_result_format(wanted) if wanted is not None else None
    job = await _job(request, job_id)
    if job.transcript is None:
        raise ApiError(
            409,
            "job_not_completed",
            f"This job is {job.status}; only a completed one has a result.",
            param="job_id",
            should_retry=False,
        )
    response_format: ResponseFormat = chosen or read_result_format(job.result_format)
    if response_format == "diarized_json" and job.options.speakers is None:
        raise ApiError(
            409,
            "job_not_diarized",
            "This job's speakers were not told apart; submit it with response_format=diarized_json.",
            param="format",
            should_retry=False,
        )
    form = TranscriptionForm(
        model=None,
        response_format=response_format,
        options=job.options,
        wants_logprobs=job.options.token_logprobs and response_format == "json",
    )
    return answer(job.transcript, info_of(job, context_of(request).engine.info), form)


@router.get("/jobs/{job_id}/events")
async def follow_job(request: Request, job_id: str) -> Response:
    """Stream the job's events from its beginning, or after Last-Event-ID, until it has ended."""
    after_id = _last_event_id(request)
    job = await _job(request, job_id)
    context = context_of(request)
    events = context.jobs.events(job.job_id, job.owner, after_id=after_id)
    return JobEventStream(
        request, events, stopping=context.stopping, keep_alive_seconds=context.stream_keep_alive_seconds
    )


async def _delete_job(request: Request, job_id: str) -> Response:
    """Cancel an unfinished job; erase a finished one with all its data."""
    context = context_of(request)
    job = await _job(request, job_id)
    if job.is_finished:
        await context.runner.erase(job, request_id=request.state.request_id)
        return JSONResponse({"job_id": job.job_id, "status": job.status, "erased": True})
    ended = await context.runner.cancel(job.job_id, job.owner, request_id=request.state.request_id)
    status = ended.status if ended is not None else "cancelled"
    return JSONResponse({"job_id": job.job_id, "status": status, "erased": False})


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel an unfinished job; a finished one stays as it is, which the answer's status shows."""
    job = await context_of(request).runner.cancel(
        job_id, owner_of(request), request_id=request.state.request_id
    )
    if job is None:
        raise _not_found()
    return JSONResponse({"job_id": job.job_id, "status": job.status, "erased": False})


@router.post("/jobs/{job_id}/retry")
async def retry_job(request: Request, job_id: str) -> Response:
    """Queue a failed job again, as long as its recording is kept."""
    job = await context_of(request).runner.retry(
        job_id, owner_of(request), request_id=request.state.request_id
    )
    if job is None:
        raise _not_found()
    return JSONResponse(accepted_body(job), status_code=202, headers={"location": f"/jobs/{job.job_id}"})


async def _job(request: Request, job_id: str) -> Job:
    job = await context_of(request).jobs.get(job_id, owner_of(request))
    if job is None:
        raise _not_found()
    return job


def _not_found() -> ApiError:
    return ApiError(404, "job_not_found", "There is no such job, or its time is over.", param="job_id")


def _given(request: Request, name: str) -> str | None:
    return request.query_params.get(name)


def _status(request: Request) -> JobStatus | None:
    wanted = _given(request, "status")
    for status in get_args(JobStatus):
        if wanted == status:
            return status  # type: ignore[no-any-return]  # get_args is not typed
    if wanted is not None:
        raise bad_request(
            "invalid_parameter", f"status must be one of {', '.join(get_args(JobStatus))}.", "status"
        )
    return None


def _limit(request: Request) -> int:
    text = _given(request, "limit")
    if text is None:
        return DEFAULT_PAGE
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise bad_request("invalid_parameter", f"limit must be from 1 to {MAX_PAGE}.", "limit")
    return int(text)


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise bad_request(
            "invalid_parameter", "Last-Event-ID must be an id of this job's events.", "last-event-id"
        )
    return int(text)
