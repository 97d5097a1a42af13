"""The application: where the parts meet, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.auth import Gate
from server.engine_client import EngineClient
from server.errors import install_error_handlers
from server.jobs.memory_store import MemoryJobStore
from server.jobs.runner import JobRunner
from server.keys import KeyStore
from server.parts import Parts
from server.request_scope import CLIENT_GONE_STATUS, RequestScope
from server.routes import jobs, openai, ops
from server.settings import Settings
from server.unread_body import UnreadBody
from server.uploads import UploadStore


def create_app(settings: Settings, engine: EngineClient, key_store: KeyStore) -> FastAPI:
    """The application over an engine that it starts and stops with its lifespan."""
    uploads = UploadStore(
        settings.data,
        max_upload_bytes=settings.max_upload_bytes,
        max_concurrent_uploads=settings.max_concurrent_uploads,
        idle_seconds=settings.upload_idle_seconds,
    )
    store = MemoryJobStore(max_jobs=settings.max_jobs, retention_seconds=settings.job_retention_seconds)
    runner = JobRunner(engine, store)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        uploads.open()
        try:
            engine.start()
            yield
        finally:
            await runner.stop()
            await engine.stop()
            uploads.close()

    app = FastAPI(
        title="scribewire",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
    )
    app.state.parts = Parts(settings, engine, uploads, store, runner)
    install_error_handlers(app)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    for router in (openai.router, jobs.router, ops.router):
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(Gate, settings=settings, key_store=key_store)
    app.add_middleware(UnreadBody)
    app.add_middleware(RequestScope)
    return app


async def _on_client_gone(request: Request, error: Exception) -> Response:
    request.state.client_gone = True
    return Response(status_code=CLIENT_GONE_STATUS)
