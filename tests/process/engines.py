"""Engines for tests that break them: a client over a real supervisor, scripts as recordings, and waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.protocol.config import EngineConfig, TranscribeOptions
from scribewire.engine.protocol.messages import AudioSource
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.engine.client import EngineClient, TranscriptionEvent
from scribewire.server.engine.restarts import RestartPolicy
from scribewire.server.engine.supervisor import EngineSupervisor
from scribewire.server.engine.watchdog import WatchLimits
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.running_server import script
from tests.fakes.streams import transcript_of

IMPATIENT = WatchLimits(stall_seconds=2.5, terminate_seconds=0.5, tick_seconds=0.1)
"""A worker beats once a second."""


@asynccontextmanager
async def engine(
    model: str = "fake",
    *,
    module: str = FAKE_WORKER_MODULE,
    ready: bool = True,
    load_timeout_seconds: float = 30.0,
    restarts: RestartPolicy | None = None,
    watch: WatchLimits | None = None,
    **options: Any,
) -> AsyncIterator[EngineClient]:
    """An engine, the fake one unless said otherwise; it starts at once again, however often it dies."""
    supervisor = EngineSupervisor(
        EngineConfig(model=model, device="cpu"),
        module=module,
        load_timeout_seconds=load_timeout_seconds,
        restarts=restarts or RestartPolicy(backoff_seconds=(0.0,), breaker_deaths=1000),
        watch=watch,
    )
    client = EngineClient(supervisor, **options)
    client.start()
    try:
        if ready:
            assert await client.wait_settled() == "ready"
        yield client
    finally:
        await client.stop(0.0)
        assert client.state == "stopped"


def recording(folder: Path, **keys: Any) -> AudioSource:
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_bytes(script(**keys))
    return AudioSource(str(path))


async def transcribe(
    client: EngineClient,
    source: AudioSource,
    options: TranscribeOptions | None = None,
    *,
    owner: str = "ann",
    heard: list[TranscriptionEvent] | None = None,
    **wishes: Any,
) -> Transcript:
    """The transcript of one recording, with a place of its own; `heard` gets the events before it."""
    async with client.admission():
        events = client.transcribe(source, options or TranscribeOptions(), owner=owner, **wishes)
        return await transcript_of(events, heard=heard)


def broken(folder: Path, *, times: int = 1, **keys: Any) -> AudioSource:
    """A recording that breaks the worker so often and is then answered."""
    return recording(folder, break_times=times, break_counter=str(folder / "broken"), **keys)


def stuck_event(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [one for one in caplog.records if one.getMessage() == "engine_stuck"]
    return record.scribewire_event


def died_event(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [one for one in caplog.records if one.getMessage() == "engine_died"]
    return record.scribewire_event
