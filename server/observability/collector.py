"""Gauges read from the components at every scrape: queues, engine, memory, uploads, jobs.

A collector of the Prometheus library: it is called on the event loop, and must not block. The store's figures are
therefore read before the scrape, and set here.
"""

from __future__ import annotations

import importlib.metadata
import resource
import sys
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from scribewire.server.engine.client import EngineClient
from scribewire.server.engine.supervisor import BreakerState, EngineState
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.job import StoreStats


class ServerCollector(Collector):
    """Gauges over the components of one application."""

    def __init__(self, registry: CollectorRegistry, engine: EngineClient, uploads: UploadStore) -> None:
        self._engine = engine
        self._uploads = uploads
        self.store_stats: StoreStats | None = None
        """The store's newest figures, None when it could not be read."""
        registry.register(self)
        # This process's memory, descriptors and processor time, where the system provides them (Linux).
        ProcessCollector(registry=registry)

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        yield from self._engine_metrics()
        yield from self._work_metrics()
        yield from self._memory_metrics()
        yield from self._upload_metrics()
        yield from self._job_metrics()

    def _engine_metrics(self) -> Iterator[Metric]:
        engine = self._engine
        info = engine.info
        yield InfoMetricFamily(
            "scribewire_build",
            "What runs here.",
            value={
                "version": _version(),
                "device": info.device if info else "",
                "dtype": info.dtype if info else "",
                "demo": str(info.is_demo).lower() if info else "",
            },
        )
        yield _one_hot(
            "scribewire_engine_state", "1 for the engine's state.", get_args(EngineState), engine.state
        )
        yield _one_hot(
            "scribewire_engine_breaker",
            "1 for the breaker's state: open while too many deaths keep the engine at rest.",
            get_args(BreakerState),
            engine.breaker,
        )
        yield _counter(
            "scribewire_engine_workers_started", "Engine workers started.", engine.supervisor.started_workers
        )
        yield _counter(
            "scribewire_engine_worker_deaths", "Engine workers that ended untold.", engine.worker_deaths
        )
        yield _counter(
            "scribewire_engine_worker_stalls",
            "Engine workers ended because they stood still.",
            engine.supervisor.stalled_workers,
        )

    def _work_metrics(self) -> Iterator[Metric]:
        engine, beat, totals = self._engine, self._engine.statistics.now, self._engine.statistics.totals
        waiting = GaugeMetricFamily(
            "scribewire_queue_depth",
            "Recordings that wait: for the engine, or in the job store.",
            labels=["queue"],
        )
        waiting.add_metric(["engine"], engine.waiting_count)
        if self.store_stats is not None:
            waiting.add_metric(["jobs"], self.store_stats.jobs["queued"])
        yield waiting
        yield _gauge(
            "scribewire_recordings_admitted",
            "Recordings with a place: being received, decoded, waiting or with the engine.",
            engine.admitted,
        )
        yield _gauge("scribewire_engine_recordings", "Recordings in the worker's hands.", engine.held_count)
        yield _gauge(
            "scribewire_batch_rows", "Sequences in the running batch.", beat.batch_rows if beat else 0
        )
        yield _gauge(
            "scribewire_batch_reserved_tokens",
            "Tokens that the batch may come to hold, of the memory budget.",
            beat.reserved_tokens if beat else 0,
        )
        yield _counter("scribewire_chunks", "Chunks of audio decoded.", totals.chunks)
        yield _counter("scribewire_tokens", "Tokens decoded.", totals.tokens)
        yield _counter("scribewire_words_timed", "Words whose times were found.", totals.words)
        yield _counter("scribewire_batch_steps", "Steps of the running batch.", totals.steps)
        yield _counter(
            "scribewire_batch_row_slots",
            "Rows computed by those steps, free ones included.",
            totals.row_slots,
        )

    def _memory_metrics(self) -> Iterator[Metric]:
        beat = self._engine.statistics.now
        resident = GaugeMetricFamily(
            "scribewire_resident_bytes",
            "Memory of a process now, where the system tells. (The front's own: process_resident_memory_bytes.)",
            labels=["process"],
        )
        peak = GaugeMetricFamily(
            "scribewire_resident_peak_bytes", "The most memory that a process ever held.", labels=["process"]
        )
        peak.add_metric(["front"], _peak_bytes())
        if beat is not None:
            if beat.resident_bytes:
                resident.add_metric(["engine"], beat.resident_bytes)
            peak.add_metric(["engine"], beat.peak_bytes)
        yield resident
        yield peak
        device = GaugeMetricFamily(
            "scribewire_device_bytes",
            "What MLX holds, has held at most, and keeps for reuse.",
            labels=["state"],
        )
        if beat is not None:
            device.add_metric(["active"], beat.device_active_bytes)
            device.add_metric(["peak"], beat.device_peak_bytes)
            device.add_metric(["cache"], beat.device_cache_bytes)
        yield device

    def _upload_metrics(self) -> Iterator[Metric]:
        uploads = self._uploads
        yield _gauge("scribewire_uploads_under_way", "Uploads being received.", uploads.under_way)
        yield _counter("scribewire_uploads", "Uploads received whole.", uploads.received_count)
        yield _counter(
            "scribewire_upload_bytes", "Bytes of recordings received whole.", uploads.received_bytes
        )
        refused = CounterMetricFamily(
            "scribewire_uploads_refused", "Uploads that were refused or broke off.", labels=["code"]
        )
        for code, count in sorted(uploads.refused_counts.items()):
            refused.add_metric([code], count)
        yield refused

    def _job_metrics(self) -> Iterator[Metric]:
        stats = self.store_stats
        yield _gauge("scribewire_job_store_up", "Whether the job store answers.", int(stats is not None))
        jobs = GaugeMetricFamily("scribewire_jobs", "Jobs by state.", labels=["status"])
        for status, count in stats.jobs.items() if stats is not None else ():
            jobs.add_metric([status], count)
        yield jobs
        if stats is not None:
            yield _gauge("scribewire_job_recordings", "Recordings kept for jobs.", stats.audio_count)
            yield _gauge("scribewire_job_recording_bytes", "Bytes of those recordings.", stats.audio_bytes)
            yield _gauge(
                "scribewire_webhooks_due",
                "Ends of jobs that somebody is still to be told of.",
                stats.callbacks_due,
            )


def _gauge(name: str, explanation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, explanation, value=value)


def _counter(name: str, explanation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, explanation, value=value)


def _one_hot(name: str, explanation: str, states: tuple[str, ...], current: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, explanation, labels=["state"])
    for state in states:
        family.add_metric([state], int(state == current))
    return family


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version() -> str:
    try:
        return importlib.metadata.version("scribewire")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
