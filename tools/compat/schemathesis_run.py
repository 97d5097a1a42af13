"""Schemathesis over the description at /openapi.json: every check but one, at least 2,000 examples, seeded.

A server with the bundled demo model, and a stand-in for the speaker pipeline, is started behind a key; its description
is fetched, and Schemathesis asks it for valid and invalid requests of every address
(tools/compat/clients/schemathesis_hooks.py gives it real recordings). What came of it is printed and written to
tools/compat/results/schemathesis.json.
Exit codes: 0 nothing was found, 1 something was found or too little was tried, 2 it could not be run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scribewire.engine.demo import sample_recordings
from tools.compat.catalog import Client
from tools.compat.environments import Environment, EnvironmentRefused, Environments
from tools.compat.live_server import PROJECT, LiveServer, ServerFailed, own_environment

SCHEMATHESIS = Client("schemathesis", "Schemathesis", "4.32.5", "python", "schemathesis_hooks.py")
SEED = 20261120
LEAST_EXAMPLES = 2000
EXAMPLES_PER_OPERATION = 200
RUN_SECONDS = 1800.0
CACHE = PROJECT / "build" / "compat"
CONFIGURATION = PROJECT / "tools" / "compat" / "schemathesis.toml"
RESULTS = PROJECT / "tools" / "compat" / "results" / "schemathesis.json"
NOT_PROMISED = "use_after_free"
"""DELETE cancels an unfinished job, which is still there to be asked for, as the description says; it erases a finished
one. Nothing else can be deleted."""

MUST_SUCCEED = ("POST /v1/audio/transcriptions", "POST /transcribe")
"""Operations of which valid requests must have been accepted, or nothing was really tried."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run, as Schemathesis reports it."""

    report: dict[str, Any]
    output: str
    seconds: float

    @property
    def example_count(self) -> int:
        """Requests that were made up and sent."""
        return int(self.report["test_cases"]["generated"])

    def accepted_count(self, operation: str) -> int:
        """Valid requests of one operation that were answered with success."""
        rates = self.report["valid_rates"].get(operation, {})
        return sum(phase["accepted"] for phase in rates.values())

    def problems(self, least_examples: int) -> list[str]:
        """Reasons why the run does not count as passed; none when it does."""
        found = [
            f"{failure['title']} ({failure['code']}): {', '.join(failure['operations'])}"
            for failure in self.report["failures"]
        ]
        found += [f"{error['title']}: {error['count']}" for error in self.report["errors"]]
        operations = self.report["operations"]
        if not self.report["complete"] or operations["tested"] != operations["total"]:
            found.append(
                f"only {operations['tested']} of {operations['total']} operations were tried to the end"
            )
        if self.example_count < least_examples:
            found.append(f"only {self.example_count} examples were tried, not {least_examples}")
        found += [
            f"no valid request was accepted: {name}" for name in MUST_SUCCEED if not self.accepted_count(name)
        ]
        if self.report["exit_code"] and not found:
            found.append(f"Schemathesis ended with exit code {self.report['exit_code']}")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run Schemathesis; returns the exit code."""
    parser = argparse.ArgumentParser(prog="schemathesis_run", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the environment is kept")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--max-examples", type=int, default=EXAMPLES_PER_OPERATION, help="of one operation")
    parser.add_argument("--least-examples", type=int, default=LEAST_EXAMPLES, help="of all together")
    arguments = parser.parse_args(argv)
    try:
        environment = Environments(arguments.cache).prepare(SCHEMATHESIS)
        outcome = run(environment, seed=arguments.seed, max_examples=arguments.max_examples)
    except (EnvironmentRefused, ServerFailed, RunFailed) as error:
        print(f"schemathesis: {error}", file=sys.stderr)
        return 2
    problems = outcome.problems(arguments.least_examples)
    if problems:
        print(outcome.output)
    write_results(outcome, problems, environment)
    for problem in problems:
        print(f"schemathesis: {problem}")
    operations = outcome.report["operations"]["tested"]
    print(
        f"schemathesis {SCHEMATHESIS.version}: {outcome.example_count} examples of {operations} operations, "
        f"seed {arguments.seed}, in {outcome.seconds:.0f} s: " + ("failed" if problems else "nothing found")
    )
    return 1 if problems else 0


class RunFailed(Exception):
    """Schemathesis ended without a report; the message quotes its last words."""


def run(environment: Environment, *, seed: int, max_examples: int) -> Outcome:
    """Start the server and let Schemathesis at it. Raises ServerFailed, RunFailed."""
    with tempfile.TemporaryDirectory(prefix="scribewire-schemathesis-") as folder:
        work = Path(folder)
        server = LiveServer(work / "data", program="tools.compat.stand_in_server")
        key = server.create_key("schemathesis")
        with server:
            description, report = work / "openapi.json", work / "report.json"
            description.write_bytes(fetch(f"{server.url}/openapi.json", key))
            command = [
                *environment.command, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION),
                "run", str(description), "--url", server.url, "--header", f"Authorization: Bearer {key}",
                "--checks", "all", "--exclude-checks", NOT_PROMISED,
                "--seed", str(seed), "--max-examples", str(max_examples), "--continue-on-failure",
                "--generation-database", "none", "--no-color",
                "--report", "json", "--report-json-path", str(report),
            ]  # fmt: skip
            variables = {
                "PYTHONPATH": str(environment.program.parent),
                "SCHEMATHESIS_HOOKS": environment.program.stem,
                "SPEECH_WAV": str(sample_recordings()[0].path),
            }
            started = time.monotonic()
            try:
                done = subprocess.run(
                    command,
                    cwd=work,
                    env={**own_environment(), **variables},
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=RUN_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise RunFailed(f"it took more than {RUN_SECONDS:.0f} s") from None
            seconds = time.monotonic() - started
            output = shortened(done.stdout + done.stderr)
            if not report.exists():
                raise RunFailed(f"it made no report (exit code {done.returncode}): {output[-2000:]}")
            return Outcome(json.loads(report.read_text(encoding="utf-8")), output, seconds)


def fetch(url: str, key: str) -> bytes:
    """The body of one answer."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def shortened(output: str) -> str:
    """Lines cut where they hold a whole recording."""
    return "\n".join(line if len(line) < 1500 else f"{line[:1500]} ..." for line in output.splitlines())


def write_results(outcome: Outcome, problems: list[str], environment: Environment) -> None:
    """Write the tests that were run and their outcomes, as JSON."""
    report = outcome.report
    body = {
        "tool": f"schemathesis {report['schemathesis_version']}",
        "runtime": environment.runtime,
        "server": "scribewire serve --model demo --device cpu, behind a key",
        "checks": "all",
        "seed": report["seed"],
        "run_on": datetime.now(UTC).date().isoformat(),
        "seconds": round(outcome.seconds, 1),
        "operations": report["operations"],
        "phases": {name: phase["status"] for name, phase in report["phases"].items()},
        "examples": report["test_cases"],
        "valid_requests": report["valid_rates"],
        "problems": problems,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
