"""Routes for operators and developers: liveness, readiness, metrics, and the description of the API."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, Response

from scribewire.server.context import context_of
from scribewire.server.http.answers import Answer
from scribewire.server.http.errors import as_api_error
from scribewire.server.jobs.store import JobStoreError
from scribewire.server.observability.readiness import STORE_PATIENCE_SECONDS
from scribewire.server.routes.documents import answer_headers, json_answer
from scribewire.server.routes.openapi import ABOUT_MODEL, DOCUMENT, ReadingRoute, described, texts

router = APIRouter(tags=["operation"], route_class=ReadingRoute)


class Readiness(Answer):
    """A server that accepts recordings, and its model."""

    status: Literal["ready"]
    model: str
    demo: bool
    device: str


_LIVE = described("The status alone.", needs_key=False)


@router.get("/health", name="get_health", openapi_extra=_LIVE)
@router.get("/health/live", name="live", openapi_extra=_LIVE)
async def live() -> Response:
    """The process answers, without a key; /health and /health/live are the same."""
    return Response(status_code=200)


@router.get(
    "/health/ready", openapi_extra=described("Ready.", Readiness, headers=ABOUT_MODEL, needs_key=False)
)
async def ready(request: Request) -> Response:
    """The model is loaded and recordings are accepted; 503 with the reason otherwise.

    Answered from the last result of a probe in the background, at most some seconds old; without a key.
    """
    context = context_of(request)
    if (reason := context.readiness.why_not()) is not None:
        raise reason
    info = context.engine.info
    if info is None:
        raise as_api_error(context.engine.unavailable())
    body = Readiness(status="ready", model=info.model_id, demo=info.is_demo, device=info.device)
    return json_answer(body, headers=answer_headers(info))


@router.get(
    "/metrics",
    openapi_extra=described(
        "Every metric with its help text.", texts("text/plain", "application/openmetrics-text")
    ),
)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus, in its text format or in OpenMetrics where that is requested.

    Requires a key where the other addresses do.
    """
    context = context_of(request)
    # The other figures are served also when the store fails.
    context.collector.store_stats = None
    with contextlib.suppress(JobStoreError, TimeoutError):
        async with asyncio.timeout(STORE_PATIENCE_SECONDS):
            context.collector.store_stats = await context.jobs.stats()
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    return Response(encode(context.metrics.registry), media_type=content_type)


@router.get("/openapi.json", openapi_extra=described("The description.", {"application/json": DOCUMENT}))
async def describe(request: Request) -> Response:
    """This description."""
    document = await asyncio.to_thread(request.app.openapi)
    # The gate sets a key id only where a key is required. An empty requirement beside it would make it optional.
    security: list[dict[str, list[str]]] = [{"bearer": []}] if hasattr(request.state, "key_id") else []
    return JSONResponse({**document, "security": security})
