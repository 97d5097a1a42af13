"""Keeps one engine worker alive: starts it, listens to it, notices its death at once, starts the next.

Two threads per worker do the blocking pipe work and a third drains its standard error, so that neither a hung worker
nor one killed in the middle of a message can stop the event loop. Everything else happens on the loop.
A model that cannot be loaded is not tried again: starting anew would not mend it. Handing a dead worker's requests
out again is not done here; the listener is told of the death and fails them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

from engine.protocol.config import EngineConfig, ModelInfo
from engine.protocol.errors import EngineError, EngineFault, error_from_code
from engine.protocol.launch import WORKER_MODULE, WorkerHandle, start_worker
from engine.protocol.messages import (
    PROTOCOL_VERSION,
    FromWorker,
    LoadFailed,
    Ready,
    Shutdown,
    ToWorker,
)
from server.logs import log_event

EngineState = Literal["stopped", "starting", "ready", "restarting", "failed", "stopping"]

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
STDERR_BYTES = 64 << 10
MAX_DEATHS_BEFORE_FIRST_READY = 3
"""A worker that never once became ready and dies so often is given up on, as a model that fails to load is."""

_STEADY_SECONDS = 60.0
_LAST_WORDS_SECONDS = 1.0
_SHUTDOWN_SECONDS = 2.0
_EXIT_GRACE_SECONDS = 0.5
_TERMINATE_SECONDS = 3.0
_STDERR_LINES_LOGGED = 20

logger = logging.getLogger("scribewire.engine")


class EngineListener(Protocol):
    """Who is told, on the event loop, what a worker says and does."""

    def on_message(self, message: FromWorker) -> None:
        """The worker sent something other than its handshake."""

    def on_state(self, state: EngineState) -> None:
        """The state changed."""

    def on_death(self, reason: str) -> None:
        """The worker is gone; whatever it had in hand has no other answer."""


class EngineSupervisor:
    """Owner of the worker process and of its state."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        module: str = WORKER_MODULE,
        load_timeout_seconds: float = 1800.0,
        backoff_seconds: Sequence[float] = BACKOFF_SECONDS,
    ) -> None:
        self._config = config
        self._module = module
        self._load_timeout_seconds = load_timeout_seconds
        self._backoff_seconds = tuple(backoff_seconds)
        self._listener: EngineListener | None = None
        self._worker: _Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._was_ready = False
        self._stop_requested = asyncio.Event()
        self.state: EngineState = "stopped"
        self.info: ModelInfo | None = None
        self.failure: EngineError | None = None
        """Why the state is `failed`."""
        self.started_workers = 0

    @property
    def process_id(self) -> int | None:
        """The living worker's process id."""
        return self._worker.process_id if self._worker is not None else None

    def last_words(self) -> list[str]:
        """The newest lines of the living worker's standard error."""
        return self._worker.stderr_lines() if self._worker is not None else []

    def start(self, listener: EngineListener) -> None:
        """Begin to keep a worker alive, on the running event loop."""
        if self._task is not None:
            raise RuntimeError("the supervisor was started already")
        self._listener = listener
        self._set_state("starting")
        self._task = asyncio.create_task(self._keep_alive(), name="engine-supervisor")

    def send(self, message: ToWorker) -> bool:
        """Hand a message to the worker without waiting; False when there is none to take it."""
        if self._worker is None:
            return False
        self._worker.send(message)
        return True

    async def stop(self, drain_seconds: float) -> None:
        """Ask the worker to finish within the time, then terminate it, then kill it. Again is no error."""
        if self._task is None or self.state == "stopped":
            return
        can_drain = self.state == "ready"
        self._set_state("stopping")
        self._stop_requested.set()
        worker = self._worker
        if worker is not None:
            worker.send(Shutdown(drain_seconds=drain_seconds))
            # A worker that still loads its model does not listen, and has nothing to finish.
            if not can_drain or not await worker.wait_gone(drain_seconds + _SHUTDOWN_SECONDS):
                worker.hang_up()
        await self._task
        self._set_state("stopped")

    def _set_state(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            log_event(logger, logging.DEBUG, "engine_state", state=state)
            if self._listener is not None:
                self._listener.on_state(state)

    async def _keep_alive(self) -> None:
        deaths_in_a_row = 0
        while self.state not in ("failed", "stopping"):
            if deaths_in_a_row:
                step = min(deaths_in_a_row, len(self._backoff_seconds)) - 1
                await self._pause(self._backoff_seconds[step])
            if self.state == "stopping":
                break
            lived_seconds = await self._run_one_worker()
            deaths_in_a_row = 1 if lived_seconds > _STEADY_SECONDS else deaths_in_a_row + 1
            if self.state in ("failed", "stopping"):
                break
            if not self._was_ready and deaths_in_a_row >= MAX_DEATHS_BEFORE_FIRST_READY:
                self.failure = EngineFault(
                    f"the engine died {deaths_in_a_row} times before it was ready; the log has its last words"
                )
                self._set_state("failed")

    async def _run_one_worker(self) -> float:
        """Start a worker and stay with it until it is gone; returns for how many seconds it was ready."""
        self._set_state("restarting" if self._was_ready else "starting")
        try:
            worker = _Worker(await asyncio.to_thread(start_worker, self._config, module=self._module))
        except OSError as error:  # out of processes, descriptors or memory, which may pass
            log_event(logger, logging.ERROR, "engine_not_started", error=str(error))
            return 0.0
        self._worker = worker
        if self.state == "stopping":
            worker.hang_up()
        self.started_workers += 1
        ready_at: float | None = None
        try:
            first = await worker.next_message(self._load_timeout_seconds)
            if isinstance(first, LoadFailed):
                self._give_up(error_from_code(first.code, first.message))
            elif isinstance(first, Ready) and first.protocol_version != PROTOCOL_VERSION:
                self._give_up(EngineFault("the engine worker speaks another protocol version"))
            elif isinstance(first, Ready):
                ready_at = time.monotonic()
                self._become_ready(first)
                while (message := await worker.next_message(None)) is not None:
                    self._tell(message)
        except TimeoutError:
            log_event(logger, logging.ERROR, "engine_load_timeout", seconds=self._load_timeout_seconds)
        finally:
            self._worker = None
            if self.state == "ready":
                # At once, so that what arrives from now on waits for the next worker.
                self._set_state("restarting")
            exit_code = await worker.end()
            self._report_death(worker, exit_code)
        return time.monotonic() - ready_at if ready_at is not None else 0.0

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_requested.wait()

    def _tell(self, message: FromWorker) -> None:
        try:
            if self._listener is not None:
                self._listener.on_message(message)
        except Exception:
            # One request's callback must not end the watch over all of them.
            logger.exception("engine_message_not_handled")

    def _become_ready(self, ready: Ready) -> None:
        self._was_ready = True
        self.info = ready.info
        if self.state == "stopping":
            return
        log_event(
            logger,
            logging.INFO,
            "engine_ready",
            process_id=ready.process_id,
            model=ready.info.model_id,
            demo=ready.info.is_demo,
            device=ready.info.device,
            dtype=ready.info.dtype,
            load_seconds=round(ready.info.load_seconds, 3),
            resident_bytes=ready.info.resident_bytes,
        )
        self._set_state("ready")

    def _give_up(self, failure: EngineError) -> None:
        self.failure = failure
        log_event(logger, logging.ERROR, "engine_load_failed", code=failure.code, message=failure.message)
        if self.state != "stopping":
            self._set_state("failed")

    def _report_death(self, worker: _Worker, exit_code: int | None) -> None:
        is_expected = self.state in ("stopping", "failed")
        log_event(
            logger,
            logging.DEBUG if is_expected else logging.ERROR,
            "engine_gone" if is_expected else "engine_died",
            exit_code=exit_code,
            process_id=worker.process_id,
            last_words=None if is_expected else worker.stderr_lines(),
        )
        if self._listener is not None:
            self._listener.on_death(f"the engine's process ended with {_exit_in_words(exit_code)}")


def _exit_in_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "an unknown status"
    return f"signal {-exit_code}" if exit_code < 0 else f"status {exit_code}"


class _Worker:
    """One process with its threads; everything but the thread bodies runs on the event loop."""

    def __init__(self, handle: WorkerHandle) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._gone = asyncio.Event()
        self._stderr: deque[bytes] = deque()
        self._stderr_size = 0
        self._threads = [
            threading.Thread(target=body, name=f"engine-{name}", daemon=True)
            for name, body in (("reader", self._read), ("writer", self._write), ("stderr", self._drain))
        ]
        self.process_id = handle.process.pid
        for thread in self._threads:
            thread.start()
        self._loop.add_reader(handle.process.sentinel, self._on_exit)

    def send(self, message: ToWorker) -> None:
        self._outbox.put(message)

    def hang_up(self) -> None:
        """Expect nothing more: `next_message` returns None once what came before is read."""
        self._inbox.put_nowait(None)

    async def next_message(self, timeout_seconds: float | None) -> FromWorker | None:
        """The next message, or None when there will be no other; raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            return await self._inbox.get()

    async def wait_gone(self, timeout_seconds: float) -> bool:
        """Whether the process ended within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    async def end(self) -> int | None:
        """Make sure that the process is gone and let go of everything; returns its exit code."""
        process = self._handle.process
        # An ending worker closes its pipe a moment before it exits; terminating it then would hide why it ended.
        if not await self.wait_gone(_EXIT_GRACE_SECONDS):
            process.terminate()
            if not await self.wait_gone(_TERMINATE_SECONDS):
                process.kill()
                await self.wait_gone(_TERMINATE_SECONDS)
        self._loop.remove_reader(process.sentinel)
        self._outbox.put(None)
        self._unblock()
        process.join(0.1)
        exit_code = process.exitcode
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 0.5)
        # Closing a descriptor under a thread that still uses it would hand it to someone else's file.
        if not any(thread.is_alive() for thread in self._threads):
            self._handle.close()
            if exit_code is not None:
                process.close()
        return exit_code

    def stderr_lines(self) -> list[str]:
        text = b"".join(self._stderr).decode("utf-8", "replace").replace("\r", "\n")
        return [line.rstrip() for line in text.split("\n") if line.strip()][-_STDERR_LINES_LOGGED:]

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._handle.process.sentinel)
        self._gone.set()
        # What the worker said before it died still counts. The reader ends by itself at the end of the pipe; should
        # some grandchild hold the other end open, it is cut off.
        self._loop.call_later(_LAST_WORDS_SECONDS, self._unblock)

    def _unblock(self) -> None:
        with contextlib.suppress(OSError):
            duplicate = socket.socket(fileno=os.dup(self._handle.pipe.fileno()))
            with duplicate, contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)

    def _post(self, message: FromWorker | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed; nobody listens any more
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, message)

    def _read(self) -> None:
        try:
            while True:
                self._post(self._handle.pipe.recv())
        except (EOFError, OSError):
            pass  # the worker is gone, whole or in the middle of a message
        except Exception:
            logger.exception("engine_message_unreadable")
        finally:
            self._post(None)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (message := self._outbox.get()) is not None:
                self._handle.pipe.send(message)

    def _drain(self) -> None:
        descriptor = self._handle.stderr.fileno()
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, 1 << 14):
                self._stderr.append(data)
                self._stderr_size += len(data)
                while self._stderr_size > STDERR_BYTES:
                    self._stderr_size -= len(self._stderr.popleft())
