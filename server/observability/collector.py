"""Gauges read from the components at every scrape: queues, engine, memory, uploads, jobs.

A collector of the Prometheus library: it is called on the event loop, and must not block. The store's figures are
therefore read before the scrape, and set here.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from scribewire.engine.processes.memory import peak_resident_bytes, resident_bytes
from scribewire.server.engine.client import EngineClient
from scribewire.server.engine.supervisor import BreakerState, EngineState
from scribewire.server.http.listening import descriptor_limit
from scribewire.server.intake.uploads import UploadStore
from scribewire.server.jobs.job import StoreStats

_Family = CounterMetricFamily | GaugeMetricFamily
_Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]


class ServerCollector(Collector):
    """Gauges over the components of one application."""

    def __init__(self, registry: CollectorRegistry, engine: EngineClient, uploads: UploadStore) -> None:
        self._engine = engine
        self._uploads = uploads
        self.store_stats: StoreStats | None = None
        """The store's newest figures, None when it could not be read."""
        self._started_at = time.time()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        engine, info = self._engine, self._engine.info
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
        yield _one_hot("engine_state", "1 for the engine's state.", get_args(EngineState), engine.state)
        yield _one_hot(
            "engine_breaker",
            "1 for the breaker's state: open while too many deaths keep the engine at rest.",
            get_args(BreakerState),
            engine.breaker,
        )
        for kind, name, explanation, value in self._single_values():
            yield kind(f"scribewire_{name}", explanation, value=value)
        for kind, name, explanation, label, values in self._labelled_values():
            yield _labelled(kind, name, explanation, label, values)
        for kind, name, explanation, value in self._process_values():
            yield kind(f"process_{name}", explanation, value=value)

    def _process_values(self) -> Iterator[tuple[_Kind, str, str, float]]:
        """This process's figures under Prometheus's own names, whose collector knows them on Linux only."""
        gauge = GaugeMetricFamily
        yield gauge, "start_time_seconds", "When the front began, since 1970.", self._started_at
        yield CounterMetricFamily, "cpu_seconds", "Processor time of the front.", time.process_time()
        yield gauge, "open_fds", "Open file descriptors of the front.", len(os.listdir("/dev/fd"))
        yield gauge, "max_fds", "The most that it may open.", descriptor_limit()
        if (held := resident_bytes()) is not None:
            yield gauge, "resident_memory_bytes", "Memory of the front now.", held

    def _single_values(self) -> Iterator[tuple[_Kind, str, str, float]]:
        engine, uploads, stats = self._engine, self._uploads, self.store_stats
        beat, totals = engine.statistics.now, engine.statistics.totals
        counter, gauge = CounterMetricFamily, GaugeMetricFamily
        yield counter, "engine_workers_started", "Engine workers started.", engine.supervisor.started_workers
        yield counter, "engine_worker_deaths", "Engine workers that ended untold.", engine.worker_deaths
        yield (
            counter,
            "engine_worker_stalls",
            "Engine workers ended because they stood still.",
            engine.supervisor.stalled_workers,
        )
        yield (
            gauge,
            "recordings_admitted",
            "Recordings with a place: being received, decoded, waiting or with the engine.",
            engine.admitted,
        )
        yield gauge, "engine_recordings", "Recordings in the worker's hands.", engine.held_count
        yield gauge, "batch_rows", "Sequences in the running batch.", beat.batch_rows if beat else 0
        reserved = beat.reserved_tokens if beat else 0
        yield (
            gauge,
            "batch_reserved_tokens",
            "Tokens that the batch may come to hold, of the memory budget.",
            reserved,
        )
        yield counter, "chunks", "Chunks of audio decoded.", totals.chunks
        yield counter, "tokens", "Tokens decoded.", totals.tokens
        yield counter, "words_timed", "Words whose times were found.", totals.words
        yield counter, "batch_steps", "Steps of the running batch.", totals.steps
        yield (
            counter,
            "batch_row_slots",
            "Rows computed by those steps, free ones included.",
            totals.row_slots,
        )
        yield gauge, "uploads_under_way", "Uploads being received.", uploads.under_way
        yield counter, "uploads", "Uploads received whole.", uploads.received_count
        yield counter, "upload_bytes", "Bytes of recordings received whole.", uploads.received_bytes
        yield gauge, "job_store_up", "Whether the job store answers.", int(stats is not None)
        if stats is not None:
            yield gauge, "job_recordings", "Recordings kept for jobs.", stats.audio_count
            yield gauge, "job_recording_bytes", "Bytes of those recordings.", stats.audio_bytes
            yield (
                gauge,
                "webhooks_due",
                "Ends of jobs that somebody is still to be told of.",
                stats.callbacks_due,
            )

    def _labelled_values(self) -> Iterator[tuple[_Kind, str, str, str, Mapping[str, float]]]:
        beat, stats, refused = self._engine.statistics.now, self.store_stats, self._uploads.refused_counts
        counter, gauge = CounterMetricFamily, GaugeMetricFamily
        jobs: Mapping[str, float] = (
            {} if stats is None else {str(key): count for key, count in stats.jobs.items()}
        )
        depth = {"engine": self._engine.waiting_count} | ({"jobs": jobs["queued"]} if jobs else {})
        yield (
            gauge,
            "queue_depth",
            "Recordings that wait: for the engine, or in the job store.",
            "queue",
            depth,
        )
        resident = {"engine": beat.resident_bytes} if beat and beat.resident_bytes else {}
        explanation = "Memory of a process now. "
        explanation += "(The front's own: process_resident_memory_bytes.)"
        yield gauge, "resident_bytes", explanation, "process", resident
        peak = {"front": peak_resident_bytes()} | ({"engine": beat.peak_bytes} if beat else {})
        yield gauge, "resident_peak_bytes", "The most memory that a process ever held.", "process", peak
        device = {
            state: getattr(beat, f"device_{state}_bytes")
            for state in ("active", "peak", "cache")
            if beat is not None
        }
        explanation = "What MLX holds, has held at most, and keeps for reuse."
        yield gauge, "device_bytes", explanation, "state", device
        explanation = "Uploads that were refused or broke off."
        yield counter, "uploads_refused", explanation, "code", dict(sorted(refused.items()))
        yield gauge, "jobs", "Jobs by state.", "status", jobs


def _labelled(kind: _Kind, name: str, explanation: str, label: str, values: Mapping[str, float]) -> _Family:
    family = kind(f"scribewire_{name}", explanation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _one_hot(name: str, explanation: str, states: tuple[str, ...], current: str) -> _Family:
    values = {state: int(state == current) for state in states}
    return _labelled(GaugeMetricFamily, name, explanation, "state", values)


def _version() -> str:
    try:
        return importlib.metadata.version("scribewire")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
