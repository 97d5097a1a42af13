"""Ages of what is kept, and the removal of what is past its time, as operations inside the writer's transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import astuple

from scribewire.server.jobs.retention import ClockReading, RetentionClock
from scribewire.server.jobs.sqlite.writer import Transaction
from scribewire.server.jobs.store import StoreRules

_NEWEST_END = "SELECT coalesce(max(ended_on_clock), 0.0) FROM jobs WHERE typeof(ended_on_clock) = 'real'"
_MEND_ENDS = (
    "UPDATE jobs SET ended_on_clock = ? "
    "WHERE status NOT IN ('queued', 'processing') AND typeof(ended_on_clock) <> 'real'"
)
_OLD_RESULTS = "FROM jobs WHERE ended_on_clock < :results_before"
_OLD_AUDIO = (
    # By the index of those that ended: the queue may be long, and its recordings are needed.
    "FROM jobs WHERE ended_on_clock IS NOT NULL AND +audio_id IS NOT NULL AND ("
    "status = 'failed' AND ended_on_clock < :failed_before "
    "OR status = 'completed' AND NOT :keep_audio OR status = 'cancelled')"
)
_OLD_ORPHANS = "FROM orphans WHERE since_on_clock < :failed_before"
_OLD = f"SELECT (SELECT count(*) {_OLD_RESULTS}) + (SELECT count(*) {_OLD_AUDIO}) + (SELECT count(*) {_OLD_ORPHANS})"


class RetainedData:
    """What one start of one server keeps, and its clock."""

    def __init__(
        self, rules: StoreRules, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float]
    ) -> None:
        self._rules = rules
        self._wall = wall
        self._monotonic = monotonic
        self.clock = RetentionClock(wall=wall, monotonic=monotonic)

    def begin(self, tx: Transaction) -> None:
        """Go on with the clock of the last run."""
        saved = tx.execute("SELECT seconds, wall, doubted_for FROM clock").fetchone()
        if saved is not None:
            if not all(
                isinstance(one, float) for one in saved[:2]
            ):  # damaged: nothing may become older by that
                saved = (*tx.execute(_NEWEST_END).fetchone(), self._wall(), None)
            self.clock = RetentionClock(
                wall=self._wall, monotonic=self._monotonic, saved=ClockReading(*saved)
            )
        # A finished job without the time of its end would stay for ever.
        tx.execute(_MEND_ENDS, (self.clock.now(),))

    def save_clock(self, tx: Transaction) -> None:
        """Save the clock for the next run."""
        tx.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?)", astuple(self.clock.reading()))

    def note_orphans(self, tx: Transaction, audio_ids: Iterable[str]) -> None:
        """Note since when the recordings in the folder of orphans are there."""
        now = self.clock.now()
        tx.connection.executemany(
            "INSERT OR IGNORE INTO orphans VALUES (?, ?)", [(one, now) for one in audio_ids]
        )

    def old_results(self, tx: Transaction) -> list[int]:
        """Numbers of the jobs that are past their time."""
        return [seq for (seq,) in tx.execute(f"SELECT seq {_OLD_RESULTS}", self._limits())]

    def remove_recordings(self, tx: Transaction) -> int:
        """Remove the recordings that are past their time; returns their count."""
        limits = self._limits()
        unneeded = tx.execute(f"SELECT audio_id, seq {_OLD_AUDIO}", limits).fetchall()
        tx.connection.executemany(
            "UPDATE jobs SET audio_id = NULL WHERE seq = ?", [(seq,) for _, seq in unneeded]
        )
        orphans = tx.execute(f"DELETE {_OLD_ORPHANS} RETURNING audio_id", limits).fetchall()
        tx.effects.removed_audio |= {row["audio_id"] for row in (*unneeded, *orphans)}
        return len(unneeded) + len(orphans)

    def waiting(self, tx: Transaction) -> int:
        """How much would be removed if the wall clock's leap were believed."""
        leap = self.clock.doubted_seconds
        return int(tx.execute(_OLD, self._limits(leap)).fetchone()[0]) if leap else 0

    def _limits(self, leap_seconds: float = 0.0) -> dict[str, float]:
        now = self.clock.now() + leap_seconds
        return {
            "results_before": now - self._rules.keep_results_seconds,
            "failed_before": now - self._rules.keep_failed_audio_seconds,
            "keep_audio": self._rules.keep_audio,
        }
