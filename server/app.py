"""The application: its components built and connected, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from scribewire.server.access.gate import CrossOrigin, Gate
from scribewire.server.access.keys import KeyStore
from scribewire.server.access.limits import KeyLimits, StreamLimits
from scribewire.server.context import ServerContext
from scribewire.server.engine.client import EngineClient
from scribewire.server.http.errors import error_response, install_error_handlers
from scribewire.server.http.listening import connection_cap, descriptor_limit
from scribewire.server.http.request_scope import CLIENT_GONE_STATUS, RequestScope, UnreadBody
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.refusals import as_refusal
from scribewire.server.jobs.runner import JobRunner
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import JobStoreError, StoreRules
from scribewire.server.observability.collector import ServerCollector
from scribewire.server.observability.loops import BackgroundLoops
from scribewire.server.observability.metrics import Metrics
from scribewire.server.observability.readiness import Readiness
from scribewire.server.routes import jobs, openai, ops
from scribewire.server.routes.openapi import custom_openapi
from scribewire.server.settings.fields import Settings
from scribewire.server.speakers.child import Speakers
from scribewire.server.transcode.pool import TranscodePool, Transcoder
from scribewire.server.transcription.service import TranscriptionService
from scribewire.server.transcription.sharing import SharedWork
from scribewire.server.webhooks.dispatcher import WebhookDispatcher
from scribewire.server.webhooks.sender import WebhookSender
from scribewire.server.webhooks.signing import WebhookSecret
from scribewire.server.webhooks.targets import AllowedTargets

logger = logging.getLogger("scribewire.app")


def create_app(
    settings: Settings,
    engine: EngineClient,
    key_store: KeyStore,
    *,
    transcoder: Transcoder | None = None,
    speakers: Speakers | None = None,
) -> FastAPI:
    """The application over components that it starts and stops with its lifespan.

    transcoder: None for the pool. speakers: None for pyannote.audio, where it is installed.
    """
    loops = BackgroundLoops()
    limits = KeyLimits(
        requests_per_minute=settings.key_requests_per_minute,
        concurrent_uploads=settings.key_concurrent_uploads,
        queued_recordings=settings.key_queued_recordings,
    )
    uploads = UploadStore.from_settings(settings, limits)
    store = SqliteJobStore(settings.data, StoreRules.from_settings(settings), in_memory=not settings.store)
    transcoder = transcoder or TranscodePool.from_settings(settings, loops)
    metrics = Metrics()
    speakers = speakers or Speakers.from_settings(settings)
    service = TranscriptionService(engine, transcoder, speakers, metrics)
    shared = SharedWork(service.transcribe, window_seconds=settings.retry_window_seconds)
    targets = AllowedTargets(settings.allow_callback)
    readiness = Readiness(engine, uploads, store, loops)
    dispatcher = WebhookDispatcher(
        store, WebhookSender(targets, WebhookSecret(settings.data)), metrics, loops
    )
    runner = JobRunner(
        engine, service, store, limits, metrics, loops, concurrent_jobs=settings.max_running_jobs
    )

    async def drain() -> None:
        # Closing the connections has used part of this time already.
        await runner.stop(engine.drain_seconds_left(settings.drain_seconds))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as ends:
            try:
                # First, because it refuses a folder that another server uses.
                await store.open()
                ends.push_async_callback(store.close)
                ends.callback(uploads.close)
                for end in (engine.stop, transcoder.stop, speakers.stop, shared.stop, dispatcher.stop, drain):
                    ends.push_async_callback(end)
                uploads.open()
                engine.start(loops)
                await transcoder.start()
                await runner.start()
                dispatcher.start()
                await readiness.probe()
                ends.callback(loops.start("readiness-probe", readiness.keep_probing).cancel)
            except Exception as error:
                app.state.start_failure = _start_failure(error, settings)
                raise
            yield

    app = FastAPI(
        title="scribewire",
        lifespan=lifespan,
        # The OpenAPI document has its own route, behind the key; pages that show it load scripts from other hosts.
        openapi_url=None,
        # A trailing slash is the same address (RequestScope); a redirect would name http behind a proxy that ends TLS.
        redirect_slashes=False,
    )
    app.state.context = ServerContext(
        settings,
        engine,
        uploads,
        store,
        runner,
        service,
        shared,
        speakers,
        metrics,
        ServerCollector(metrics.registry, engine, uploads),
        readiness,
        targets,
        StreamLimits(connection_cap(settings, descriptor_limit()), of_one=settings.key_streams),
        asyncio.Event(),
    )
    routers = (openai.router, jobs.router, ops.router)
    for router in routers:
        app.include_router(router)
    install_error_handlers(app, [route for router in routers for route in router.routes])
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_exception_handler(JobStoreError, _on_job_store_error)

    def describe() -> dict[str, Any]:
        info = engine.info
        names = () if info is None or engine.takes_any_name else engine.names_of(info)
        return custom_openapi(routers, info, names, has_callbacks=not targets.is_empty)

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's own way to a description of one's own
    # The last middleware added is the outermost.
    app.add_middleware(Gate, settings=settings, key_store=key_store)
    app.add_middleware(RequestScope, metrics=metrics)
    if settings.allow_origin:
        # Around everything that answers, so that a page can read refusals and failures too.
        app.add_middleware(CrossOrigin, settings=settings)
    app.add_middleware(UnreadBody)
    return app


def _start_failure(error: Exception, settings: Settings) -> str:
    """One line for a component that did not start."""
    if isinstance(error, JobStoreError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or settings.data} cannot be used: {error.strerror or error}; see --data"
    logger.error("start_failed", exc_info=error)
    return "the server cannot start; the log says why"


async def _on_client_gone(request: Request, error: Exception) -> Response:
    request.state.client_gone = True
    return Response(status_code=CLIENT_GONE_STATUS)


async def _on_job_store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, JobStoreError)
    request.state.error_code = error.code
    return error_response(as_refusal(error))
