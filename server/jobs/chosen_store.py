"""Which job store the settings ask for, and with which rules."""

from __future__ import annotations

from server.jobs.memory_store import MemoryJobStore
from server.jobs.sqlite_store import SqliteJobStore
from server.jobs.store import DAY_SECONDS, JobStore, StoreRules
from server.settings import Settings


def store_from_settings(settings: Settings) -> JobStore:
    """A store on disk, or one that keeps nothing (`--no-store`); not open yet."""
    rules = StoreRules(
        max_unfinished=settings.max_jobs,
        keep_results_seconds=settings.keep_results_days * DAY_SECONDS,
        keep_failed_audio_seconds=settings.keep_failed_audio_days * DAY_SECONDS,
        keep_audio=settings.keep_audio,
    )
    if settings.store:
        return SqliteJobStore(settings.data, rules)
    return MemoryJobStore(settings.data, rules)
