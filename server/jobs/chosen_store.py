"""The job store that the settings choose, with its rules."""

from __future__ import annotations

from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import DAY_SECONDS, JobStore, StoreRules
from scribewire.server.settings.fields import Settings


def store_from_settings(settings: Settings) -> JobStore:
    """A store on disk, or in memory (`--no-store`); not open yet."""
    rules = StoreRules(
        max_unfinished=settings.max_jobs,
        keep_results_seconds=settings.keep_results_days * DAY_SECONDS,
        keep_failed_audio_seconds=settings.keep_failed_audio_days * DAY_SECONDS,
        keep_audio=settings.keep_audio,
    )
    return SqliteJobStore(settings.data, rules, in_memory=not settings.store)
