"""The checker itself: a store in which something is wrong is noticed, or the torture runs prove nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from scribewire.engine.protocol.transcript import TokenUsage, Transcript
from scribewire.server.jobs.job import JobFailure, Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from tests.fakes.waiting import run
from tools.hostile.connections import Findings
from tools.torture import invariants
from tools.torture.invariants import check_store
from tools.torture.ledger import Ledger

CRASH = JobFailure("engine_crashed", "it died", "server_error")


def transcript(text: str) -> Transcript:
    return Transcript(
        text=text,
        language="English",
        languages=("English",),
        duration_seconds=1.0,
        segments=(),
        model_id="fake",
        usage=TokenUsage(audio_tokens=1, text_tokens=1, output_tokens=1),
    )


async def _fill(data: Path, ledger: Ledger) -> None:
    """One job completed, one failed of three worker deaths, one cancelled."""
    store = SqliteJobStore(data)
    await store.open()
    ids = []
    for name in ("completed", "failed", "cancelled"):
        source = data / name
        source.write_bytes(b"audio")
        submitted = await store.submit(
            Submission("ann", await store.put_audio(source, sha256=name.ljust(64, "0")))
        )
        ids.append(submitted.job.job_id)
        ledger.accept(submitted.job.job_id, "hello" if name == "completed" else None)
    await store.cancel(ids[2], "ann")
    (claim,) = await store.claim("one")
    assert await store.complete(claim, transcript("hello"), is_demo=False)
    for _ in range(3):
        (claim,) = await store.claim("one")
        await store.fail(claim, CRASH, retryable=True)
    for job_id, status in zip(ids, ("completed", "failed", "cancelled"), strict=True):
        ledger.end(job_id, status)
    await store.close()


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Ledger]:
    monkeypatch.setattr(invariants, "AUDIO_GRACE_SECONDS", 0.0)
    ledger = Ledger()
    run(_fill(tmp_path, ledger))
    return tmp_path, ledger


def broken(stored: tuple[Path, Ledger]) -> list[str]:
    findings = Findings()
    check_store(findings, *stored)
    return findings.broken


def test_sound_store_breaks_no_promise(stored: tuple[Path, Ledger]):
    assert broken(stored) == []


def sql(statement: str) -> Callable[[Path, Ledger], None]:
    def change(data: Path, ledger: Ledger) -> None:
        with sqlite3.connect(data / "jobs" / "jobs.db") as database:
            database.execute(statement)
        database.close()

    return change


def lie(status: str) -> Callable[[Path, Ledger], None]:
    return lambda data, ledger: ledger.end(next(iter(ledger.jobs)), status)


WRONGS: dict[str, tuple[Callable[[Path, Ledger], None], str]] = {
    "a lost job": (sql("DELETE FROM jobs WHERE status = 'completed'"), "is in the store"),
    "a job without an end": (
        sql("UPDATE jobs SET status = 'queued' WHERE status = 'completed'"),
        "has an end",
    ),
    "a job completed twice": (
        sql(
            "INSERT INTO events SELECT seq, 99, 'done', 0, 1, 0, 0, '', NULL FROM jobs WHERE status = 'completed'"
        ),
        "completed twice",
    ),
    "a failure with too few deaths": (
        sql("""UPDATE jobs SET deaths = '[]' WHERE status = 'failed'"""),
        "three deaths on its record",
    ),
    "another job's text": (
        sql("UPDATE texts SET transcript = replace(transcript, 'hello', 'bye')"),
        "its own text",
    ),
    "a client that was told something else": (lie("failed"), "clients were told"),
    "a recording too many": (
        lambda data, ledger: (data / "jobs" / "audio" / ("0" * 32)).write_bytes(b"x") and None,
        "outlives",
    ),
    "a job that nobody submitted": (
        lambda data, ledger: ledger.jobs.popitem() and None,
        "nobody was told of",
    ),
}


@pytest.mark.parametrize("name", WRONGS)
def test_each_wrong_is_noticed(stored: tuple[Path, Ledger], name: str):
    change, words = WRONGS[name]
    change(*stored)
    assert any(words in claim for claim in broken(stored)), broken(stored)
