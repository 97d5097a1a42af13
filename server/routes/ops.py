"""Routes for operators and developers: liveness, readiness, metrics, and the description of the API.

/docs has its own router, because it is served only where the operator enabled it.
"""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, Response

from scribewire.server.context import context_of
from scribewire.server.http.errors import as_api_error
from scribewire.server.jobs.store import JobStoreError
from scribewire.server.observability.readiness import STORE_PATIENCE_SECONDS, why_not_ready
from scribewire.server.routes.bodies import answer_headers
from scribewire.server.routes.openapi.document import openapi_document

router = APIRouter()
docs_router = APIRouter()


@router.get("/health/live")
async def live() -> Response:
    """An empty 200 without a key: the process answers."""
    return Response(status_code=200)


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """A 200 with the model, or a 503 with the reason."""
    context = context_of(request)
    if (reason := await why_not_ready(context.engine, context.uploads, context.jobs)) is not None:
        raise reason
    info = context.engine.info
    if info is None:
        raise as_api_error(context.engine.unavailable())
    body = {"status": "ready", "model": info.model_id, "demo": info.is_demo, "device": info.device}
    return JSONResponse(body, headers=answer_headers(info))


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus, in its text format or in OpenMetrics where that is requested."""
    context = context_of(request)
    # The other figures are served also when the store fails.
    context.collector.store_stats = None
    with contextlib.suppress(JobStoreError, TimeoutError):
        async with asyncio.timeout(STORE_PATIENCE_SECONDS):
            context.collector.store_stats = await context.jobs.stats()
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(context.metrics.registry), media_type=content_type)


@router.get("/openapi.json")
async def describe(request: Request) -> Response:
    """The OpenAPI document."""
    context = context_of(request)
    # The gate sets a key id only where a key is required.
    needs_key = hasattr(request.state, "key_id")
    return JSONResponse(
        openapi_document(
            context.engine.info,
            needs_key=needs_key,
            has_docs=context.settings.docs,
            has_callbacks=not context.callback_targets.is_empty,
        )
    )


@docs_router.get("/docs")
async def docs() -> Response:
    """A page that shows the OpenAPI document; its script comes from a public host, not from this server."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="scribewire")
