"""Delivers the webhooks of finished jobs, with retries over hours; due deliveries are kept in the job store.

A receiver (host and port) has two attempts at a time and an owner sixteen, each with a time limit, and owners take
turns: one that does not answer delays no other. A server that stops ends running attempts at once: the store makes them
due again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from scribewire.server.jobs.delivery import AttemptResult, Busy, Delivery, host_of
from scribewire.server.jobs.store import JobStore, JobStoreError
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.loops import BackgroundLoops
from scribewire.server.observability.metrics import Metrics, WebhookOutcome
from scribewire.server.webhooks.sender import WebhookSender

CONCURRENT_ATTEMPTS = 32
ATTEMPTS_PER_HOST = 2
ATTEMPTS_PER_OWNER = 16
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0)
"""Pauses after the first, second, ... failed attempt: ten attempts within about 16 hours."""

JITTER = 0.2
_WAIT_SECONDS = 30.0
_PAUSE_SECONDS = 1.0

logger = logging.getLogger("scribewire.webhooks")


class WebhookDispatcher:
    """Takes due deliveries from the store and sends them; lives on one event loop."""

    def __init__(
        self,
        store: JobStore,
        sender: WebhookSender,
        metrics: Metrics,
        loops: BackgroundLoops | None = None,
        *,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
        concurrent_attempts: int = CONCURRENT_ATTEMPTS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._store = store
        self._sender = sender
        self._metrics = metrics
        self._loops = loops or BackgroundLoops()
        self._retry_seconds = retry_seconds
        self._capacity = asyncio.Semaphore(concurrent_attempts)
        self._hosts: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()
        self._uniform = uniform
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to send the store's deliveries; the store is open."""
        self._spawn(self._loops.keep("webhooks", self._keep_dispatching, is_endless=True))

    async def stop(self) -> None:
        """End everything at once; what was not delivered stays due."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="webhooks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_dispatching(self) -> None:
        while True:
            await self._capacity.acquire()
            taken: tuple[Delivery, ...] = ()
            try:
                taken = await self._store.take_callbacks(wait_seconds=_WAIT_SECONDS, busy=self._busy)
            except JobStoreError as error:
                log_event(logger, logging.ERROR, "webhooks_not_taken", code=error.code, message=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                if not taken:
                    self._capacity.release()
            for delivery in taken:
                self._hosts[host_of(delivery.url)] += 1
                self._owners[delivery.owner] += 1
                self._spawn(self._attempt(delivery))

    def _busy(self) -> Busy:
        return Busy(
            [host for host, count in self._hosts.items() if count >= ATTEMPTS_PER_HOST],
            [owner for owner, count in self._owners.items() if count >= ATTEMPTS_PER_OWNER],
        )

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            began = time.monotonic()
            try:
                result = await self._sender.attempt(delivery)
            finally:
                # Before the outcome is recorded, after which the store looks for the next.
                for counts, one in ((self._hosts, host_of(delivery.url)), (self._owners, delivery.owner)):
                    counts[one] -= 1
                    counts += Counter()  # drops what is 0
            retry_seconds = self._pause(delivery, result)
            self._note(delivery, result, retry_seconds, time.monotonic() - began)
            # If the store cannot record it now, the attempt is repeated: better twice than never.
            with contextlib.suppress(JobStoreError):
                await self._store.note_callback(delivery, error=result.error, retry_seconds=retry_seconds)
        except Exception:
            logger.exception("webhook_failed_unexpectedly")
        finally:
            self._capacity.release()

    def _pause(self, delivery: Delivery, result: AttemptResult) -> float | None:
        if result.error is None or result.is_final or delivery.attempt > len(self._retry_seconds):
            return None
        pause = self._retry_seconds[delivery.attempt - 1] * self._uniform(1.0 - JITTER, 1.0 + JITTER)
        return max(pause, result.retry_after_seconds)

    def _note(
        self, delivery: Delivery, result: AttemptResult, retry_seconds: float | None, seconds: float
    ) -> None:
        failed: WebhookOutcome = "given_up" if retry_seconds is None else "tried"
        outcome: WebhookOutcome = "delivered" if result.error is None else failed
        self._metrics.note_webhook(outcome)
        # Neither the URL, which may hold a secret, nor any part of the answer but its status.
        log_event(
            logger,
            logging.INFO if outcome == "delivered" else logging.WARNING,
            "webhook",
            outcome=outcome,
            job_id=delivery.job_id,
            delivery_id=delivery.delivery_id,
            attempt=delivery.attempt,
            status=result.status,
            error=result.error,
            milliseconds=round(seconds * 1000, 1),
            retry_seconds=None if retry_seconds is None else round(retry_seconds, 1),
        )
