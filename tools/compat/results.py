"""Results of a client's run, and the page that shows them.

A client passes only when its program planned checks, reported every one of them as held, and ended cleanly: silence is
failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.compat.catalog import Client

_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception)\b.*:")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One claim about the server, as one client saw it."""

    name: str
    is_held: bool
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class ClientResult:
    """One client's run.

    runtime: what it ran on; empty if it did not run
    problem: why it did not run, or what was wrong besides its checks
    """

    client: Client
    runtime: str = ""
    checks: tuple[CheckResult, ...] = ()
    problem: str = ""

    @property
    def is_passed(self) -> bool:
        """True when it ran and everything held."""
        return bool(self.checks) and not self.problem and all(check.is_held for check in self.checks)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that did not hold."""
        return tuple(check for check in self.checks if not check.is_held)


@dataclass(slots=True)
class Collector:
    """Reads a program's lines as they come."""

    planned: list[str] | None = None
    checks: list[CheckResult] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def read(self, line: str) -> CheckResult | None:
        """Take one line; returns the check that it reports, if it reports one."""
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or not said.keys() & {"planned", "check"}:
            # Clients print things of their own; they are kept for the case that the program fails.
            self.strays.append(line.rstrip("\n"))
            return None
        if "planned" in said:
            self.planned = [str(name) for name in said["planned"]]
            return None
        check = CheckResult(
            str(said["check"]), said["ok"] is True, float(said["seconds"]), str(said["detail"])
        )
        self.checks.append(check)
        return check

    def result(self, client: Client, runtime: str, exit_code: int | None, err: str) -> ClientResult:
        """The result in all; exit_code None: the program was stopped because it took too long."""
        return ClientResult(client, runtime, tuple(self.checks), self._problem(exit_code, err))

    def _problem(self, exit_code: int | None, err: str) -> str:
        lines = err.strip().splitlines() or self.strays or ["it said nothing"]
        last = " ".join([line for line in lines if _ERROR_LINE.match(line)][-1:] or lines[-3:])[:600]
        if exit_code is None:
            return f"stopped: it took too long; {last}"
        if exit_code != 0:
            return f"exit status {exit_code}: {last}"
        if not self.planned:
            return f"it planned no check: {last}"
        reported = [check.name for check in self.checks]
        if sorted(self.planned) != sorted(reported):
            missing = sorted(set(self.planned) - set(reported)) or reported
            return f"checks planned and reported differ: {', '.join(missing)[:300]}"
        return ""


def compatibility_page(results: Sequence[ClientResult], *, run_on: str) -> str:
    """`docs/compatibility.md`. run_on: date, system and version of the run."""
    lines = [
        "# Compatibility",
        "",
        "Written by `make compat`, which runs each client below, unmodified and in an environment of its own, against",
        "`scribewire serve` with the bundled demo model: a separate process on the loopback address, behind API keys.",
        "Transcripts are compared with the words of the two shipped recordings; a client that does not run fails. Only",
        "the speaker pipeline is a stand-in. Realtime sessions of LiveKit, pipecat and openai-agents are not tried:",
        "there is no realtime API here.",
        "",
        run_on,
        "",
        "| Client | Version | Runs on | Checks held | Result |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        held = f"{len(one.checks) - len(one.failed)} of {len(one.checks)}" if one.checks else "none"
        version = one.client.version or one.runtime.rpartition(" ")[2]
        lines.append(
            f"| {one.client.title} | {version} | {one.runtime or 'did not run'} | {held} | {_verdict(one)} |"
        )
    lines += ["", "## What was exercised", ""]
    names_of: dict[str, list[str]] = {}
    for one in results:
        names_of.setdefault("; ".join(_exercised(one)) or "nothing", []).append(one.client.name)
    lines += [f"* **{', '.join(names)}**: {exercised}." for exercised, names in names_of.items()]
    if failures := [(one, check) for one in results for check in one.failed]:
        lines += ["", "## What failed", ""]
        lines += [f"* **{one.client.name}**, {c.name}: {_one_line(c.detail)}" for one, c in failures]
    return "\n".join(lines) + "\n"


def _verdict(one: ClientResult) -> str:
    if one.is_passed:
        return "passed"
    reasons = [_one_line(one.problem)] if one.problem else []
    if one.failed:
        reasons.append("failed: " + ", ".join(check.name for check in one.failed))
    return ("FAILED: " + "; ".join(reasons)) if reasons else "FAILED"


def _exercised(one: ClientResult) -> list[str]:
    """Check names, `sync: x` and `async: x` listed once."""
    modes: dict[str, list[str]] = {}
    for check in one.checks:
        mode, colon, rest = check.name.partition(": ")
        is_mode = bool(colon) and mode in ("sync", "async")
        modes.setdefault(rest if is_mode else check.name, []).append(mode if is_mode else "")
    found = []
    for name, seen in modes.items():
        only = f" ({seen[0]} only)" if len(seen) == 1 and seen[0] else ""
        found.append(name + only)
    return found


def _one_line(text: str) -> str:
    """Fit for a table's cell, with no paths or ports of the machine that ran it."""
    return " ".join(text.split()).replace("|", "\\|")[:500]
