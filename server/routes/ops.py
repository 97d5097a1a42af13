"""For those who run the server or write to it: is the process alive, can it transcribe, what does it take.

/docs has a router of its own, because it is served only where the operator asked for it.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response

from server.errors import ENGINE_ERROR_RULES, ApiError, as_api_error
from server.parts import parts_of
from server.routes.bodies import answer_headers
from server.routes.openapi.document import openapi_document

router = APIRouter()
docs_router = APIRouter()


@router.get("/health/live")
async def live() -> Response:
    """A bare 200, open to all: the process answers."""
    return Response(status_code=200)


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """200 with the model, or 503 with the reason."""
    engine = parts_of(request).engine
    info = engine.info
    if engine.state == "ready" and info is not None:
        body = {"status": "ready", "model": info.model_id, "demo": info.is_demo, "device": info.device}
        return JSONResponse(body, headers=answer_headers(info))
    if engine.failure is not None:
        rule = ENGINE_ERROR_RULES[engine.failure.code]
        raise ApiError(
            503,
            engine.failure.code,
            engine.failure.message,
            retry_after_seconds=rule.retry_after_seconds,
            should_retry=False,
        )
    raise as_api_error(engine.unavailable())


@router.get("/openapi.json")
async def describe(request: Request) -> Response:
    """The description of every address here."""
    parts = parts_of(request)
    # The gate notes a key only where it asked for one.
    needs_key = hasattr(request.state, "key_id")
    return JSONResponse(
        openapi_document(parts.engine.info, needs_key=needs_key, has_docs=parts.settings.docs)
    )


@docs_router.get("/docs")
async def docs() -> Response:
    """A page to read the description with; its script comes from a public host, not from here."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="scribewire")
