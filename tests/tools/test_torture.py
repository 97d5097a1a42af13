"""The torture suite in short: every fault once or a few times, nothing that is timed. `make torture` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.hostile.connections import Findings
from tools.torture.bad_jobs import leak, poison
from tools.torture.clock_jumps import clock_jumps, faketime_library
from tools.torture.engine_kills import kill_demo_engines, kill_fake_engines
from tools.torture.front_kills import kill_front
from tools.torture.full_disk import full_disk, why_no_disk
from tools.torture.hangs import hangs
from tools.torture.mixed_load import LoadPlan, mixed_load
from tools.torture.rates import sustained

pytestmark = pytest.mark.process


def quietly(*_: object) -> None:
    """Show no progress."""


def assert_holds(findings: Findings, *timed: str) -> None:
    """Every promise but those of time, of which these words speak."""
    broken = [claim for claim in findings.broken if not any(words in claim for words in timed)]
    assert not broken, broken


def test_killed_engine_loses_no_job_and_completes_none_twice(tmp_path: Path):
    findings = kill_fake_engines(tmp_path, 2, show=quietly)
    assert_holds(findings, "within 100 ms")
    assert findings.measured["kills"] == 2
    assert findings.measured["store"]["worker_deaths_on_records"] >= 20


@pytest.mark.slow
def test_killed_real_engine_loses_no_job(tmp_path: Path):
    assert_holds(kill_demo_engines(tmp_path, 2, show=quietly), "within 100 ms")


def test_killed_front_loses_no_job_and_leaves_nothing_behind(tmp_path: Path):
    assert_holds(kill_front(tmp_path, 40), "within 2 s")


@pytest.mark.slow
def test_engine_that_stands_still_is_replaced(tmp_path: Path):
    assert_holds(hangs(tmp_path, stall_seconds=3.0), "within 8", "within 30 s")


@pytest.mark.skipif(why_no_disk() is not None, reason=str(why_no_disk()))
def test_full_disk_refuses_leaves_nothing_and_recovers(tmp_path: Path):
    try:
        findings = full_disk(tmp_path)
    except PermissionError as reason:
        pytest.skip(str(reason))
    assert_holds(findings, "within 5 s")


@pytest.mark.skipif(faketime_library() is None, reason="libfaketime is not installed")
def test_clock_that_jumps_changes_nothing(tmp_path: Path):
    assert_holds(clock_jumps(tmp_path, sweeps_seconds=0.5))


def test_poisonous_jobs_fail_alone_after_three_attempts(tmp_path: Path):
    assert_holds(poison(tmp_path, neighbours=6))


@pytest.mark.slow
def test_leaking_worker_dies_and_its_jobs_do_not(tmp_path: Path):
    assert_holds(leak(tmp_path, jobs=12))


def test_every_submission_on_a_schedule_is_taken_and_drains(tmp_path: Path):
    assert_holds(sustained(tmp_path, 1.0, show=quietly), "jobs a second are taken")


@pytest.mark.slow
def test_everything_at_once_ends_well(tmp_path: Path):
    plan = LoadPlan(seconds=40.0, warm_seconds=20.0, worker_kill_seconds=5.0, child_kill_seconds=10.0)
    assert_holds(mixed_load(tmp_path, plan, show=quietly), "resident memory", "descriptors")
