"""Asynchronous work: submit a recording, ask for it later. A job is seen by its owner only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.errors import ApiError
from server.jobs.job import Job
from server.parts import owner_of, parts_of
from server.routes.bodies import answer_headers, job_result_body
from server.routes.form import check_model, read_options

router = APIRouter()


@router.post("/transcribe")
async def submit_job(request: Request) -> Response:
    """Take a recording (field `audio` or `file`) and answer 202 at once."""
    parts = parts_of(request)
    parts.engine.check_usable()
    upload = await parts.uploads.receive(request, file_fields=("audio", "file"))
    try:
        options = read_options(upload.fields)
        if wanted := upload.fields.text("model"):
            check_model(wanted, await parts.engine.wait_ready())
        job = await parts.runner.submit(upload, options, owner=owner_of(request))
    except BaseException:
        upload.delete()
        raise
    location = f"/jobs/{job.job_id}"
    return JSONResponse(
        {"job_id": job.job_id, "status": job.status, "created_at": int(job.created_at)},
        status_code=202,
        headers={"location": location},
    )


@router.get("/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """Where a job stands, with its result when it is there."""
    parts = parts_of(request)
    job = await parts.jobs.get(job_id, owner_of(request))
    if job is None:
        raise ApiError(404, "job_not_found", "There is no such job, or its time is over.", param="job_id")
    info = parts.engine.info
    warnings = job.transcript.warnings if job.transcript is not None else ()
    return JSONResponse(_job_body(job), headers=answer_headers(info, warnings) if info is not None else None)


def _job_body(job: Job) -> dict[str, Any]:
    total = job.audio_seconds_total
    fraction = min(1.0, job.audio_seconds_done / total) if total else (1.0 if job.is_finished else 0.0)
    return {
        "job_id": job.job_id,
        "status": job.status,
        "created_at": int(job.created_at),
        "started_at": int(job.started_at) if job.started_at is not None else None,
        "finished_at": int(job.finished_at) if job.finished_at is not None else None,
        "progress": {
            "audio_seconds_done": round(job.audio_seconds_done, 3),
            "audio_seconds_total": round(total, 3) if total is not None else None,
            "fraction": round(fraction, 4),
        },
        "demo": job.is_demo,
        "result": job_result_body(job.transcript) if job.transcript is not None else None,
        "error": None
        if job.failure is None
        else {
            "message": job.failure.message,
            "type": job.failure.type,
            "param": job.failure.param,
            "code": job.failure.code,
        },
    }
