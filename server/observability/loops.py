"""Background loops that run as long as the server: one that dies is logged, told by readiness, and started again.

What a loop leaves behind when it dies is its own affair: it must release what it holds in `finally`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from scribewire.server.observability.logs import log_event

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Pauses after the first, second, ... death in a row."""

STEADY_SECONDS = 5.0
"""Running time after which a loop that was started again counts as sound."""

logger = logging.getLogger("scribewire.loops")


class BackgroundLoops:
    """The loops of one application, on its event loop."""

    def __init__(
        self, *, pauses_seconds: tuple[float, ...] | None = None, steady_seconds: float = STEADY_SECONDS
    ) -> None:
        self._pauses_seconds = pauses_seconds or PAUSES_SECONDS
        self._steady_seconds = steady_seconds
        self.broken: dict[str, str] = {}
        """Loops that died and have not run for long since then, with the types of their last errors."""

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run a loop that never returns, until its task is cancelled."""
        return asyncio.create_task(self.keep(name, work, is_endless=True), name=name)

    async def keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, is_endless: bool = False
    ) -> None:
        """Run a loop until it returns; one that is endless never should."""
        loop, deaths = asyncio.get_running_loop(), 0
        while True:
            steady = loop.call_later(self._steady_seconds, self.broken.pop, name, None)
            began = loop.time()
            try:
                await work()
                if not is_endless:
                    self.broken.pop(name, None)
                    return
                error = "it returned"
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled the loop: it waited for something that was cancelled.
                error = "CancelledError"
            except Exception as caught:
                error = type(caught).__name__
                logger.exception("background_loop_died")
            finally:
                steady.cancel()
            deaths = 1 if loop.time() - began >= self._steady_seconds else deaths + 1
            pause = self._pauses_seconds[min(deaths, len(self._pauses_seconds)) - 1]
            self.broken[name] = error
            log_event(
                logger, logging.ERROR, "background_loop_restarts", loop=name, error=error, seconds=pause
            )
            await asyncio.sleep(pause)
