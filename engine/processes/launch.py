"""Starting the engine's processes: by module name, in a spawned child only.

The front calls `start_worker`, `start_transcode_child` and `start_speaker_child` and never imports what runs in the
child, which imports it by name. Nothing of the engine but `scribewire.engine.protocol` is loaded on this side.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from scribewire.engine.processes.allocator import preloadable, preloaded
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.speakers import DiarizationConfig
from scribewire.engine.protocol.transcoding import TranscodeLimits

WORKER_MODULE = "scribewire.engine.worker"
TRANSCODE_CHILD_MODULE = "scribewire.engine.audio.transcode_child"
SPEAKER_CHILD_MODULE = "scribewire.engine.speakers.child"

Setup = EngineConfig | TranscodeLimits | DiarizationConfig
"""All that a child is given when it starts."""

_starting = threading.Lock()

EXIT_PARENT_GONE = 70
EXIT_ENGINE_FAULT = 75


@dataclass(frozen=True, slots=True)
class WorkerHandle:
    """A started engine worker, transcode child or speaker child: its process and the ends that the front holds.

    pipe: duplex, carries messages. liveness: never written to; its closing shows the child that the front is gone.
    stderr: read end of the child's standard error, raw bytes (read its `fileno()`); the front must keep it drained.
    """

    process: BaseProcess
    pipe: Connection
    liveness: Connection
    stderr: Connection

    def close(self) -> None:
        """Close the front's ends; the child then exits by itself."""
        self.pipe.close()
        self.liveness.close()
        self.stderr.close()


def start_worker(config: EngineConfig, *, module: str = WORKER_MODULE) -> WorkerHandle:
    """Spawn a worker process that runs `module.main(config, pipe, liveness)`.

    The child's first message is `Ready` or `LoadFailed`.
    """
    return _start(module, config, name="scribewire-engine", preload=preloadable(config.device))


def start_transcode_child(limits: TranscodeLimits, *, module: str = TRANSCODE_CHILD_MODULE) -> WorkerHandle:
    """Spawn a transcode child, which runs `module.main(limits, pipe, liveness)`.

    The pipe carries lines of `scribewire.engine.protocol.transcoding`, of which the child's first is TranscoderReady.
    """
    return _start(module, limits, name="scribewire-decode")


def start_speaker_child(config: DiarizationConfig, *, module: str = SPEAKER_CHILD_MODULE) -> WorkerHandle:
    """Spawn a speaker child, which runs `module.main(config, pipe, liveness)`.

    The pipe carries messages of `scribewire.engine.protocol.speakers`; the first is DiarizerReady or
    DiarizerUnavailable.
    """
    return _start(module, config, name="scribewire-speakers")


def _start(module: str, setup: Setup, *, name: str, preload: str | None = None) -> WorkerHandle:
    context = multiprocessing.get_context("spawn")
    front_pipe, child_pipe = context.Pipe(duplex=True)
    child_liveness, front_liveness = context.Pipe(duplex=False)
    front_stderr, child_stderr = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_in_child,
        args=(module, setup, child_pipe, child_liveness, child_stderr),
        name=name,
        daemon=True,
    )
    _start_without_main(process, preload)
    # The front must not hold the child's ends, or it would never see them close.
    child_pipe.close()
    child_liveness.close()
    child_stderr.close()
    return WorkerHandle(process=process, pipe=front_pipe, liveness=front_liveness, stderr=front_stderr)


def _start_without_main(process: BaseProcess, preload: str | None) -> None:
    # A spawned child imports its parent's main program anew: the whole server, for nothing. With a main program that
    # has no file there is nothing to import.
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            with preloaded(preload):
                process.start()
        finally:
            sys.modules["__main__"] = main


def _run_in_child(
    module: str,
    setup: Setup,
    pipe: Connection,
    liveness: Connection,
    stderr: Connection,
) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    # Ctrl-C reaches the whole foreground process group; only the front decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = importlib.import_module(module).main
    sys.exit(main(setup, pipe, liveness))
