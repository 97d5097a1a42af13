"""Answers of megabytes, subtitles and JSON of a twelve-hour transcript and of 10 MB of text, and health meanwhile.

    python -m tools.hostile.long_answers --out FILE.json
    python -m tools.hostile.long_answers --checkout OTHER --out BEFORE.json

The server is a real process with the fake engine, which is told what it heard. With `--checkout` it is that of another
checkout, with the same settings and the interpreter of its own environment.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.running_server import script
from tools.bench.measuring import machine, versions
from tools.hostile.connections import HEALTH_P99_SECONDS, Findings, HealthProbe, wait_until

PROJECT = Path(__file__).resolve().parents[2]
TEXT_BYTES = 10_000_000
IDLE_SECONDS = 5.0
PATIENCE_SECONDS = 900.0
FORMATS = ("srt", "vtt", "verbose_json", "json")
SEGMENTS, WORDS = 1440, 75


def recordings(text_bytes: int) -> dict[str, bytes]:
    """Scripts for the fake engine, by what they stand for."""
    segment = " ".join(f"word{n}" for n in range(WORDS - 1)) + " end."
    sentence = "It was said and said again, without an end. "
    return {
        "12 hours": script(partials=[segment] * SEGMENTS, duration_seconds=43_200),
        "long text": script(text=sentence * (text_bytes // len(sentence)), duration_seconds=43_200),
        "one word": script(text="x" * text_bytes, duration_seconds=43_200),
    }


@contextmanager
def server(data: Path, checkout: Path) -> Iterator[int]:
    """The server of a checkout; yields its port."""
    python = sys.executable if checkout == PROJECT else str(checkout / ".venv" / "bin" / "python")
    settings = json.dumps({"port": 0, "model": "fake", "drain_seconds": 1.0})
    command = [python, "-m", "tests.fakes.server_program", settings, str(data), FAKE_WORKER_MODULE, "[0, 0]"]
    with (data.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        assert wait_until(lambda: any("ready on http" in line for line in said), seconds=120), said
        yield int(next(found[1] for line in said if (found := re.search(r"ready on http.*:(\d+)", line))))
    finally:
        process.terminate()
        process.wait(120)
        reader.join(5)


def long_answers(data: Path, checkout: Path = PROJECT, text_bytes: int = TEXT_BYTES) -> Findings:
    """Every format of every transcript, one after the other, from one client."""
    findings = Findings()
    with (
        server(data, checkout) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        with HealthProbe(port) as idle:
            time.sleep(IDLE_SECONDS)
        limit = max(HEALTH_P99_SECONDS, 3 * idle.quantile_seconds(0.99))
        findings.measured = {
            "idle_health_ms": _quantiles(idle),
            "limit_ms": round(1000 * limit, 1),
            "answers": {},
        }
        for name, recording in recordings(text_bytes).items():
            job_id = client.post(
                "/transcribe", files={"file": recording}, data={"response_format": "srt"}
            ).json()["job_id"]
            ended = wait_until(
                lambda job_id=job_id: job_id in client.get("/jobs?status=completed").text,
                seconds=PATIENCE_SECONDS,
            )
            findings.expect(ended, f"{name}: the job ends")
            for path in ("", *(f"/result?format={one}" for one in FORMATS)):
                label = f"{name}, {path.rpartition('=')[2] or 'job'}"
                with HealthProbe(port) as probe:
                    started = time.monotonic()
                    answer = client.get(f"/jobs/{job_id}{path}")
                    seconds = time.monotonic() - started
                findings.measured["answers"][label] = {
                    "bytes": len(answer.content),
                    "seconds": round(seconds, 2),
                    "health_ms": _quantiles(probe),
                    "health_failures": probe.failures,
                }
                print(label, findings.measured["answers"][label], file=sys.stderr, flush=True)
                findings.expect(answer.status_code == 200, f"{label}: 200, not {answer.status_code}")
                p99 = probe.quantile_seconds(0.99) if len(probe.seconds) > 1 else 0.0
                findings.expect(
                    p99 <= limit and not probe.failures, f"{label}: health p99 {1000 * p99:.0f} ms"
                )
    return findings


def _quantiles(probe: HealthProbe) -> dict[str, float]:
    at = {"p50": 0.5, "p99": 0.99, "most": 1.0}
    return {
        "count": len(probe.seconds),
        **{name: round(1000 * probe.quantile_seconds(part), 1) for name, part in at.items()},
    }


def main(arguments: list[str]) -> int:
    """Run the attack; returns 0 when health answered in time throughout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, default=PROJECT, help="whose server is attacked")
    parser.add_argument("--text-bytes", type=int, default=TEXT_BYTES, help="size of the long texts")
    parser.add_argument("--out", type=Path, help="where the JSON goes; standard output without")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        findings = long_answers(Path(folder) / "data", options.checkout.resolve(), options.text_bytes)
    document: dict[str, Any] = {"machine": machine(), "versions": versions(), **findings.as_json()}
    text = json.dumps(document, indent=2) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    for claim in findings.broken:
        print(f"not so: {claim}", file=sys.stderr)
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
