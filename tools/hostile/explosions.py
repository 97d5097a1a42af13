"""The four bombs against a real server: what they are answered, how quickly, and what they make each process hold."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.fakes.media import riff, tones
from tests.fakes.raw_http import ask, error_of, post_request
from tests.fakes.served import Served
from tools.hostile.bombs import BOMBS, bomb
from tools.hostile.connections import Findings

MAX_GROWTH_BYTES = 100_000_000
REFUSAL_SECONDS = 2.0
_CODES = {
    "wav": "audio_parameters_unsupported",
    "flac": "audio_too_long",
    "opus": "audio_too_long",
    "lying-flac": "audio_too_long",
}


def explode(served: Served, kinds: Sequence[str] = BOMBS) -> Findings:
    """Send bombs to a server whose limit each of them passes."""
    findings = Findings()
    warm_up = riff((tones(2.0, 16_000) * 32_767).astype("<i2").tobytes())
    for _ in range(2):  # so that every process has been at work before it is measured
        answer = ask(served.port, post_request(served.port, warm_up, model="whisper-1"))
        assert answer is not None
        assert answer.status == 200, answer
    before = served.peak_bytes_by_process()
    for kind in kinds:
        content = post_request(served.port, bomb(kind).content, model="whisper-1")
        started = time.monotonic()
        answer = ask(served.port, content)
        seconds = time.monotonic() - started
        after = served.peak_bytes_by_process()
        growth = max(after[process] - before[process] for process in before if process in after)
        error = error_of(answer)
        findings.measured[bomb(kind).name] = {
            "bytes": len(bomb(kind).content),
            "hours": round(bomb(kind).hours, 2),
            "status": None if answer is None else answer.status,
            "code": error["code"],
            "seconds": round(seconds, 3),
            "largest_growth_of_a_process_bytes": growth,
        }
        findings.expect(
            answer is not None and answer.status == 400 and error["code"] == _CODES[kind],
            f"{kind} is 400 {_CODES[kind]}, not {error}",
        )
        findings.expect(set(before) == set(after), f"no process dies of {kind}")
        findings.expect(growth < MAX_GROWTH_BYTES, f"{kind} makes no process grow by 100 MB")
    findings.expect(not served.leftovers(), "nothing stays on disk")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings
