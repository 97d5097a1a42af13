"""A data folder of an older server opens with all of it intact: make_data_folder.py wrote the one in fixtures.

Its ages count from the day it was written, so everything here is kept for as long as can be asked for (a server: ten
years): what is looked at is what was kept, not for how long. A wall clock behind that day changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.access.keys import KeyStore
from scribewire.server.jobs.job import Job, Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import JobStore, StoreRules
from scribewire.server.webhooks.signing import WebhookSecret
from tests.fakes.running_server import RunningServer
from tests.fakes.stores_under_test import CALLBACK_URL, SPOKEN_OPTIONS
from tests.fakes.waiting import run, wait_until

FIXTURES = Path(__file__).resolve().parent / "fixtures"
WRITTEN: dict[str, Any] = json.loads((FIXTURES / "data_folder.json").read_text(encoding="utf-8"))
JOBS: dict[str, dict[str, Any]] = {one["name"]: one for one in WRITTEN["jobs"]}
TEN_YEARS_DAYS = 3660
KEPT_FOR_EVER = StoreRules(keep_results_seconds=1e12, keep_failed_audio_seconds=1e12)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy with the modes that a server gives its files, which git does not keep."""
    copy = tmp_path / "data"
    shutil.copytree(FIXTURES / "data_folder", copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


def as_written(value: Any, like: Any) -> Any:
    """A value as JSON, with the fields that are in the other one: later ones have no part in it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: as_written(getattr(value, name), old) for name, old in like.items()}
    if isinstance(value, tuple):
        return [as_written(one, old) for one, old in zip(value, like, strict=True)]
    return value.hex() if isinstance(value, bytes) else value


async def job_of(store: JobStore, name: str) -> Job:
    written = JOBS[name]["job"]
    job = await store.get(written["job_id"], written["owner"])
    assert job is not None
    return job


def test_folder_holds_every_state_and_no_path_of_the_machine_that_made_it():
    assert [(name, one["job"]["status"]) for name, one in JOBS.items()] == [
        ("completed", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("running", "processing"),
        ("queued", "queued"),
        ("queued behind it", "queued"),
    ]
    for path in FIXTURES.rglob("*"):
        if path.is_file():
            assert re.search(rb"/\w+/\w", path.read_bytes()) is None, path


def test_jobs_texts_logs_and_recordings_are_as_they_were_and_the_running_one_is_queued_again(data: Path):
    async def story():
        store = SqliteJobStore(data, KEPT_FOR_EVER)
        swept = await store.open()
        assert (swept.results, swept.recordings, swept.requeued, swept.orphans) == (0, 0, 1, 0)
        positions = {"running": 1, "queued": 2, "queued behind it": 3}
        for name, written in JOBS.items():
            expected = dict(written["job"], queue_position=positions.get(name))
            events = written["events"]
            job_id, owner = expected["job_id"], expected["owner"]
            if name == "running":
                expected |= {"status": "queued", "started_at": None, "attempts": 0}
                expected |= {"audio_seconds_done": 0.0, "partial_text": ""}
            job = await job_of(store, name)
            assert as_written(job, expected) == expected
            for other in {one["job"]["owner"] for one in JOBS.values()} - {owner}:
                assert await store.get(job_id, other) is None
            audio = await store.audio(job_id, owner)
            assert (None if audio is None else audio.read_text()) == written["recording"]
            log = store.events(job_id, owner)
            for event in events:
                assert as_written(await anext(log), event) == event
            if name == "running":
                again = await anext(log)
                assert (again.event_id, again.kind) == (len(events) + 1, "queued")
            elif job.is_finished:
                assert [event async for event in log] == []
        await store.close()

    run(story())


def test_webhooks_are_due_submissions_are_known_and_the_running_job_is_taken_first(
    data: Path, tmp_path: Path
):
    async def story():
        store = SqliteJobStore(data, KEPT_FOR_EVER)
        await store.open()
        taken = {one.job_id: one for one in await store.take_callbacks(limit=10)}
        waiting = {name: taken.pop(JOBS[name]["job"]["job_id"]) for name in ("failed", "cancelled")}
        assert taken == {}
        assert {name: one.attempt for name, one in waiting.items()} == {"failed": 2, "cancelled": 1}
        assert {one.url for one in waiting.values()} == {CALLBACK_URL}
        bodies = {name: json.loads(one.body) for name, one in waiting.items()}
        assert {name: body["type"] for name, body in bodies.items()} == {
            "failed": "job.failed",
            "cancelled": "job.cancelled",
        }
        assert bodies["failed"]["data"]["error"]["code"] == "audio_undecodable"
        for name, key in (("completed", "k1"), ("queued", "k2")):
            source = tmp_path / "again"
            source.write_text(json.dumps({"text": f"This was {name}."}))
            sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
            audio = await store.put_audio(source, sha256=sha256)
            owner = JOBS[name]["job"]["owner"]
            again = await store.submit(
                Submission(
                    owner,
                    audio,
                    options=SPOKEN_OPTIONS,
                    idempotency_key=key,
                    callback_url=CALLBACK_URL,
                    filename="a",
                )
            )
            assert (again.job.job_id, again.is_new) == (JOBS[name]["job"]["job_id"], False)
        claims = await store.claim("w1", limit=9)
        order = [JOBS[name]["job"]["job_id"] for name in ("running", "queued", "queued behind it")]
        assert [claim.job.job_id for claim in claims] == order
        assert {claim.job.attempts for claim in claims} == {1}
        await store.close()

    run(story())


def test_keys_and_the_webhook_secret_count_as_before(data: Path):
    keys = KeyStore(data)
    for name, (key_id, secret) in WRITTEN["keys"].items():
        found = keys.authenticate(secret)
        assert (found and (found.key_id, found.name)) == (None if name == "revoked" else (key_id, name))
    assert [(key.name, key.is_active) for key in keys.list()] == [
        ("ann", True),
        ("bob", True),
        ("revoked", False),
    ]
    assert keys.is_key_required()
    assert WebhookSecret(data).text() == WRITTEN["webhook_secret"]


def test_server_shows_each_key_its_jobs_and_does_what_was_left(data: Path):
    kept = {"keep_results_days": TEN_YEARS_DAYS, "keep_failed_audio_days": TEN_YEARS_DAYS}
    with RunningServer(data, **kept) as running:

        def get(path: str, key: str) -> Any:
            response = running.client.get(
                path, headers={"authorization": f"Bearer {WRITTEN['keys'][key][1]}"}
            )
            return response.json() if response.status_code == 200 else response.status_code

        assert running.client.get("/jobs").status_code == 401
        assert get("/jobs", "revoked") == 401
        for key in ("ann", "bob"):
            mine = {
                name: one["job"]["job_id"] for name, one in JOBS.items() if one["job"]["owner"] == keyed(key)
            }
            assert [job["job_id"] for job in get("/jobs", key)["data"]] == list(mine.values())[::-1]
            for name, job_id in mine.items():
                done = wait_until(
                    lambda job_id=job_id, key=key: (one := get(f"/jobs/{job_id}", key))["finished_at"] and one
                )
                written = JOBS[name]["job"]
                if name in ("completed", "failed", "cancelled"):
                    assert (done["status"], done["attempts"]) == (name, written["attempts"])
                    assert done["created_at"] == int(written["created_at"])
                else:
                    assert (done["status"], done["attempts"]) == ("completed", 1)
                    assert done["result"]["text"] == f"This was {name}."
        assert get(f"/jobs/{JOBS['completed']['job']['job_id']}", "bob") == 404
        result = get(f"/jobs/{JOBS['completed']['job']['job_id']}/result?format=json", "ann")
        assert result["text"] == "Good morning."

        def webhook(name: str, key: str) -> Any:
            return get(f"/jobs/{JOBS[name]['job']['job_id']}", key)["callback"]

        # This server allows no address, so that the attempts it makes end there.
        tried = wait_until(lambda: (one := webhook("failed", "ann"))["status"] == "given_up" and one)
        assert tried["attempts"] == 2
        tried = wait_until(lambda: (one := webhook("cancelled", "bob"))["status"] == "given_up" and one)
        assert tried["attempts"] == 1
        assert webhook("completed", "ann")["status"] == "delivered"


def keyed(name: str) -> str:
    """The id of a key."""
    key_id: str = WRITTEN["keys"][name][0]
    return key_id
