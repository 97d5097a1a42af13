"""Readiness to accept and answer recordings; if not ready, the one reason to fix first.

Requested by load balancers and waiting scripts, so each reason has its own code. What costs a write (a file among the
uploads, one beside the jobs' recordings, a job that is rolled back) is tried in the background, never by a request.
"""

from __future__ import annotations

import asyncio
import re

from scribewire.server.engine.client import EngineClient
from scribewire.server.http.errors import ENGINE_ERROR_RULES, ApiError, as_api_error
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.store import JobStore, JobStoreError
from scribewire.server.observability.loops import BackgroundLoops

PROBE_SECONDS = 5.0
STORE_PATIENCE_SECONDS = 5.0
_DOWNLOADING = re.compile(r"\b(download|fetch)", re.IGNORECASE)


class Readiness:
    """The state of one application's parts, and the newest result of trying a submission's path."""

    def __init__(
        self, engine: EngineClient, uploads: UploadStore, jobs: JobStore, loops: BackgroundLoops
    ) -> None:
        self._engine = engine
        self._uploads = uploads
        self._jobs = jobs
        self._loops = loops
        self._storage_problem: ApiError | None = _not_ready("server_starting", "The server is starting.")

    def why_not(self) -> ApiError | None:
        """The reason as a 503, or None when the server is ready; waits for nothing."""
        return self._why_no_engine() or self._storage_problem or self._why_no_loops()

    async def keep_probing(self) -> None:
        """Try the storage, again and again."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self.probe()

    async def probe(self) -> None:
        """Try what a submission needs of the disk, and keep the result."""
        try:
            async with asyncio.timeout(STORE_PATIENCE_SECONDS):
                await asyncio.to_thread(self._uploads.check)
                await self._jobs.check()
            self._storage_problem = None
        except TimeoutError:
            self._storage_problem = _not_ready("job_store_unavailable", "The job store does not answer.")
        except ApiError as error:
            self._storage_problem = _not_ready(error.code, error.message)
        except JobStoreError as error:
            self._storage_problem = _not_ready(error.code, str(error))

    def _why_no_loops(self) -> ApiError | None:
        if not self._loops.broken:
            return None
        names = ", ".join(sorted(self._loops.broken))
        return _not_ready(
            "background_loop_died",
            f"Work in the background died and is started again; the log says why: {names}.",
        )

    def _why_no_engine(self) -> ApiError | None:
        engine = self._engine
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
        return _engine_not_ready(engine) if engine.state != "ready" or engine.info is None else None


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


def _not_ready(code: str, message: str, retry_after_seconds: int | None = None) -> ApiError:
    return ApiError(503, code, message, retry_after_seconds=retry_after_seconds)
