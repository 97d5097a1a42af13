"""The OpenAI-compatible addresses under /v1."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.context import context_of, owner_of
from scribewire.server.http.connection import while_connected
from scribewire.server.http.errors import ApiError
from scribewire.server.intake.form import check_model, model_not_found, names_of, read_transcription_form
from scribewire.server.routes.bodies import answer, answer_headers
from scribewire.server.routes.streaming import TranscriptStream
from scribewire.server.transcription.sharing import RETRY_HEADER

router = APIRouter()

_STARTED_AT = int(time.time())


@router.post("/v1/audio/transcriptions")
async def create_transcription(request: Request) -> Response:
    """Transcribe one recording: answer at its end, or with `stream` send its text as events while it is decoded."""
    context = context_of(request)
    timeout_seconds = context.settings.request_timeout_seconds
    async with AsyncExitStack() as held:
        info = await held.enter_async_context(context.engine.admission())
        upload = await context.uploads.receive(request, file_fields=("file",))
        await held.enter_async_context(upload)
        form = read_transcription_form(upload.fields)
        check_model(form.model, info)
        events = held.enter_context(
            context.shared.transcribe(upload, form.options, owner=owner_of(request), wants_deltas=form.stream)
        )
        headers = {RETRY_HEADER: events.retry} if events.retry is not None else {}
        if form.stream:
            return TranscriptStream(
                request,
                events,
                info,
                held=held.pop_all(),
                more_headers=headers,
                wants_logprobs=form.wants_logprobs,
                wants_segments=form.response_format == "diarized_json",
                timeout_seconds=timeout_seconds,
                first_wait_seconds=context.stream_first_wait_seconds,
                keep_alive_seconds=context.stream_keep_alive_seconds,
            )
        transcript = await while_connected(request, events.transcript(), timeout_seconds=timeout_seconds)
    context.metrics.note_transcript(
        "request", transcript, is_demo=info.is_demo, request_id=request.state.request_id
    )
    response = answer(transcript, info, form)
    response.headers.update(headers)
    return response


@router.post("/v1/audio/translations")
async def create_translation() -> Response:
    """Refuse translation, which the model does not support."""
    raise ApiError(
        400,
        "unsupported_endpoint",
        "This model transcribes and cannot translate; use /v1/audio/transcriptions.",
    )


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List the resident model under its own id and under each of its aliases."""
    info = await context_of(request).engine.wait_ready()
    return JSONResponse(
        {"object": "list", "data": [_model_body(info, name) for name in names_of(info)]},
        headers=answer_headers(info),
    )


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> Response:
    """The resident model by its id or an alias; ids hold slashes."""
    info = await context_of(request).engine.wait_ready()
    if model_id not in names_of(info):
        raise model_not_found(model_id, info)
    return JSONResponse(_model_body(info, model_id), headers=answer_headers(info))


def _model_body(info: ModelInfo, model_id: str) -> dict[str, Any]:
    description = f"{info.parameter_count:,} parameters, {info.weight_bits}-bit weights, on {info.device}"
    if info.is_demo:
        description = (
            f"The bundled demo model: small, for trying things out, not for real transcription. {description}"
        )
    return {
        "id": model_id,
        "object": "model",
        "created": _STARTED_AT,
        "owned_by": "scribewire",
        "demo": info.is_demo,
        "description": description,
        "resident_model": info.model_id,
        "languages": list(info.languages),
    }
