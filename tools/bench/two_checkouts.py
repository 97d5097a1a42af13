"""Speed of this checkout's server beside another's: `python -m tools.bench.two_checkouts --before FOLDER`.

Both servers are up at once and asked in turns, so that a busy machine slows both; the ratio of medians counts. Measured
are a lone 10 s clip, clients that each send clips one after the other, the time of a 1 MB upload that is not the
engine's (by the log's own figure), and resident memory of the front at the end. FOLDER is a checkout in which
`make setup` has run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scribewire.engine.bench.serving import Caller, ServerAddress
from tools.bench.clips import speech, write_upload, write_wav
from tools.bench.measuring import RESULTS_FOLDER, machine, ratio, show, summary, write_result

HERE = Path(__file__).resolve().parents[2]
SIDES = ("before", "after")
RUNS = 10
CLIENTS = 8
CLIPS_PER_CLIENT = 2
UPLOADS = 3
# A megabyte: 16 bits in stereo at 16 kHz, so that it is mixed as well.
UPLOAD_SECONDS = 16.0


class Server:
    """A running server, its address, its process id, and the engine's seconds of each answer from its log."""

    def __init__(self, name: str, process: subprocess.Popen[str], address: str) -> None:
        self.target = ServerAddress(name, address, "")
        self.pid = process.pid
        self._seconds: list[float] = []
        self._sent = 0
        self._news = threading.Condition()
        assert process.stderr is not None
        threading.Thread(target=self._follow, args=(process.stderr,), daemon=True).start()

    def answer_seconds(self, recording: Path) -> float:
        """Time of one request on a new connection."""
        return sum(self._timed(recording))

    def overhead_seconds(self, recording: Path) -> float:
        """Time of one request that is not the engine's."""
        return self._timed(recording)[0]

    def together_seconds(self, recording: Path, clients: int) -> float:
        """Time until every one of several clients has sent its clips and has every text."""
        threads = [threading.Thread(target=self._send, args=(recording,)) for _ in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - started
        self._await_log(clients * CLIPS_PER_CLIENT)
        return taken

    def resident_bytes(self) -> int:
        """Resident memory of the front alone (Linux)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _send(self, recording: Path) -> None:
        caller = Caller(self.target)
        for _ in range(CLIPS_PER_CLIENT):
            caller.transcribe(recording)
        caller.close()

    def _timed(self, recording: Path) -> tuple[float, float]:
        """Seconds around the engine, and the engine's."""
        caller = Caller(self.target)
        started = time.perf_counter()
        caller.transcribe(recording)
        taken = time.perf_counter() - started
        caller.close()
        self._await_log(1)
        return taken - self._seconds[-1], self._seconds[-1]

    def _await_log(self, count: int) -> None:
        """Wait for the lines of so many more answers, or the next one's would be taken from among them."""
        self._sent += count
        with self._news:
            if not self._news.wait_for(lambda: len(self._seconds) >= self._sent, 10):
                raise RuntimeError("the server's log has no engine time for an answer")

    def _follow(self, log: Any) -> None:
        for line in log:
            if '"engine_seconds"' in line:
                with self._news:
                    self._seconds.append(json.loads(line)["engine_seconds"])
                    self._news.notify_all()


@contextmanager
def serving(name: str, checkout: Path, serve: str, flags: list[str], data: Path) -> Iterator[Server]:
    """A server of this checkout on a free port of loopback."""
    python = checkout / ".venv/bin/python"
    # The same upload again is to be transcribed again.
    command = [
        str(python),
        *shlex.split(serve),
        "--port",
        "0",
        "--data",
        str(data),
        "--retry-window-seconds",
        "0",
    ]
    with subprocess.Popen(
        [*command, *flags], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = next((line for line in process.stdout if " ready on " in line), None)
            if ready is None:
                raise SystemExit(f"the server in {checkout} did not start: {shlex.join([*command, *flags])}")
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield Server(name, process, urlsplit(ready.split(" ready on ")[1].strip()).netloc)
        finally:
            process.terminate()
            process.wait(60)


def measure(
    servers: dict[str, Server], folder: Path, runs: int, clients: int
) -> dict[str, dict[str, list[float]]]:
    """Values by measurement and side; the side that begins changes from run to run."""
    clip = write_wav(folder / "clip.wav", speech(10.0))
    upload = write_upload(folder / "upload.wav", UPLOAD_SECONDS, 16_000, 2)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    # The first run of each warms up and does not count.
    for run in range(-1, runs):
        for side in SIDES if run % 2 else SIDES[::-1]:
            server = servers[side]
            values = {
                "10 s clip": [server.answer_seconds(clip) for _ in range(UPLOADS)],
                f"{clients} clients": [server.together_seconds(clip, clients)],
                "around the engine, 1 MB": [server.overhead_seconds(upload) for _ in range(UPLOADS)],
            }
            for name, seconds in values.items():
                found[name][side] += seconds if run >= 0 else []
    for side in SIDES:
        found["front, resident"][side] = [servers[side].resident_bytes() / 1e6]
    return found


def main() -> None:
    """Measure, print a table and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the other checkout")
    parser.add_argument("--runs", type=int, default=RUNS, help="alternations (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="at once (default: %(default)s)")
    parser.add_argument("--serve-before", default="-m scribewire serve", help="what its Python runs")
    parser.add_argument("--serve", default="-m scribewire serve", help="what this one's Python runs")
    parser.add_argument("--name", default="two_checkouts", help="of the JSON")
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER, help="folder of the JSON")
    parser.add_argument("flags", nargs="*", default=[], help="of both servers, after --: -- --model FOLDER")
    arguments = parser.parse_args()
    at_start = machine()
    flags = arguments.flags or ["--model", "demo"]
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for side, checkout, serve in (
            ("before", arguments.before.resolve(), arguments.serve_before),
            ("after", HERE, arguments.serve),
        ):
            servers[side] = held.enter_context(serving(side, checkout, serve, flags, folder / side))
        found = measure(servers, folder, arguments.runs, arguments.clients)
    rows, ratios = [], {}
    for name, sides in found.items():
        unit = "MB" if "resident" in name else "seconds"
        rows += [(f"{name}: {side}", summary(sides[side], unit=unit)) for side in SIDES]
        ratios[name] = ratio(sides["after"], sides["before"])
    show(rows)
    for name, value in ratios.items():
        print(f"{name:34} after / before {value['ratio']:.3f} {value['interval_95'] or ''}")
    content = {"machine": at_start, "flags": flags, "results": dict(rows), "ratios": ratios}
    written = write_result(arguments.name, "python -m tools.bench.two_checkouts", content, arguments.out)
    print(f"\nwritten to {written.name}; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
