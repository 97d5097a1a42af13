"""The server as a process: checks, socket, signals, printed lines, and a clean end.

Everything process-wide is here. A failure before the model is ready is one line on standard error and exit code 1;
SIGINT (Ctrl-C), SIGTERM and SIGHUP are an ordinary end with exit code 0, at any time: running work is given a while to
finish, unless Ctrl-C comes a second time. SIGHUP is ignored where the process was started so (nohup).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import shlex
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn
from fastapi import FastAPI

from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.engine.processes.memory import (
    give_large_buffers_back,
    leave_out_of_collections,
    share_one_heap,
)
from scribewire.engine.protocol.config import DEFAULT_MODEL, DEMO_MODEL, ModelInfo
from scribewire.server.access.gate import ANY_ORIGIN
from scribewire.server.access.keys import (
    KeyStore,
    KeysUnreadable,
    UnsafeBind,
    check_bind_is_safe,
    is_loopback,
    make_private_folder,
)
from scribewire.server.app import create_app
from scribewire.server.engine.client import EngineClient
from scribewire.server.http.listening import (
    ACCEPTED_AT_ONCE,
    SPARE_CONNECTIONS,
    BindFailed,
    bind,
    connection_cap,
    descriptor_limit,
    raise_descriptor_limit,
)
from scribewire.server.http.protocol import ConnectionLimits, GuardedConfig
from scribewire.server.observability.logs import configure_logging, log_event
from scribewire.server.settings.fields import Settings
from scribewire.server.transcode.pool import Transcoder

KEEP_ALIVE_SECONDS = 30
_LOADING_NOTE_SECONDS = 10.0
SWITCH_SECONDS = 0.0005
"""A thread that renders or parses gives Python's lock up so soon; the loop asks for it several times a request."""

logger = logging.getLogger("scribewire.serve")

_HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"


class StartFailed(Exception):
    """The server cannot start; the message is one line saying why and what to do."""


def serve(
    settings: Settings,
    *,
    engine_module: str = WORKER_MODULE,
    transcoder: Transcoder | None = None,
    sample_recording: str | None = None,
    command: str = "scribewire",
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; returns the exit code (0 after a signal, 1 when it could not start).

    engine_module, transcoder: stand-ins of tests for the engine's worker and the pool of transcoding processes.
    sample_recording: path of a recording for the curl line that is printed once the model is ready.
    command: how the user calls this program, for the lines that say what to type.
    """
    out = stdout if stdout is not None else sys.stdout
    err = stderr if stderr is not None else sys.stderr
    share_one_heap()
    give_large_buffers_back()
    configure_logging(settings.log_level, err, log_format=settings.log_format)
    raise_descriptor_limit(settings.max_connections, settings.max_concurrent_uploads)
    try:
        key_store = KeyStore(settings.data)
        check_bind_is_safe(settings, key_store)
        _check_data_folder(settings)
        _check_local_folders(settings)
        listener = bind(settings.host, settings.port)
        if ANY_ORIGIN in settings.allow_origin:
            needs_key = not is_loopback(settings.host) or key_store.is_key_required()
            told = "pages of every site may call this server" + (
                " with a key" if needs_key else ", without a key"
            )
            log_event(logger, logging.WARNING, "any_origin_allowed", message=told)
    except (StartFailed, BindFailed, UnsafeBind, KeysUnreadable) as error:
        print(f"scribewire: {error}", file=err)
        return 1
    sys.setswitchinterval(SWITCH_SECONDS)
    with listener:
        run = _Run(settings, key_store, listener, engine_module, transcoder, sample_recording, command, out)
        try:
            run.run()
        except StartFailed as error:
            print(f"scribewire: {error}", file=err)
            return 1
    if run.was_signalled:
        print("scribewire: stopped", file=out, flush=True)
    return 0


def _check_data_folder(settings: Settings) -> None:
    try:
        make_private_folder(settings.data)
        with tempfile.TemporaryFile(dir=settings.data):
            pass
        status = settings.data.stat()
    except OSError as error:
        raise StartFailed(
            f"the data folder {settings.data} cannot be used: {error.strerror or error}; see --data"
        ) from None
    # Whoever may write there can replace the keys. A group is often the user's own, and a container's owner another.
    if status.st_mode & stat.S_IWOTH:
        raise StartFailed(f"every user may write to the data folder; `chmod go-w {settings.data}` ends that")
    if status.st_mode & stat.S_IWGRP or status.st_uid not in (os.geteuid(), 0):
        details = {"mode": f"{stat.S_IMODE(status.st_mode):o}", "owner": status.st_uid}
        log_event(logger, logging.WARNING, "data_folder_shared", folder=str(settings.data), **details)


def _check_local_folders(settings: Settings) -> None:
    for folder in settings.allow_local_files:
        if not Path(folder).expanduser().is_dir():
            raise StartFailed(f"{folder} is not a folder; see --allow-local-files")


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for the application; logs, address and signals are handled here."""
    cap = connection_cap(settings, descriptor_limit())
    if cap < settings.max_connections:
        log_event(
            logger, logging.WARNING, "connections_capped", connections=cap, descriptors=descriptor_limit()
        )
    limits = ConnectionLimits(
        max_connections=cap,
        spare_connections=SPARE_CONNECTIONS,
        header_timeout_seconds=settings.header_timeout_seconds,
    )
    return GuardedConfig(
        app,
        limits=limits,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )


class DrainingServer(uvicorn.Server):
    """uvicorn's server, but it stops admitting work as soon as a signal arrives.

    Streams that only watch end at shutdown, so that they do not delay clients that wait for work.
    """

    def __init__(self, config: uvicorn.Config, engine: EngineClient, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._engine = engine
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to their handlers, which call `handle_exit`; uvicorn would raise them again at its end."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal; the second SIGINT also ends the time for running work."""
        self._engine.close_admission()
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._engine.end_drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, let connections finish for a while, end the application."""
        self._engine.close_admission()
        self._stopping.set()
        await super().shutdown(sockets)


@dataclass
class _Run:
    """One run of the server, from the bound socket to the exit."""

    _settings: Settings
    _key_store: KeyStore
    _listener: socket.socket
    _engine_module: str
    _transcoder: Transcoder | None
    _sample_recording: str | None
    _command: str
    _out: TextIO
    was_signalled: bool = False
    _server: DrainingServer | None = None
    _serving: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until the end; raises StartFailed."""

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            asyncio.run(self._serve())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        is_first, self.was_signalled = not self.was_signalled, True
        if self._server is None:
            return
        self._server.handle_exit(number, frame)
        loop = asyncio.get_running_loop()
        if is_first:
            loop.call_soon_threadsafe(self._say, self._stopping_text())
        if self._server.force_exit:
            loop.call_soon_threadsafe(lambda: self._serving and self._serving.cancel())

    async def _serve(self) -> None:
        engine = EngineClient.from_settings(self._settings, module=self._engine_module)
        app = create_app(self._settings, engine, self._key_store, transcoder=self._transcoder)
        server = DrainingServer(uvicorn_config(app, self._settings), engine, app.state.context.stopping)
        # Before it has started, it can only report what StartFailed says in one line.
        logging.getLogger("uvicorn.error").addFilter(lambda _: server.started)
        self._server = server
        server.should_exit = self.was_signalled
        leave_out_of_collections()
        announcing = asyncio.create_task(self._announce(server, engine))
        self._serving = asyncio.current_task()
        try:
            await server.serve(sockets=[self._listener])
        except asyncio.CancelledError:
            pass  # the second Ctrl-C; asyncio.run ends the application
        except SystemExit:
            # uvicorn raises this when the lifespan failed.
            raise StartFailed(app.state.start_failure) from None
        finally:
            self._serving = None
            await engine.stop()
            if not announcing.done():
                announcing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await announcing

    async def _announce(self, server: uvicorn.Server, engine: EngineClient) -> None:
        """Print the progress until the model is ready; end the server when it cannot be loaded."""
        self._say(f"scribewire: loading {self._settings.model}")
        started = time.monotonic()
        settled = asyncio.create_task(self._settled(server, engine))
        try:
            while not settled.done():
                await asyncio.wait({settled}, timeout=_LOADING_NOTE_SECONDS)
                if not settled.done():
                    words = engine.stderr_lines()[-1:] or ["no output from it yet"]
                    self._say(
                        f"scribewire: still loading ({time.monotonic() - started:.0f} s): {words[0][:160]}"
                    )
        finally:
            settled.cancel()
        if engine.state == "failed":
            server.should_exit = True
            raise StartFailed(load_failure(self._settings.model, str(engine.failure)))
        if engine.state == "ready" and engine.info is not None:
            self._say(self._ready_text(engine.info))

    async def _settled(self, server: uvicorn.Server, engine: EngineClient) -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        await engine.wait_settled()

    def _stopping_text(self) -> str:
        jobs = "jobs continue at the next start" if self._settings.store else "jobs are lost (--no-store)"
        seconds = self._settings.drain_seconds
        return f"scribewire: stopping; running work has {seconds:g} s to finish; Ctrl-C again stops at once ({jobs})"

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _ready_text(self, info: ModelInfo) -> str:
        host, port = self._listener.getsockname()[:2]
        shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{port}"
        needs_key = not is_loopback(self._settings.host) or self._key_store.is_key_required()
        key = ' -H "Authorization: Bearer $SCRIBEWIRE_KEY"' if needs_key else ""
        recording = self._sample_recording or "recording.wav"
        lines = [
            f"scribewire: ready on {address}",
            f"  model: {info.model_id}" + (" (the bundled demo model)" if info.is_demo else ""),
            "  try it:",
            f"    curl{key} {address}/v1/audio/transcriptions -F model=whisper-1 "
            + f"-F {shlex.quote(f'file=@{recording}')}",
        ]
        if info.is_demo:
            lines += ["  serve the real model instead:", f"    {self._command} serve --model {DEFAULT_MODEL}"]
        return "\n".join(lines)


def load_failure(model: str, message: str) -> str:
    """One line for a model that cannot be loaded, with the remedies that the engine has not named already."""
    line = " ".join(message.split()).rstrip(".")
    ways = []
    if model == DEMO_MODEL:
        if "scribewire doctor" not in line:
            ways.append("`scribewire doctor` checks the installation")
    else:
        if re.fullmatch(_HUB_ID, model) and "scribewire pull" not in line:
            ways.append(f"fetch it with `scribewire pull {model}`")
        if "--model demo" not in line:
            ways.append("serve the bundled demo model with `scribewire serve --model demo`")
    shown = "the demo model" if model == DEMO_MODEL else model
    return f"cannot load {shown}: {line}" + ("; " + ", or ".join(ways) if ways else "")
