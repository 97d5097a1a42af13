"""Components that the routes share, kept by the application: nothing here is global."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import Request

from scribewire.server.access.limits import StreamLimits
from scribewire.server.engine.client import EngineClient
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.runner import JobRunner
from scribewire.server.jobs.store import JobStore
from scribewire.server.observability.collector import ServerCollector
from scribewire.server.observability.metrics import Metrics
from scribewire.server.observability.readiness import Readiness
from scribewire.server.settings.fields import Settings
from scribewire.server.speakers.child import Speakers
from scribewire.server.transcription.service import TranscriptionService
from scribewire.server.transcription.sharing import SharedWork
from scribewire.server.webhooks.targets import AllowedTargets


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The components of one application."""

    settings: Settings
    engine: EngineClient
    uploads: UploadStore
    jobs: JobStore
    runner: JobRunner
    service: TranscriptionService
    shared: SharedWork
    speakers: Speakers
    metrics: Metrics
    collector: ServerCollector
    readiness: Readiness
    callback_targets: AllowedTargets
    streams: StreamLimits
    # Set when the server begins to stop: streams without an end of their own stop then.
    stopping: asyncio.Event
    # Longest wait of a stream's status for the first text, and longest silence of a stream.
    stream_first_wait_seconds: float = 2.0
    stream_keep_alive_seconds: float = 10.0


def context_of(request: Request) -> ServerContext:
    """The context of the application that received this request."""
    context = request.app.state.context
    assert isinstance(context, ServerContext)
    return context


def owner_of(request: Request) -> str:
    """Owner of a request: a key id, or `local` where no key is required."""
    return str(request.state.owner)


def client_of(request: Request) -> str:
    """The key id of a request, or its address where no key is required."""
    return str(getattr(request.state, "key_id", None) or (request.client and request.client.host))
