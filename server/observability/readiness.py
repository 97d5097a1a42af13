"""Readiness to accept and answer recordings; if not ready, the one reason to fix first.

Requested by load balancers and waiting scripts, so each reason has its own code, and the job store is checked as a
submission would use it, with a write.
"""

from __future__ import annotations

import asyncio
import re

from scribewire.server.engine.client import EngineClient
from scribewire.server.http.errors import ENGINE_ERROR_RULES, ApiError, as_api_error
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.store import JobStore, JobStoreError

STORE_PATIENCE_SECONDS = 5.0
_DOWNLOADING = re.compile(r"\b(download|fetch)", re.IGNORECASE)


async def why_not_ready(engine: EngineClient, uploads: UploadStore, jobs: JobStore) -> ApiError | None:
    """The reason as a 503, or None when the server is ready."""
    if engine.is_closed:
        return _not_ready("server_stopping", "The server is stopping.")
    if engine.failure is not None:
        rule = ENGINE_ERROR_RULES[engine.failure.code]
        return ApiError(
            503,
            engine.failure.code,
            engine.failure.message,
            retry_after_seconds=rule.retry_after_seconds,
            should_retry=False,
        )
    if engine.state != "ready" or engine.info is None:
        return _engine_not_ready(engine)
    if not await asyncio.to_thread(lambda: uploads.has_room):
        return _not_ready("disk_full", "The server has no room on its disk for recordings.")
    return await _store_not_ready(jobs)


def _engine_not_ready(engine: EngineClient) -> ApiError:
    why = as_api_error(engine.unavailable())
    code, message = why.code, why.message
    if engine.breaker == "open":
        code = "engine_resting"
    elif engine.is_stalled:
        code = "engine_stalled"
    elif engine.state == "starting":
        newest = " ".join(engine.stderr_lines()[-1:])
        is_downloading = _DOWNLOADING.search(newest) is not None
        code = "model_downloading" if is_downloading else "model_loading"
        message = "The model is being downloaded." if is_downloading else "The model is loading."
    elif engine.state == "restarting":
        code = "engine_restarting"
    return _not_ready(code, message, why.rule.retry_after_seconds)


async def _store_not_ready(jobs: JobStore) -> ApiError | None:
    try:
        async with asyncio.timeout(STORE_PATIENCE_SECONDS):
            await jobs.check()
    except TimeoutError:
        return _not_ready("job_store_unavailable", "The job store does not answer.")
    except JobStoreError as error:
        return _not_ready(error.code, str(error))
    return None


def _not_ready(code: str, message: str, retry_after_seconds: int | None = None) -> ApiError:
    return ApiError(503, code, message, retry_after_seconds=retry_after_seconds)
