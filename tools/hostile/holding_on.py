"""Clients and receivers that hold on for ever: event streams, silent receivers of webhooks, idle connections.

Each attack is measured against the same server at rest: what another key waits for meanwhile. As a program it can
measure another working tree: `python -m tools.hostile.holding_on --checkout DIR --out FILE`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from scribewire.server.access.keys import KeyStore
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from tests.fakes.receiver import Receiver
from tests.fakes.served import PROJECT, Served
from tools.hostile.connections import Findings, allow_many_descriptors, wait_until

STREAMS = 1_500
WEBHOOKS = 48
IDLE_CONNECTIONS = 2_000
ANOTHERS_WEBHOOK_SECONDS = 1.0
PROBES = 40
_PATIENCE_SECONDS = 300.0


class _Client:
    """A key's client of a server; each request on a connection of its own."""

    def __init__(self, served: Served, key: str) -> None:
        self._url = served.url
        self.headers = {"authorization": f"Bearer {key}"}

    def ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        with httpx.Client(base_url=self._url, timeout=_PATIENCE_SECONDS, headers=self.headers) as client:
            return client.request(method, path, **content)

    def submit(self, callback_url: str = "", **script: Any) -> str:
        """A job for the fake worker; returns its path."""
        files = {"audio": json.dumps(script).encode()}
        answer = self.ask("POST", "/transcribe", files=files, data={"callback_url": callback_url})
        answer.raise_for_status()
        return f"/jobs/{answer.json()['job_id']}"

    def probes(self) -> dict[str, Any]:
        """Statuses and seconds of ordinary requests, one after another."""
        statuses: Counter[str] = Counter()
        seconds = []
        for _ in range(PROBES):
            started = time.monotonic()
            try:
                statuses[str(self.ask("GET", "/v1/models").status_code)] += 1
            except httpx.TransportError as error:
                statuses[type(error).__name__] += 1
            seconds.append(time.monotonic() - started)
        seconds.sort()
        return {"statuses": dict(statuses), "p50_ms": _ms(seconds[PROBES // 2]), "most_ms": _ms(seconds[-1])}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _server(folder: Path, checkout: Path, **settings: Any) -> tuple[Served, str, str]:
    """A server with the fake worker, and the keys of an attacker and of another."""
    keys = [KeyStore(folder / "data").create(name)[1] for name in ("attacker", "another")]
    return Served(folder / "data", engine_module=FAKE_WORKER_MODULE, checkout=checkout, **settings), *keys


async def _opened(port: int, content: bytes, count: int) -> list[tuple[asyncio.StreamWriter, bytes]]:
    """Connections that sent a request and stay, each with the status of its answer."""

    async def one() -> tuple[asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return writer, (await reader.readline())[9:12]
        except (TimeoutError, OSError):
            return writer, b""

    found: list[tuple[asyncio.StreamWriter, bytes]] = []
    for first in range(0, count, 100):
        found += await asyncio.gather(*[one() for _ in range(min(100, count - first))])
    return found


def _hold(port: int, content: bytes, count: int, meanwhile: Callable[[], Any]) -> tuple[Counter[str], Any]:
    """Hold connections open, each after one request; returns the statuses and what was found meanwhile."""

    async def story() -> tuple[Counter[str], Any]:
        held = await _opened(port, content, count)
        found = await asyncio.to_thread(meanwhile)
        for writer, _ in held:
            writer.close()
        return Counter(status.decode("latin-1") or "closed" for _, status in held), found

    allow_many_descriptors(count + 200)
    return asyncio.run(story())


def _request(path: str, headers: dict[str, str]) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {text}" for name, text in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def endless_streams(folder: Path, *, checkout: Path = PROJECT, streams: int = STREAMS) -> Findings:
    """One key opens event streams of a job that never ends; another asks for what every client asks for."""
    findings = Findings()
    served, attackers, anothers = _server(folder, checkout)
    with served:
        attacker, another = _Client(served, attackers), _Client(served, anothers)
        job = attacker.submit(hang=True)
        idle = another.probes()
        content = _request(f"{job}/events", attacker.headers)
        statuses, attacked = _hold(served.port, content, streams, another.probes)
        findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    findings.measured = {"streams": streams, "answers": dict(statuses), "idle": idle, "attack": attacked}
    findings.expect(
        attacked["statuses"] == {"200": PROBES}, f"others are answered 200: {attacked['statuses']}"
    )
    findings.expect(statuses["200"] <= 1024 * 3 // 4, f"a quarter of the connections stays: {dict(statuses)}")
    findings.expect(set(statuses) <= {"200", "429"}, f"the rest is refused with 429: {dict(statuses)}")
    return findings


def silent_receiver(folder: Path, *, checkout: Path = PROJECT, webhooks: int = WEBHOOKS) -> Findings:
    """One key's webhooks go to a receiver that never answers; another's webhook is timed."""
    findings = Findings()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent, Receiver() as receiver:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        served, attackers, anothers = _server(folder, checkout, allow_callback=[silent_url, receiver.url])
        with served:
            attacker, another = _Client(served, attackers), _Client(served, anothers)

            def webhook_seconds() -> float:
                count, started = len(receiver.received), time.monotonic()
                another.submit(receiver.url, text=str(count))
                arrived = wait_until(lambda: len(receiver.received) > count, seconds=_PATIENCE_SECONDS)
                return round(time.monotonic() - started, 3) if arrived else _PATIENCE_SECONDS

            webhook_seconds()  # the first one reads the machine's certificates
            idle = [webhook_seconds() for _ in range(5)]
            for number in range(webhooks):
                attacker.submit(silent_url, text=f"silent {number}")
            wait_until(lambda: not attacker.ask("GET", "/jobs?status=queued").json()["data"])
            attacked = [webhook_seconds() for _ in range(5)]
            findings.expect(not served.failures_in_log(), f"nothing fails: {served.failures_in_log()[:3]}")
    findings.measured = {
        "webhooks": webhooks,
        "idle": {"seconds": idle, "most_seconds": max(idle)},
        "attack": {"seconds": attacked, "most_seconds": max(attacked)},
    }
    findings.expect(
        max(attacked) <= ANOTHERS_WEBHOOK_SECONDS, f"another's webhook arrives within 1 s: {attacked}"
    )
    return findings


def idle_connections(folder: Path, *, checkout: Path = PROJECT, count: int = IDLE_CONNECTIONS) -> Findings:
    """Connections that ask once and stay: how many get in, what others get, and when they are closed."""
    findings = Findings()
    served, attackers, anothers = _server(folder, checkout)
    with served:
        attacker, another = _Client(served, attackers), _Client(served, anothers)
        idle, before = another.probes(), served.resident_bytes()

        def meanwhile() -> dict[str, Any]:
            started, grown = time.monotonic(), served.resident_bytes() - before
            health = httpx.get(f"{served.url}/health/live").status_code
            attacked = another.probes()
            is_over = wait_until(lambda: another.probes()["statuses"] == {"200": PROBES}, seconds=60)
            seconds = round(time.monotonic() - started, 1)
            findings.expect(health == 200, f"the health page answers: {health}")
            findings.expect(is_over, "idle connections are closed")
            return {
                **attacked,
                "health": health,
                "closed_after_seconds": seconds,
                "resident_growth_bytes": grown,
            }

        statuses, attacked = _hold(served.port, _request("/v1/models", attacker.headers), count, meanwhile)
        findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    findings.measured = {"connections": count, "answers": dict(statuses), "idle": idle, "attack": attacked}
    findings.expect(
        attacked["statuses"] == {"200": PROBES}, f"others are answered 200: {attacked['statuses']}"
    )
    return findings


STEPS = {
    "endless event streams": endless_streams,
    "webhooks to a silent receiver": silent_receiver,
    "idle connections": idle_connections,
}


def main(arguments: list[str]) -> int:
    """Run the steps against the server of a working tree; returns 0 when every promise held."""
    parser = argparse.ArgumentParser(description="Measure clients and receivers that hold on for ever.")
    parser.add_argument("--checkout", type=Path, default=PROJECT, help="working tree of the server")
    parser.add_argument("--only", action="append", choices=sorted(STEPS), help="a step; may be repeated")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: standard output)")
    options = parser.parse_args(arguments)
    found = {}
    for name in options.only or STEPS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = STEPS[name](Path(folder), checkout=options.checkout.resolve()).as_json()
    text = json.dumps(found, indent=2) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
    return 1 if any(one["broken"] for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
