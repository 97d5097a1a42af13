"""Counters and histograms of requests, recordings, waits, jobs and webhooks.

One registry per application, none for the process. Labels come from short lists in this code (registered routes,
statuses, kinds): no id, key, name or text of a client ever becomes one.
"""

from __future__ import annotations

import logging
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.observability.logs import log_event

logger = logging.getLogger("scribewire.transcripts")

# Each counter would add a second series with its creation time, which has no use.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

WorkKind = Literal["request", "job"]
JobChange = Literal[
    "submitted", "processing", "completed", "failed", "cancelled", "requeued", "retried", "erased"
]
WebhookOutcome = Literal["delivered", "tried", "given_up"]

UNMATCHED_ROUTE = "none"
"""The route of a request that was refused before routing, or that matched no route."""

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200)
_FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
_LENGTH_BUCKETS = (1, 5, 10, 30, 60, 180, 600, 1800, 3600, 10800, 43200)


class Metrics:
    """The counters of one application, used on its event loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests that ended.", "route", "status")
        self._request_seconds = self._histogram(
            "request_seconds", "From a request's headers to its end.", _REQUEST_BUCKETS, "route"
        )
        self._under_way = Gauge(
            "scribewire_requests_under_way", "Requests that have no end yet.", registry=self.registry
        )
        self._recordings = self._counter("recordings", "Recordings transcribed.", "kind")
        self._audio_seconds = self._counter("audio_seconds", "Audio transcribed.", "kind")
        self._engine_seconds = self._counter(
            "engine_seconds",
            "Time from a recording's start in the engine to its transcript, added up.",
            "kind",
        )
        self._lengths = self._histogram(
            "recording_seconds", "How long the recordings are.", _LENGTH_BUCKETS, "kind"
        )
        self._factors = self._histogram(
            "real_time_factor",
            "Time that a recording took, over its length: below 1 is faster than it was spoken.",
            _FACTOR_BUCKETS,
            "kind",
        )
        self._output_tokens = self._counter("output_tokens", "Tokens in transcripts.", "kind")
        self._waits = self._histogram(
            "queue_wait_seconds",
            "From a request's upload, or a job's submission, until the engine took it up.",
            _WAIT_BUCKETS,
            "kind",
        )
        self._job_changes = self._counter("job_changes", "Changes of jobs' states.", "change")
        self._webhooks = self._counter(
            "webhooks", "Attempts to tell of a job's end, by how they ended.", "outcome"
        )
        # So that a graph starts from zero.
        for kind in get_args(WorkKind):
            for counter in (self._recordings, self._audio_seconds, self._engine_seconds, self._output_tokens):
                counter.labels(kind)
            for histogram in (self._lengths, self._factors, self._waits):
                histogram.labels(kind)
        for change in get_args(JobChange):
            self._job_changes.labels(change)
        for outcome in get_args(WebhookOutcome):
            self._webhooks.labels(outcome)

    def begin_request(self) -> None:
        """Count a request that arrived."""
        self._under_way.inc()

    def end_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request's end; route: as registered, never as the client wrote it."""
        self._under_way.dec()
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def note_wait(self, kind: WorkKind, seconds: float) -> None:
        """Count the time that a recording waited for the engine."""
        self._waits.labels(kind).observe(max(0.0, seconds))

    def note_transcript(
        self,
        kind: WorkKind,
        transcript: Transcript,
        *,
        is_demo: bool,
        request_id: str | None = None,
        job_id: str | None = None,
    ) -> None:
        """Count a transcribed recording, and log a line of figures about it, never its text."""
        audio_seconds, engine_seconds = transcript.duration_seconds, transcript.timings.total_seconds
        self._recordings.labels(kind).inc()
        self._audio_seconds.labels(kind).inc(audio_seconds)
        self._engine_seconds.labels(kind).inc(engine_seconds)
        self._output_tokens.labels(kind).inc(transcript.usage.output_tokens)
        self._lengths.labels(kind).observe(audio_seconds)
        if audio_seconds > 0:
            self._factors.labels(kind).observe(engine_seconds / audio_seconds)
        log_event(
            logger,
            logging.INFO,
            "transcribed_by_demo_model" if is_demo else "transcribed",
            request_id=request_id,
            job_id=job_id,
            model=transcript.model_id,
            demo=is_demo,
            audio_seconds=round(audio_seconds, 3),
            engine_seconds=round(engine_seconds, 4),
            language=transcript.language,
            segments=len(transcript.segments),
            output_tokens=transcript.usage.output_tokens,
            warnings=len(transcript.warnings),
        )

    def note_job(self, change: JobChange) -> None:
        """Count a change of a job's state."""
        self._job_changes.labels(change).inc()

    def note_webhook(self, outcome: WebhookOutcome) -> None:
        """Count an attempt to deliver a webhook."""
        self._webhooks.labels(outcome).inc()

    def _counter(self, name: str, explanation: str, *labels: str) -> Counter:
        return Counter(f"scribewire_{name}", explanation, labels, registry=self.registry)

    def _histogram(self, name: str, explanation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"scribewire_{name}", explanation, labels, buckets=buckets, registry=self.registry)
