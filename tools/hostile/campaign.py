"""Mutants by the thousand through the real decode child, and some of them over HTTP; what went wrong is listed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from scribewire.engine.protocol.errors import AudioError, error_types
from scribewire.engine.protocol.transcoding import TranscodeLimits
from tools.hostile.child_under_test import CRASH, HANG, HANG_SECONDS, SUCCESS, ChildUnderTest
from tools.hostile.mutations import mutant_number

MAX_RESIDENT_BYTES = 300_000_000
AUDIO_ERROR_CODES = frozenset(code for code, kind in error_types().items() if issubclass(kind, AudioError))

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(slots=True)
class CampaignResult:
    """Counts of a run; `failures` names every mutant that broke a rule so that it can be made again."""

    mutants: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    by_format: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest: str = ""
    children: int = 0
    peak_resident_bytes: int = 0

    def add(self, kind: str, name: str, seconds: float, label: str) -> None:
        """Count one mutant."""
        self.mutants += 1
        self.outcomes[name] += 1
        self.by_format.setdefault(kind, Counter())[name] += 1
        if seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest = seconds, label


def decode_mutants(
    folder: Path, numbers: range, *, limits: TranscodeLimits | None = None, progress: Progress = _silent
) -> CampaignResult:
    """Transcode every mutant of these numbers in a child that is used until it dies."""
    result = CampaignResult()
    started = time.monotonic()
    with ChildUnderTest(folder, limits=limits or TranscodeLimits(recordings=1 << 30)) as child:
        for number in numbers:
            mutant = mutant_number(number)
            outcome = child.decode(mutant.content)
            label = f"({mutant.kind}, {mutant.seed}): {', '.join(mutant.operators)}"
            result.add(mutant.kind, outcome.name, outcome.seconds, label)
            if outcome.name == CRASH:
                result.failures.append(f"{label} ended the child with {outcome.exit_code}")
            elif outcome.name == HANG:
                result.failures.append(f"{label} took longer than {HANG_SECONDS:g} s")
            elif outcome.name != SUCCESS and outcome.name not in AUDIO_ERROR_CODES:
                result.failures.append(f"{label} is {outcome.name}, which is no error of the recording")
            progress(result.mutants, len(numbers))
        result.children = child.record.children
        result.peak_resident_bytes = child.record.peak_resident_bytes
    if result.peak_resident_bytes > MAX_RESIDENT_BYTES:
        result.failures.append(f"a child held {result.peak_resident_bytes} bytes")
    result.seconds = time.monotonic() - started
    return result


def post_mutants(url: str, numbers: range, *, progress: Progress = _silent) -> CampaignResult:
    """Post every mutant of these numbers; an answer must be 200, or 400 in the shape of errors."""
    result = CampaignResult()
    started = time.monotonic()
    with httpx.Client(base_url=url, timeout=120) as client:
        for number in numbers:
            mutant = mutant_number(number)
            label = f"({mutant.kind}, {mutant.seed}): {', '.join(mutant.operators)}"
            sent = time.monotonic()
            response = client.post(
                "/v1/audio/transcriptions",
                files={"file": (f"a.{mutant.kind}", mutant.content, "application/octet-stream")},
                data={"model": "whisper-1"},
            )
            result.add(mutant.kind, str(response.status_code), time.monotonic() - sent, label)
            if response.status_code == 400:
                error = response.json().get("error", {})
                if (
                    set(error) != {"message", "type", "param", "code"}
                    or error["code"] not in AUDIO_ERROR_CODES
                ):
                    result.failures.append(f"{label} was answered {response.text[:200]}")
            elif response.status_code != 200:
                result.failures.append(f"{label} was answered {response.status_code}: {response.text[:200]}")
            progress(result.mutants, len(numbers))
    result.seconds = time.monotonic() - started
    return result
