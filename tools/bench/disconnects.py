"""Time until a disconnected client's place is free, with the real engine: `python -m tools.bench.disconnects`.

Twelve recordings of a minute are sent to a server with the demo model and eight rows, so that some run and some wait;
then clients leave one after another. Timed is from closing the connection to the worker's word that it has stopped.
Targets: waiting 1 s; running: the next decode step, so the time of a step or of the prefill that is under way.
"""

import argparse
import socket
import tempfile
import time
from pathlib import Path

from scribewire.engine.processes.launch import WORKER_MODULE
from scribewire.engine.protocol.messages import Failed, Started
from scribewire.server.app import create_app
from scribewire.server.serve import DrainingServer, uvicorn_config
from tests.fakes.running_server import RunningServer
from tests.fakes.watched_server import WatchedEngine, send
from tools.bench.clips import write_wav
from tools.bench.first_delta import minute_of_speech
from tools.bench.measuring import RESULTS_FOLDER, machine, show, summary, write_result

CLIENTS, ROUNDS, PATIENCE_SECONDS = 12, 3, 60.0


class RealServer(RunningServer):
    """A running server over the demo model."""

    engine: WatchedEngine

    def __init__(self, data: Path) -> None:
        super().__init__(data, model="demo", retry_window_seconds=0.0)
        engine = WatchedEngine.from_settings(self.settings, module=WORKER_MODULE)
        assert isinstance(engine, WatchedEngine)
        self.engine = engine
        app = create_app(self.settings, self.engine, self.key_store)
        config = uvicorn_config(app, self.settings)
        self._server = DrainingServer(config, engine, app.state.context.stopping)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS_FOLDER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        waiting, running = measure(Path(scratch))
    rows = [
        ("waiting: stopped after", summary(waiting, target=1.0)),
        ("running: stopped after", summary(running)),
    ]
    show(rows)
    result = {"machine": machine(), "clients": CLIENTS, "results": dict(rows)}
    write_result("disconnects", "python -m tools.bench.disconnects", result, arguments.out)


def measure(scratch: Path) -> tuple[list[float], list[float]]:
    """Seconds until what waited, and what ran, was stopped."""
    waiting: list[float] = []
    running: list[float] = []
    recording = scratch / "minute.wav"
    write_wav(recording, minute_of_speech())
    content = recording.read_bytes()
    server = RealServer(scratch / "data")
    with server:
        for _ in range(ROUNDS):
            for was_started, seconds in leave_one_by_one(server, content):
                (running if was_started else waiting).append(seconds)
    return waiting, running


def leave_one_by_one(server: RealServer, content: bytes) -> list[tuple[bool, float]]:
    """For each client: True if its recording had been started, and the seconds until it was stopped."""
    heard = server.engine.heard
    heard.clear()
    connections: list[socket.socket] = [
        send(server, content, prompt=f"client {number}") for number in range(CLIENTS)
    ]
    wait_until(lambda: len(started(server)) >= 3)
    found = []
    # The last ones first: they are the likeliest to wait.
    for connection in reversed(connections):
        before = set(started(server))
        ends = len(cancelled(server))
        left = time.perf_counter()
        connection.close()
        wait_until(lambda ends=ends: len(cancelled(server)) > ends)
        found.append((cancelled(server)[ends] in before, time.perf_counter() - left))
    return found


def started(server: RealServer) -> list[str]:
    """Requests that the engine has taken up."""
    return [message.request_id for message in server.engine.heard if isinstance(message, Started)]


def cancelled(server: RealServer) -> list[str]:
    """Requests of which the worker said that they were stopped."""
    return [
        message.request_id
        for message in server.engine.heard
        if isinstance(message, Failed) and message.code == "cancelled"
    ]


def wait_until(claim: object) -> None:
    """Wait for it, looking often."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    assert callable(claim)
    while not claim():
        assert time.perf_counter() < deadline, "it never came true"
        time.sleep(0.001)


if __name__ == "__main__":
    main()
