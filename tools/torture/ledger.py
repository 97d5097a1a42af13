"""The clients' knowledge: every 202 that they received, and every end that they saw.

The other half of the proof is `invariants`, which reads the store and the disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Accepted:
    """One job that a client holds a 202 for.

    expected_text: what its transcript must be, where the client knows. ends: the ends that it saw, in order.
    """

    job_id: str
    expected_text: str | None = None
    ends: list[str] = field(default_factory=list)
    is_erased: bool = False


class Ledger:
    """All clients' notes; may be written to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.jobs: dict[str, Accepted] = {}
        self.statuses: Counter[str] = Counter()
        self.troubles: list[str] = []

    def accept(self, job_id: str, expected_text: str | None = None) -> None:
        """A 202 came."""
        with self._lock:
            if job_id in self.jobs:
                self.troubles.append(f"{job_id} was given to two submissions")
            self.jobs[job_id] = Accepted(job_id, expected_text)

    def end(self, job_id: str, status: str) -> None:
        """Note that a client saw the job's end."""
        with self._lock:
            self.jobs[job_id].ends.append(status)

    def erase(self, job_id: str) -> None:
        """A client had the finished job erased."""
        with self._lock:
            self.jobs[job_id].is_erased = True

    def answer(self, kind: str, status: int | str) -> None:
        """Some request was answered."""
        with self._lock:
            self.statuses[f"{kind} {status}"] += 1

    def trouble(self, text: str) -> None:
        """Something that must not happen was seen by a client."""
        with self._lock:
            self.troubles.append(text)
