"""A child program for tests of the store on disk: submits for ever, or until its disk is full, and says what it did.

submitting_program.py FOLDER for-ever       a line per acknowledged job: its id and its recording's bytes
submitting_program.py FOLDER file-limit     submits until files may not grow, then once more when they may
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import resource
import secrets
import sys
from pathlib import Path

from scribewire.server.jobs.job import Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import JobStoreDiskFull, StoreRules

CALLERS = 8
FILE_LIMIT_BYTES = 600_000


async def submit(store: SqliteJobStore, folder: Path, data: bytes) -> str:
    """One job; returns its id."""
    source = folder / f"upload-{secrets.token_hex(8)}"
    source.write_bytes(data)
    audio = await store.put_audio(source, sha256=hashlib.sha256(data).hexdigest())
    return (await store.submit(Submission("ann", audio))).job.job_id


async def for_ever(folder: Path) -> None:
    """Submit from several callers and claim now and then, until killed."""
    store = SqliteJobStore(folder / "data", StoreRules(max_unfinished=1_000_000))
    await store.open()
    numbers = itertools.count()

    async def caller() -> None:
        for number in numbers:
            data = f"recording {number}".encode()
            job_id = await submit(store, folder, data)
            print(json.dumps([job_id, data.decode()]), flush=True)
            if number % 5 == 0:
                await store.claim("w1")

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def file_limit(folder: Path) -> None:
    """Run into a limit on the size of files, as a full disk would be; say what is left, then go on with room."""
    store = SqliteJobStore(folder / "data")
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
    acknowledged = 0
    refusals: list[str] = []
    while len(refusals) < 3:
        try:
            await submit(store, folder, b"audio")
            acknowledged += 1
        except JobStoreDiskFull as error:
            refusals.append(error.code)
    recordings = len(list((folder / "data" / "jobs" / "audio").iterdir()))
    still_answers = len((await store.list("ann", limit=3)).jobs)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await submit(store, folder, b"audio")
    stats = await store.stats()
    await store.close()
    print(json.dumps([acknowledged, refusals, recordings, still_answers, stats.jobs["queued"]]), flush=True)


if __name__ == "__main__":
    mode = {"for-ever": for_ever, "file-limit": file_limit}[sys.argv[2]]
    asyncio.run(mode(Path(sys.argv[1])))
