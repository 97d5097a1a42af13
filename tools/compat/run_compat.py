"""`make compat`: every listed client against a live server, and the page of results.

Two servers are started (one of them allows a key one recording a minute) and a proxy that fails on purpose; then one
client after the other is run. `CLIENTS=a,b` picks some; only a run of all of them writes docs/compatibility.md.
Exit codes: 0 every client passed, 1 one did not, 2 the command line makes no sense.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scribewire.engine.demo import sample_recordings
from tools.compat.catalog import Client, ClientUnknown, chosen_clients
from tools.compat.environments import Environment, EnvironmentRefused, Environments
from tools.compat.fault_proxy import FaultProxy
from tools.compat.live_server import PROJECT, LiveServer, ServerFailed, own_environment
from tools.compat.results import ClientResult, Collector, compatibility_page

CACHE = PROJECT / "build" / "compat"
PAGE = PROJECT / "docs" / "compatibility.md"
CLIENT_SECONDS = 900.0
LEFTOVER_SECONDS = 30.0
LANGUAGE_CODES = {"English": "en", "Spanish": "es"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run_compat", description=__doc__)
    parser.add_argument("--clients", default="", metavar="NAMES", help="comma-joined names; all if left out")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where environments are kept")
    arguments = parser.parse_args(argv)
    try:
        clients = chosen_clients(arguments.clients)
    except ClientUnknown as error:
        print(f"compat: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        environments = Environments(arguments.cache)
        prepared = {client.name: pool.submit(environments.prepare, client) for client in clients}
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scribewire-compat-")))
        try:
            bench = Bench(work, clients, stack)
        except ServerFailed as error:
            print(f"compat: {error}", file=sys.stderr)
            return 1
        results = []
        for client in clients:
            result = run_client(client, prepared[client.name], bench)
            report(result)
            results.append(result)
        is_clean = bench.is_left_clean()
    if not arguments.clients:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(compatibility_page(results, run_on=run_on()), encoding="utf-8")
        print(f"compat: {PAGE.relative_to(PROJECT)} is written")
    passed = sum(result.is_passed for result in results)
    seconds = time.monotonic() - started
    print(f"compat: {passed} of {len(results)} clients passed in {seconds:.0f} s")
    return 0 if passed == len(results) and is_clean else 1


class Bench:
    """The servers, the proxy and the recordings that every client is given."""

    def __init__(self, work: Path, clients: Sequence[Client], stack: ExitStack) -> None:
        self._work = work
        opened = work / "opened"
        opened.mkdir()
        recordings = sample_recordings()
        self._allowed_file = opened / "english.wav"
        self._allowed_file.write_bytes(recordings[0].path.read_bytes())
        say("compat: starting the servers")
        # The stand-in for the speaker pipeline, whose weights are nobody's to ship, makes diarized answers possible.
        allowed = ("--allow-local-files", str(opened))
        self._main = LiveServer(work / "main", *allowed, program="tools.compat.stand_in_server")
        self._limited = LiveServer(work / "limited", "--key-requests-per-minute", "1")
        # A key for each client, so that none meets another's limits or results; made first, because a server that
        # has any key asks for one from its first request.
        self._keys = {client.name: self._main.create_key(client.name) for client in clients}
        self._limited_keys = {
            client.name: {
                mode: self._limited.create_key(f"{client.name} {mode}") for mode in ("sync", "async")
            }
            for client in clients
        }
        stack.enter_context(self._main)
        stack.enter_context(self._limited)
        self._proxy = stack.enter_context(FaultProxy(self._main.port))
        self._recordings = {
            one.language.lower(): {
                "path": str(one.path),
                "text": one.reference,
                "language": one.language.lower(),
                "code": LANGUAGE_CODES[one.language],
                "seconds": _seconds_of(one.path),
            }
            for one in recordings
        }

    def plan_for(self, client: Client) -> dict[str, Any]:
        """The plan that a client's program reads."""
        return {
            "version": client.version,
            "base_url": f"{self._main.url}/v1",
            "key": self._keys[client.name],
            "limited_url": f"{self._limited.url}/v1",
            "limited_keys": self._limited_keys[client.name],
            "fault_url": self._proxy.url,
            # The proxy counts attempts by this name.
            "fault_token": client.name,
            "recordings": self._recordings,
            "allowed_file": str(self._allowed_file),
        }

    def plan_file(self, client: Client) -> Path:
        """The plan on disk, for the program's command line."""
        path = self._work / f"{client.name}.json"
        path.write_text(json.dumps(self.plan_for(client)), encoding="utf-8")
        return path

    def is_left_clean(self) -> bool:
        """True when no recording is left on the main server's disk once its last work has ended."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while left := self._main.uploads_left():
            if time.monotonic() > deadline:
                say(f"compat: FAILED: {len(left)} recordings are left on the server's disk")
                return False
            time.sleep(0.2)
        return True


def run_client(client: Client, prepared: Future[Environment], bench: Bench) -> ClientResult:
    """One client from its environment to its result; every way of not running is a result too."""
    if not prepared.done():
        say(f"{client.name}: waiting for its environment")
    try:
        environment = prepared.result()
    except EnvironmentRefused as refusal:
        return ClientResult(client, problem=f"its environment was refused: {refusal}")
    except (OSError, subprocess.SubprocessError) as error:
        return ClientResult(client, problem=f"its environment could not be made: {error}")
    say(f"{client.name}: {environment.runtime}")
    env = own_environment()
    env["PATH"] = ":".join([*map(str, environment.search_path), env.get("PATH", "")])
    return run_program(
        client,
        environment,
        [*environment.command, str(environment.program), str(bench.plan_file(client))],
        env,
    )


def run_program(
    client: Client,
    environment: Environment,
    command: Sequence[str],
    env: dict[str, str],
    *,
    patience_seconds: float = CLIENT_SECONDS,
) -> ClientResult:
    """Run one program to its end, showing each check as it is reported."""
    collector = Collector()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as err:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True
        )
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(patience_seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if check := collector.read(line):
                    mark = "ok    " if check.is_held else "FAILED"
                    say(f"  {mark} {check.name} ({check.seconds:.2f} s)")
            exit_code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        err.seek(0)
        return collector.result(
            client, environment.runtime, None if is_late.is_set() else exit_code, err.read()
        )


def report(result: ClientResult) -> None:
    """One client's end, and all that was wrong."""
    if result.is_passed:
        say(f"{result.client.name}: passed, {len(result.checks)} checks")
        return
    say(f"{result.client.name}: FAILED {result.problem}".rstrip())
    for check in result.failed:
        say(f"  {check.name}: {check.detail}")


def run_on() -> str:
    """Date and machine of the run."""
    system = f"{platform.system()} {platform.machine()}, server on Python {platform.python_version()}"
    return f"Last run: {datetime.now(UTC):%Y-%m-%d}, {system}."


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


def _seconds_of(path: Path) -> float:
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


if __name__ == "__main__":
    sys.exit(main())
