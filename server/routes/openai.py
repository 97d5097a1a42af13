"""The OpenAI-compatible addresses under /v1."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine.protocol.config import ModelInfo
from engine.protocol.messages import AudioSource
from engine.protocol.transcript import Transcript
from server.errors import ApiError
from server.parts import owner_of, parts_of
from server.routes.bodies import answer_headers, json_body, verbose_json_body
from server.routes.disconnect import while_connected
from server.routes.form import (
    ResponseFormat,
    check_model,
    is_name_of,
    model_not_found,
    read_transcription_form,
)
from server.transcript_log import log_transcript

router = APIRouter()

_STARTED_AT = int(time.time())


@router.post("/v1/audio/transcriptions")
async def create_transcription(request: Request) -> Response:
    """Transcribe one recording and wait for it."""
    parts = parts_of(request)
    parts.engine.check_admission()
    upload = await parts.uploads.receive(request, file_fields=("file",))
    with upload:
        form = read_transcription_form(upload.fields)
        info = await parts.engine.wait_ready()
        check_model(form.model, info)
        transcript = await while_connected(
            request,
            parts.engine.transcribe(
                AudioSource(str(upload.path)), form.options, owner=owner_of(request), priority="interactive"
            ),
            timeout_seconds=parts.settings.request_timeout_seconds,
        )
    log_transcript(transcript, is_demo=info.is_demo, request_id=request.state.request_id)
    return _answer(transcript, info, form.response_format)


def _answer(transcript: Transcript, info: ModelInfo, response_format: ResponseFormat) -> Response:
    headers = answer_headers(info, transcript.warnings)
    if response_format == "text":
        return PlainTextResponse(transcript.text + "\n", headers=headers)
    if response_format == "verbose_json":
        return JSONResponse(verbose_json_body(transcript), headers=headers)
    return JSONResponse(json_body(transcript, info), headers=headers)


@router.post("/v1/audio/translations")
async def create_translation() -> Response:
    """Refused: the model does not translate."""
    raise ApiError(
        400,
        "unsupported_endpoint",
        "This model transcribes and cannot translate; use /v1/audio/transcriptions.",
    )


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The resident model."""
    info = await parts_of(request).engine.wait_ready()
    return JSONResponse(
        {"object": "list", "data": [_model_body(info, info.model_id)]}, headers=answer_headers(info)
    )


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> Response:
    """The resident model by its id or an alias; ids hold slashes."""
    info = await parts_of(request).engine.wait_ready()
    if not is_name_of(model_id, info):
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
