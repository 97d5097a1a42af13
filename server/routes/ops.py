"""For those who run the server: is the process alive, and can it transcribe."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.errors import ENGINE_ERROR_RULES, ApiError
from server.parts import parts_of
from server.routes.bodies import answer_headers

router = APIRouter()


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
    raise ApiError(503, "engine_unavailable", f"The engine is {engine.state}.", retry_after_seconds=5)
