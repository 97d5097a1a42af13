"""Supervision of one engine worker: start it, read its messages, notice its death at once, start the next.

A worker that stalls is ended as if it had died (`scribewire.server.engine.watchdog` decides), and the pause before the
next one follows from `scribewire.server.engine.restarts`. A model that cannot be loaded is not tried again, because a
restart would not help. The listener (`scribewire.server.engine.client`) sends a dead worker's requests again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import Literal, Protocol

from scribewire.engine.processes.async_child import AsyncChild
from scribewire.engine.processes.child import exit_in_words
from scribewire.engine.processes.launch import WORKER_MODULE, start_worker
from scribewire.engine.protocol.config import EngineConfig, ModelInfo
from scribewire.engine.protocol.errors import EngineError, EngineFault, ModelError, error_from_code
from scribewire.engine.protocol.messages import (
    PROTOCOL_VERSION,
    FromWorker,
    LoadFailed,
    Ready,
    Shutdown,
    ToWorker,
)
from scribewire.server.engine.restarts import RestartPolicy, Restarts
from scribewire.server.engine.watchdog import WatchLimits, WorkerWatch
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.loops import BackgroundLoops

Worker = AsyncChild[ToWorker, FromWorker]
EngineState = Literal["stopped", "starting", "ready", "restarting", "failed", "stopping"]
BreakerState = Literal["closed", "open", "trial"]

MAX_DEATHS_BEFORE_FIRST_READY = 3
"""After this number of deaths without ever being ready, no worker is started any more, as after a failed load."""

_SHUTDOWN_SECONDS = 2.0
_DUMP_SECONDS = 0.5

logger = logging.getLogger("scribewire.engine")


class EngineListener(Protocol):
    """Callbacks for a worker's messages and changes, on the event loop."""

    def on_message(self, message: FromWorker) -> None:
        """Handle a message of the worker, other than its handshake."""

    def on_state(self, state: EngineState) -> None:
        """Handle a change of the state, or the opening of the breaker."""

    def on_death(self, reason: str) -> None:
        """Handle the worker's death; what was in flight gets no other answer."""


class EngineSupervisor:
    """Owner of the worker process and of its state."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        module: str = WORKER_MODULE,
        load_timeout_seconds: float = 1800.0,
        restarts: RestartPolicy | None = None,
        watch: WatchLimits | None = None,
    ) -> None:
        self._config = config
        self._module = module
        self._load_timeout_seconds = load_timeout_seconds
        self._policy = restarts or RestartPolicy()
        self._restarts = Restarts(self._policy)
        self._limits = watch or WatchLimits()
        self._listener: EngineListener | None = None
        self._worker: Worker | None = None
        self._loops = BackgroundLoops()
        self._watch: WorkerWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._was_ready = False
        self._is_stalled = False
        self._stop_requested = asyncio.Event()
        self._trouble: str | None = None
        """Reason of the last worker's end, until the next one is ready."""
        self.state: EngineState = "stopped"
        self.info: ModelInfo | None = None
        self.failure: EngineError | None = None
        """Reason of the state `failed`."""
        self.started_workers = 0
        self.died_workers = 0
        """Number of started workers that ended without a request to stop."""
        self.stalled_workers = 0
        """Number of workers ended because they stalled."""

    @property
    def process_id(self) -> int | None:
        """The running worker's process id."""
        return self._worker.child.process_id if self._worker is not None else None

    @property
    def resting_seconds(self) -> float:
        """Seconds for which the breaker stays open and no worker is started; 0 when it is closed."""
        return self._restarts.resting_seconds

    @property
    def breaker(self) -> BreakerState:
        """`open` while no worker is started after too many deaths; `trial` until the next one counts as healthy."""
        return "open" if self.resting_seconds else "trial" if self._restarts.is_trial else "closed"

    @property
    def is_stalled(self) -> bool:
        """True while a worker that stalled is being replaced."""
        return self._is_stalled

    def stderr_lines(self) -> list[str]:
        """The newest lines of the running worker's standard error."""
        return self._worker.child.last_lines() if self._worker is not None else []

    def why_not_ready(self) -> str:
        """One sentence for clients that wait; meaningless while the state is `ready`."""
        if self._trouble is None or self.state not in ("starting", "restarting"):
            return f"The engine is {self.state}."
        if self.resting_seconds:
            return (
                f"The engine died {self._restarts.recent_deaths} times within "
                f"{self._policy.breaker_window_seconds:g} s, the last time because {self._trouble}; "
                f"the next one is tried in {self.resting_seconds:.0f} s."
            )
        return f"The engine is being replaced, because {self._trouble}."

    def start(self, listener: EngineListener, loops: BackgroundLoops) -> None:
        """Begin to keep a worker running, on the running event loop."""
        if self._task is not None:
            raise RuntimeError("the supervisor was started already")
        self._listener = listener
        self._loops = loops
        self._set_state("starting")
        self._task = asyncio.create_task(loops.keep("engine-supervisor", self._keep_alive))

    def send(self, message: ToWorker) -> bool:
        """Send a message to the worker without waiting; False when there is none."""
        if self._worker is None:
            return False
        self._worker.send(message)
        if self._watch is not None:
            self._watch.sent(message, time.monotonic())
        return True

    async def stop(self, drain_seconds: float) -> None:
        """Ask the worker to finish within the time, then terminate it, then kill it. Stopping again is no error."""
        if self._task is None or self.state == "stopped":
            return
        can_drain = self.state == "ready"
        self._set_state("stopping")
        self._stop_requested.set()
        worker = self._worker
        if worker is not None:
            worker.send(Shutdown(drain_seconds=drain_seconds))
            # A worker that still loads its model reads no messages, and has nothing to finish.
            if not can_drain or not await worker.wait_gone(drain_seconds + _SHUTDOWN_SECONDS):
                worker.hang_up()
        await self._task
        self._set_state("stopped")

    def _set_state(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            log_event(logger, logging.DEBUG, "engine_state", state=state)
            self._publish_state()

    def _publish_state(self) -> None:
        if self._listener is not None:
            self._listener.on_state(self.state)

    # ---- one worker after the other --------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        deaths = 0
        while self.state not in ("failed", "stopping"):
            await self._pause(self._restarts.pause_seconds())
            if self.state == "stopping":
                break
            ready_seconds = await self._run_one_worker()
            if self.state in ("failed", "stopping"):
                break
            deaths += 1
            self._restarts.note_death(ready_seconds)
            if not self._was_ready and deaths >= MAX_DEATHS_BEFORE_FIRST_READY:
                self.failure = EngineFault(
                    f"the engine died {deaths} times before it was ready; the log has its last words"
                )
                self._set_state("failed")
            elif self._restarts.resting_seconds:
                log_event(
                    logger,
                    logging.ERROR,
                    "engine_rests",
                    deaths=self._restarts.recent_deaths,
                    seconds=round(self._restarts.resting_seconds, 3),
                )
                self._publish_state()

    async def _run_one_worker(self) -> float:
        """Start a worker and follow it to its end; returns the seconds for which it was ready."""
        self._set_state("restarting" if self._was_ready else "starting")
        try:
            worker = await Worker.of(await asyncio.to_thread(start_worker, self._config, module=self._module))
        except OSError as error:  # out of processes, descriptors or memory, which may be temporary
            self._trouble = f"no process could be started ({error.strerror or error})"
            log_event(logger, logging.ERROR, "engine_not_started", error=str(error))
            return 0.0
        self._worker = worker
        if self.state == "stopping":
            worker.hang_up()
        self.started_workers += 1
        ready_at: float | None = None
        reason: str | None = None
        try:
            first = await worker.next_message(self._load_timeout_seconds)
            if isinstance(first, LoadFailed):
                self._note_load_failure(error_from_code(first.code, first.message))
            elif isinstance(first, Ready) and first.protocol_version != PROTOCOL_VERSION:
                self._give_up(EngineFault("the engine worker speaks another protocol version"))
            elif isinstance(first, Ready):
                ready_at = time.monotonic()
                reason = await self._stay_with(worker, first)
        except TimeoutError:
            reason = f"it did not load its model within {self._load_timeout_seconds:g} s"
            stacks = await worker.dump_stacks(_DUMP_SECONDS)
            log_event(
                logger,
                logging.ERROR,
                "engine_load_timeout",
                seconds=self._load_timeout_seconds,
                stacks=stacks,
            )
        finally:
            self._worker = None
            if self.state == "ready":
                # At once, so that requests from now on wait for the next worker.
                self._set_state("restarting")
            exit_code = await worker.end()
            self._report_death(worker, exit_code, reason)
        return time.monotonic() - ready_at if ready_at is not None else 0.0

    async def _stay_with(self, worker: Worker, ready: Ready) -> str | None:
        """Read a ready worker's messages to their end; returns the reason if it was terminated."""
        watch = self._watch = WorkerWatch(self._limits, time.monotonic())
        stuck: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(
            self._loops.keep("engine-watchdog", partial(self._keep_watch, worker, watch, stuck)),
            name="engine-watchdog",
        )
        try:
            self._become_ready(ready)
            while (message := await worker.next_message(None)) is not None:
                watch.received(message, time.monotonic())
                self._notify(message)
        finally:
            self._watch = None
            if not stuck.done():
                watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return stuck.result() if stuck.done() else None

    async def _keep_watch(self, worker: Worker, watch: WorkerWatch, stuck: asyncio.Future[str]) -> None:
        """Wait until the worker stalls, and end it then."""
        while (verdict := watch.verdict(time.monotonic())) is None:
            begun = time.monotonic()
            seconds = min(self._limits.tick_seconds, max(watch.deadline() - begun, 0.001))
            await asyncio.sleep(seconds)
            late_seconds = time.monotonic() - begun - seconds
            if late_seconds > self._limits.tick_seconds:
                # This process was stopped or starved, and the worker's messages of that time are still unread.
                watch.pardon(late_seconds)
        decided_at = time.monotonic()
        self.stalled_workers += 1
        self._is_stalled = True
        stuck.set_result(f"it {verdict}")
        self._trouble = stuck.result()
        if self.state == "ready":
            self._set_state("restarting")
        stacks = await worker.dump_stacks(min(_DUMP_SECONDS, self._limits.terminate_seconds / 4))
        log_event(
            logger,
            logging.ERROR,
            "engine_stuck",
            process_id=worker.child.process_id,
            reason=verdict,
            stacks=stacks,
        )
        await worker.terminate(max(0.0, decided_at + self._limits.terminate_seconds - time.monotonic()))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_requested.wait()

    def _notify(self, message: FromWorker) -> None:
        try:
            if self._listener is not None:
                self._listener.on_message(message)
        except Exception:
            # An error in one request's callback must not end the supervision.
            logger.exception("engine_message_not_handled")

    def _become_ready(self, ready: Ready) -> None:
        self._was_ready = True
        self._is_stalled = False
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
        self._trouble = None
        self._set_state("ready")

    def _note_load_failure(self, failure: EngineError) -> None:
        """Give up on a broken model; try again after a fault at a later load, such as too little memory."""
        if self._was_ready and not isinstance(failure, ModelError):
            log_event(
                logger, logging.ERROR, "engine_not_reloaded", code=failure.code, message=failure.message
            )
        else:
            self._give_up(failure)

    def _give_up(self, failure: EngineError) -> None:
        self.failure = failure
        # A start that fails is told of by `serve`, once.
        level = logging.ERROR if self._was_ready else logging.DEBUG
        log_event(logger, level, "engine_load_failed", code=failure.code, message=failure.message)
        if self.state != "stopping":
            self._set_state("failed")

    def _report_death(self, worker: Worker, exit_code: int | None, reason: str | None) -> None:
        is_expected = self.state in ("stopping", "failed")
        ended = f"its process ended: {exit_in_words(exit_code)}"
        self._trouble = ended if reason is None else f"{reason} ({ended})"
        if not is_expected:
            self.died_workers += 1
        log_event(
            logger,
            logging.DEBUG if is_expected else logging.ERROR,
            "engine_gone" if is_expected else "engine_died",
            exit_code=exit_code,
            process_id=worker.child.process_id,
            reason=self._trouble,
            last_words=None if is_expected else worker.child.last_lines(),
        )
        if self._listener is not None:
            self._listener.on_death(self._trouble)
