"""The OpenAI-compatible addresses under /v1."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from scribewire.engine.protocol.config import ModelInfo
from scribewire.server.context import client_of, context_of, owner_of
from scribewire.server.http.answers import Answer, UnixSeconds, about
from scribewire.server.http.errors import ApiError
from scribewire.server.http.request_scope import while_connected
from scribewire.server.intake.form import FormFields
from scribewire.server.intake.request import TranscriptionRequest
from scribewire.server.routes.documents import answer, answer_headers, json_answer, made_apart
from scribewire.server.routes.openapi import (
    ABOUT_MODEL,
    FORBIDDEN_FILE,
    ReadingRoute,
    described,
    event_stream,
    header,
    transcripts,
)
from scribewire.server.routes.streaming import TranscriptStream
from scribewire.server.transcription.sharing import RETRY_HEADER

router = APIRouter(tags=["openai"], route_class=ReadingRoute)

_STARTED_AT = int(time.time())

EVENT_TYPES = ("transcript.text.delta", "transcript.text.segment", "transcript.text.done")
EVENT_EXAMPLE = (
    'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":"Hello"}\n\n'
    ": keep-alive\n\n"
    'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":" there."}\n\n'
    'event: transcript.text.done\ndata: {"type":"transcript.text.done","text":"Hello there.",'
    '"languages":[{"code":"en"}],"usage":{"type":"tokens","input_tokens":22,"input_token_details":{"audio_tokens":13,"text_tokens":9},"output_tokens":4,'
    '"total_tokens":26}}\n\n'
    "data: [DONE]\n\n"
)


WORDS_LEFT_OUT = "json has no word times, which were asked for; response_format=verbose_json has"


class Model(Answer):
    """The resident model under one of its names."""

    id: str
    object: Literal["model"]
    created: UnixSeconds
    owned_by: str
    demo: bool = about("True for the bundled demo model.")
    description: str
    resident_model: str = about("The resident model's id.")
    languages: list[str]


class ModelList(Answer):
    """The resident model under each of its names."""

    object: Literal["list"]
    data: list[Model]


@router.post(
    "/v1/audio/transcriptions",
    openapi_extra=described(
        "The transcript in the requested format.",
        {**transcripts(), **event_stream("StreamEvent", EVENT_EXAMPLE, EVENT_TYPES)},
        headers={**ABOUT_MODEL, RETRY_HEADER: header("Retry")},
        request=TranscriptionRequest,
        refusals={403: FORBIDDEN_FILE, 404: None, 429: None, 504: None, 507: None},
    ),
)
async def create_transcription(request: Request) -> Response:
    """Transcribe one recording and wait for the transcript, or with `stream` for its text as events.

    Disconnecting cancels the request. The same recording sent again by the same key with the same parameters within the
    retry window (10 minutes unless set otherwise) is not decoded again.
    """
    context = context_of(request)
    timeout_seconds = context.settings.request_timeout_seconds
    async with AsyncExitStack() as held:
        info = await held.enter_async_context(context.engine.admission())
        upload = await context.uploads.receive(request, file_fields=("file",))
        await held.enter_async_context(upload)
        fields, notices = upload.fields, tuple[str, ...]()
        if _is_subtitle_edit(request, fields):
            fields, notices = fields.without("timestamp_granularities"), (WORDS_LEFT_OUT,)
        wanted = TranscriptionRequest.of(fields)
        if wanted.stream:
            held.enter_context(context.streams.hold(client_of(request)))
        model = getattr(request.state, "deployment", None) or wanted.model
        options = wanted.options(context.engine.resolve_model(model, info))
        events = held.enter_context(
            context.shared.transcribe(upload, options, owner=owner_of(request), wants_deltas=wanted.stream)
        )
        headers = {RETRY_HEADER: events.retry} if events.retry is not None else {}
        if wanted.stream:
            return TranscriptStream(
                request,
                events,
                info,
                held=held.pop_all(),
                more_headers=headers,
                notices=notices,
                wants_logprobs=wanted.wants_logprobs,
                wants_segments="speakers" in wanted.format.wants,
                timeout_seconds=timeout_seconds,
                first_wait_seconds=context.stream_first_wait_seconds,
                keep_alive_seconds=context.stream_keep_alive_seconds,
            )
        transcript = await while_connected(request, events.transcript(), timeout_seconds=timeout_seconds)
    context.metrics.note_transcript(
        "request", transcript, is_demo=info.is_demo, request_id=request.state.request_id
    )
    told = replace(transcript, warnings=(*transcript.warnings, *notices))
    make = partial(
        answer,
        told,
        info,
        wanted.format,
        options,
        by_duration=model == "whisper-1",
        with_segments=wanted.timestamp_granularities != ("word",),
    )
    response = await made_apart(told, make)
    response.headers.update(headers)
    return response


def _is_subtitle_edit(request: Request, fields: FormFields) -> bool:
    """True for the form of Subtitle Edit, which asks for word times of json and sends no User-Agent."""
    return (
        "user-agent" not in request.headers
        and fields.value("response_format") == "json"
        and sorted(map(str, fields.items("timestamp_granularities"))) == ["segment", "word"]
    )


@router.post(
    "/v1/audio/translations",
    openapi_extra=described(refusals={400: "Always, with the code unsupported_endpoint."}),
)
async def create_translation() -> Response:
    """Refused: the model does not translate."""
    raise ApiError(
        400,
        "unsupported_endpoint",
        "This model transcribes and cannot translate; use /v1/audio/transcriptions.",
    )


@router.get("/v1/models", openapi_extra=described("The names.", ModelList, headers=ABOUT_MODEL))
async def list_models(request: Request) -> Response:
    """The resident model under its id and each alias."""
    engine = context_of(request).engine
    info = await engine.wait_ready()
    models = ModelList(object="list", data=[_model(info, name) for name in engine.names_of(info)])
    return json_answer(models, headers=answer_headers(info))


@router.get(
    "/v1/models/{model_id:path}",
    openapi_extra=described("The model.", Model, headers=ABOUT_MODEL, refusals={404: None}),
)
async def get_model(request: Request, model_id: str) -> Response:
    """The resident model by its id or an alias; ids may hold slashes, encoded or not."""
    engine = context_of(request).engine
    info = await engine.wait_ready()
    engine.resolve_model(model_id, info)
    return json_answer(_model(info, model_id), headers=answer_headers(info))


def _model(info: ModelInfo, name: str) -> Model:
    description = f"{info.parameter_count:,} parameters, {info.weight_bits}-bit weights, on {info.device}"
    if info.is_demo:
        description = (
            f"The bundled demo model: small, for trying things out, not for real transcription. {description}"
        )
    return Model(
        id=name,
        object="model",
        created=_STARTED_AT,
        owned_by="scribewire",
        demo=info.is_demo,
        description=description,
        resident_model=info.model_id,
        languages=list(info.languages),
    )
