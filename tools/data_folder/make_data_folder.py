"""Make the data folder that tests open to see that nothing of an older server's is lost: make_data_folder.py FOLDER

FOLDER/data_folder        the folder as a server that was killed leaves it, database checkpointed, without locks
FOLDER/data_folder.json   what is in it: the keys' secrets, and every job and its events as they were read back

The folder in fixtures/ was made by the commit that is named there. It is not made again when the layout changes: to be
old is what it is for. Recordings are scripts for the fake worker; keys and secret open nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from scribewire.server.access.keys import KeyStore
from scribewire.server.jobs.job import Job, JobFailure, Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.webhooks.signing import WebhookSecret
from tests.fakes.stores_under_test import CALLBACK_URL, SPOKEN_OPTIONS, transcript

CRASH = JobFailure("engine_crashed", "The engine crashed.", "server_error")
REFUSED = JobFailure("audio_undecodable", "No audio could be decoded.", "invalid_request_error", "file")


class Writer:
    """Jobs of two owners in every state, in a store that is never closed: closing gives the running job back."""

    def __init__(self, folder: Path, ann: str, bob: str) -> None:
        self.folder = folder
        self.ann = ann
        self.bob = bob
        self.store = SqliteJobStore(folder)
        self.named: dict[str, Job] = {}

    async def submit(self, name: str, owner: str, **fields: Any) -> None:
        """A job whose recording has the fake worker say its name."""
        data = json.dumps({"text": f"This was {name}."}).encode()
        source = self.folder / "upload"
        source.write_bytes(data)
        audio = await self.store.put_audio(source, sha256=hashlib.sha256(data).hexdigest())
        self.named[name] = (await self.store.submit(Submission(owner, audio, **fields))).job

    async def write(self) -> list[dict[str, Any]]:
        """All of it; returns what the store says of each job."""
        await self.store.open()
        await self.submit(
            "completed", self.ann, options=SPOKEN_OPTIONS, callback_url=CALLBACK_URL, idempotency_key="k1"
        )
        (claim,) = await self.store.claim("w1")
        await self.store.heartbeat(claim, audio_seconds_done=1.0, audio_seconds_total=2.5, new_text="Good ")
        await self.store.complete(claim, transcript(), is_demo=True)
        (webhook,) = await self.store.take_callbacks()
        await self.store.note_callback(webhook, error=None)

        await self.submit("failed", self.ann, callback_url=CALLBACK_URL, result_format="srt")
        for failure in (CRASH, REFUSED):
            (claim,) = await self.store.claim("w1")
            await self.store.fail(claim, failure, retryable=failure is CRASH)
        (webhook,) = await self.store.take_callbacks()
        await self.store.note_callback(webhook, error="HTTP 503", retry_seconds=0.0)

        await self.submit("cancelled", self.bob, callback_url=CALLBACK_URL)
        await self.store.cancel(self.named["cancelled"].job_id, self.bob)  # its webhook was never tried

        await self.submit("running", self.bob, options=SPOKEN_OPTIONS)
        (claim,) = await self.store.claim("w1")
        await self.store.heartbeat(claim, audio_seconds_done=0.5, audio_seconds_total=9.0, new_text="Half ")
        await self.submit(
            "queued", self.ann, options=SPOKEN_OPTIONS, callback_url=CALLBACK_URL, idempotency_key="k2"
        )
        await self.submit("queued behind it", self.bob, result_format="vtt")
        await self.store.check()  # notes the clock that ages are counted by
        return [await self.read(name) for name in self.named]

    async def read(self, name: str) -> dict[str, Any]:
        """A job and its events by the names that this program's values have now."""
        named = self.named[name]
        job = await self.store.get(named.job_id, named.owner)
        assert job is not None
        events = []
        async with asyncio.timeout(60):
            async for event in self.store.events(job.job_id, job.owner):
                events.append(dataclasses.asdict(event))
                # An unfinished job's log has no end; its events are these, by the story above.
                if len(events) == {"running": 4, "queued": 1, "queued behind it": 1}.get(name):
                    break
        values = dataclasses.asdict(job)
        audio = await self.store.audio(job.job_id, job.owner)
        return {
            "name": name,
            "job": values,
            "events": events,
            "recording": None if audio is None else audio.read_text(),
        }


def main(target: Path) -> None:
    """Write both below `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        keys = KeyStore(data)
        secrets = {name: keys.create(name) for name in ("ann", "bob", "revoked")}
        keys.revoke(secrets["revoked"][0])
        webhook_secret = WebhookSecret(data).text()
        writer = Writer(data, secrets["ann"][0], secrets["bob"][0])

        async def story() -> list[dict[str, Any]]:
            jobs = await writer.write()
            with closing(sqlite3.connect(data / "jobs" / "jobs.db")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copytree(
                data, target / "data_folder", ignore=shutil.ignore_patterns("*lock", "*-wal", "*-shm")
            )
            return jobs

        jobs = asyncio.run(story())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    described = {
        "commit": commit.stdout.strip(),
        "keys": secrets,
        "webhook_secret": webhook_secret,
        "jobs": jobs,
    }
    text = json.dumps(described, indent=1, default=bytes.hex, ensure_ascii=False)
    (target / "data_folder.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
