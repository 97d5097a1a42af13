"""A disk of eight megabytes that fills up: refusals before the body, nothing left, and work again when there is room.

The disk is a real tmpfs, for which one must be root on Linux.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.fakes.raw_http import FORM_TYPE, error_of, read_answer, request
from tests.fakes.running_server import script
from tests.fakes.served import Served
from tools.hostile.connections import Findings
from tools.torture.clients import Client, wait_for, wait_until_all_ended
from tools.torture.engine_kills import FAKE
from tools.torture.invariants import check_store
from tools.torture.ledger import Ledger

DISK_BYTES = 8 << 20
RECOVERED_SECONDS = 5.0


def why_no_disk() -> str | None:
    """The reason why no small disk can be made here; None where it can."""
    if sys.platform != "linux":
        return "a tmpfs is made on Linux only"
    if os.geteuid() != 0:
        return "only root may mount a tmpfs"
    return None


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        raise PermissionError(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder: Path) -> Findings:
    """Fill it with waiting jobs, be refused in every way, make room, and go on."""
    findings, ledger = Findings(), Ledger()
    with (
        small_disk(folder / "disk") as disk,
        Served(disk / "data", engine_module=FAKE, max_running_jobs=1) as served,
        Client(served, ledger) as client,
    ):
        # Holds the one place, so that all others keep their recordings.
        blocker = client.submit_script("blocker", delay_seconds=600)
        wait_for(lambda: client.job(blocker)["status"] == "processing")
        waiting = _fill(served, client)
        refused = _refusals(served, findings)
        # The disk is filled to its last block from outside, too.
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        refused |= _refusals(served, findings)
        findings.expect(not _partial_files(served), f"no partial file is left: {_partial_files(served)}")
        status_at_full = client.http.get("/jobs?limit=1").status_code
        findings.expect(status_at_full == 200, f"what was accepted can still be asked for: {status_at_full}")
        ballast.unlink()
        # Room is made as users make it: more than the megabyte that the server keeps free for itself.
        started = time.monotonic()
        for job_id in waiting[:3]:
            client.http.delete(f"/jobs/{job_id}").raise_for_status()
            ledger.end(job_id, "cancelled")
        recovered = wait_for(lambda: _is_accepted(client), seconds=60) and time.monotonic() - started
        findings.expect(recovered <= RECOVERED_SECONDS, f"it takes jobs again within 5 s: {recovered:.2f} s")
        client.http.delete(f"/jobs/{blocker}").raise_for_status()
        ledger.end(blocker, "cancelled")
        wait_until_all_ended(served)
        findings.measured = {
            "disk_bytes": DISK_BYTES,
            "jobs_until_full": len(waiting),
            "refusals": dict(refused),
            "takes_jobs_again_after_seconds": round(recovered, 3),
            "partial_files": len(_partial_files(served)),
            "store": check_store(findings, served.data, ledger),
        }
        findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings


def _recording() -> bytes:
    return script(text="small", padding="x" * 600_000)


def _fill(served: Served, client: Client) -> list[str]:
    """Submit until there is no room."""
    waiting = []
    for _ in range(100):
        answer = client.http.post("/transcribe", files={"file": _recording()})
        if answer.status_code != 202:
            client.ledger.answer("submission", answer.status_code)
            return waiting
        client.ledger.accept(answer.json()["job_id"], "small")
        waiting.append(answer.json()["job_id"])
    raise AssertionError("the disk never was full")


def _refusals(served: Served, findings: Findings) -> Counter[str]:
    """With a length that does not fit: before the body. Of unknown length: in its middle."""
    counts: Counter[str] = Counter()
    for path in ("/transcribe", "/v1/audio/transcriptions"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(request(served.port, FORM_TYPE, "Content-Length: 7000000", path=path))
            answer = read_answer(connection)
        status = answer.status if answer is not None else 0
        findings.expect(status == 507, f"507 before a byte of the body is sent, not {status}")
        if answer is not None:
            findings.expect(error_of(answer)["code"] == "disk_full", "the refusal says disk_full")
        counts[f"{path} before the body {status}"] += 1
    for _ in range(5):
        big = script(text="big", padding="y" * 7_000_000)

        def pieces(big: bytes = big) -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
            for start in range(0, len(big), 65536):
                yield big[start : start + 65536]
            yield b"\r\n--b--\r\n"

        status = _status_of_stream(served, pieces())
        findings.expect(status == 507, f"507 in the middle of a body, not {status}")
        counts[f"in the body {status}"] += 1
    return counts


def _status_of_stream(served: Served, pieces: Iterator[bytes]) -> int:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    try:
        return httpx.post(f"{served.url}/transcribe", content=pieces, headers=headers, timeout=60).status_code
    except httpx.TransportError:
        return 0


def _is_accepted(client: Client) -> bool:
    answer = client.http.post("/transcribe", files={"file": _recording()})
    if answer.status_code == 202:
        client.ledger.accept(answer.json()["job_id"], "small")
    return answer.status_code == 202


def _partial_files(served: Served) -> list[str]:
    return [path.name for path in served.leftovers()]
