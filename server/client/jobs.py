"""`scribewire jobs`: the key's jobs at a server, listed, shown, cancelled, erased and retried."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scribewire.engine.processes.console import Console, shortened, shown_duration, table
from scribewire.server.client.connection import ServerConnection
from scribewire.server.client.failures import (
    EXIT_FAILED,
    BadCommand,
    ClientFailure,
    NoServer,
    NoSuchJob,
    Refused,
)
from scribewire.server.client.submit import DEMO_NOTE, end_in_words, is_worth_retrying, result_of
from scribewire.server.client.waiting import wait_for_job
from scribewire.server.jobs.sqlite.recordings import ORPHANS_FOLDER

STATUSES = ("queued", "processing", "completed", "failed", "cancelled")
FINISHED = ("completed", "failed", "cancelled")
_AGES = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def age_in_seconds(text: str) -> float:
    """`90m`, `12h`, `7d` or `2w` in seconds; raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip().lower())
    if found is None:
        raise ValueError("an age is a number with m, h, d or w behind it, as in 90m, 12h or 7d")
    return float(found[1]) * _AGES[found[2]]


# ---- list --------------------------------------------------------------------------------------------------------


def list_jobs(
    server: ServerConnection, console: Console, *, status: str | None, limit: int | None, as_json: bool
) -> int:
    """List jobs, newest first, as a table or a JSON array. limit: None for all."""
    jobs = list(server.jobs(status=status, limit=None if limit is None else limit + 1))
    has_more = limit is not None and len(jobs) > limit
    jobs = jobs[:limit]
    if as_json:
        console.say(json.dumps(jobs, ensure_ascii=False, indent=2))
    elif not jobs:
        which = f"{status} jobs" if status else "jobs"
        console.warn(f"there are no {which}; `scribewire submit FILE` makes one")
    else:
        for line in _listed(jobs, console.columns):
            console.say(line)
        if any(job["demo"] for job in jobs):
            console.warn(DEMO_NOTE)
    if has_more:
        console.warn(f"these are the newest {limit}; --limit N shows more, --all every one")
    return 0


def _listed(jobs: Sequence[dict[str, Any]], columns: int | None) -> list[str]:
    """Jobs as lines; where they do not fit, without the time of submission, and with names cut."""
    rows = [("JOB", "STATUS", "LENGTH", "SPEED", "FILE", "SUBMITTED"), *map(_row, jobs)]
    lines = table(rows)
    if columns is not None and max(map(len, lines)) > columns:
        lines = table([row[:-1] for row in rows], columns=columns)
    return lines


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    progress = job["progress"]
    total = progress["audio_seconds_total"]
    speed = job.get("speed")  # an older server's jobs have none
    return (
        job["job_id"],
        _status_in_words(job, progress["fraction"]),
        "" if total is None else shown_duration(total),
        "" if speed is None else f"{speed:.3g}x",
        shortened(job.get("filename") or ""),
        shown_time(job["created_at"]),
    )


def _status_in_words(job: dict[str, Any], fraction: float) -> str:
    if job["status"] == "processing":
        return f"{100 * fraction:.0f} % done"
    if job.get("queue_position"):
        return f"queued, {job['queue_position']}."
    return str(job["error"]["code"] if job["error"] else job["status"])


def shown_time(unix_seconds: float) -> str:
    """The local time, to the minute."""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M")


# ---- show --------------------------------------------------------------------------------------------------------


def show_job(
    server: ServerConnection,
    console: Console,
    job_id: str,
    *,
    waits: bool,
    result_format: str | None,
    as_json: bool,
) -> int:
    """Show a job; with a format, its transcript alone. Returns 1 when it has none."""
    job = server.job(job_id)
    if waits and job["status"] not in FINISHED:
        with console.bar(job_id, "seconds") as bar:
            job = wait_for_job(server, job_id, bar, console)
    if as_json:
        console.say(json.dumps(job, ensure_ascii=False, indent=2))
    elif result_format is not None:
        if job["status"] != "completed":
            # The reason of a failed job; how to wait for an unfinished one.
            is_over = job["status"] in FINISHED
            way = end_in_words(job) if is_over else f"it is {job['status']}; --wait waits for it"
            console.warn(f"there is no transcript of {job_id}: {way}")
            return EXIT_FAILED
        console.write(result_of(server, job, result_format, job.get("filename") or "", is_file=True))
    else:
        for line in _details(job):
            console.say(line)
    return EXIT_FAILED if waits and job["status"] != "completed" else 0


def _details(job: dict[str, Any]) -> list[str]:
    progress = job["progress"]
    total = progress["audio_seconds_total"]
    rows = [("job", job["job_id"]), ("status", job["status"])]
    if job.get("filename"):  # a server from before there were names sends none
        rows.append(("file", job["filename"]))
    if job["queue_position"] is not None:
        rows.append(("place in the queue", str(job["queue_position"])))
    rows.append(("submitted", shown_time(job["created_at"])))
    if job["started_at"] is not None:
        rows.append(("started", shown_time(job["started_at"])))
    if job["finished_at"] is not None:
        rows.append(("finished", shown_time(job["finished_at"])))
    if total is not None:
        rows.append(("audio", f"{shown_duration(progress['audio_seconds_done'])} of {shown_duration(total)}"))
    if job.get("speed") is not None:
        rows.append(("speed", f"{job['speed']:.3g} times as fast as it was spoken"))
    rows.append(("attempts", str(job["attempts"])))
    for death in job["worker_deaths"]:
        rows.append(
            ("a worker died", f"{shown_time(death['at'])}, attempt {death['attempt']}, {death['code']}")
        )
    if job["error"]:
        rows.append(("error", f"{job['error']['message']} ({job['error']['code']})"))
    if is_worth_retrying(job):
        rows.append(("again", f"scribewire jobs retry {job['job_id']}"))
    if job["demo"]:
        rows.append(("model", "the bundled demo model"))
    result = job["result"]
    text = result["text"] if result else job["partial_text"]
    if result:
        rows.append(("language", result["language"] or "none"))
    return [*table(rows), *(["", text.strip()] if text.strip() else [])]


# ---- cancel, retry -----------------------------------------------------------------------------------------------


def cancel_jobs(server: ServerConnection, console: Console, job_ids: Sequence[str]) -> int:
    """End each unfinished job; a finished one is left as it is, with a message."""

    def cancel(job_id: str) -> str:
        status = str(server.cancel(job_id)["status"])
        if status != "cancelled":
            raise ClientFailure(f"is {status} already; `scribewire jobs purge {job_id}` erases it")
        return status

    return _each(console, job_ids, cancel)


def retry_jobs(server: ServerConnection, console: Console, job_ids: Sequence[str]) -> int:
    """Queue each failed job again."""
    return _each(console, job_ids, lambda job_id: str(server.retry(job_id)["status"]))


def _each(console: Console, job_ids: Sequence[str], act: Callable[[str], str]) -> int:
    """Apply `act` to every job; a failure does not stop the others. Returns the last failure's exit code."""
    code = 0
    for job_id in job_ids:
        try:
            console.say(f"{job_id}  {act(job_id)}")
        except (NoSuchJob, Refused) as error:
            console.warn(f"{job_id}: {error}")
            code = error.exit_code
        except NoServer:
            raise
        except ClientFailure as error:
            if type(error) is not ClientFailure:
                raise
            console.warn(f"{job_id} {error}")
            code = error.exit_code
    return code


# ---- purge -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Purge:
    """Jobs to erase: these ids, or all finished ones with these statuses and at least this age."""

    job_ids: tuple[str, ...] = ()
    statuses: tuple[str, ...] = FINISHED
    older_than_seconds: float = 0.0
    is_confirmed: bool = False
    as_json: bool = False


def purge_jobs(server: ServerConnection, console: Console, purge: Purge) -> int:
    """Erase finished jobs with their texts and recordings, after a question unless `is_confirmed`."""
    selected = _selected(server, console, purge)
    if not selected:
        _say_erased(console, purge, 0)
        return EXIT_FAILED if purge.job_ids else 0
    counted = Counter(job["status"] for job in selected)
    what = ", ".join(f"{count} {status}" for status, count in sorted(counted.items()))
    if not _may_erase(console, purge, f"{len(selected)} jobs ({what})", " with their transcripts"):
        return EXIT_FAILED
    erased = 0
    with console.bar("erasing", "jobs") as bar:
        for number, job in enumerate(selected, start=1):
            # Another client, or its retention, may have removed it already.
            with contextlib.suppress(NoSuchJob):
                erased += bool(server.delete(job["job_id"])["erased"])
            bar.advance(number, len(selected))
    _say_erased(console, purge, erased)
    return 0


def purge_orphans(data_folder: Path, console: Console, purge: Purge) -> int:
    """Erase the recordings set aside in a data folder, also beside a running server."""
    folder = data_folder / "jobs" / ORPHANS_FOLDER
    found = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if found and not _may_erase(console, purge, f"{len(found)} recordings of unknown jobs in {folder}"):
        return EXIT_FAILED
    for path in found:
        path.unlink(missing_ok=True)
    _say_erased(console, purge, len(found), "recording")
    return 0


def _may_erase(console: Console, purge: Purge, what: str, besides: str = "") -> bool:
    if purge.is_confirmed:
        return True
    if not console.asks:
        raise BadCommand(f"{what} would be erased; use --yes without a terminal")
    if console.confirm(f"Erase {what}{besides}, for good?"):
        return True
    console.warn("nothing was erased")
    return False


def _selected(server: ServerConnection, console: Console, purge: Purge) -> list[dict[str, Any]]:
    if purge.job_ids:
        found = []
        for job_id in purge.job_ids:
            job = server.job(job_id)
            if job["status"] in FINISHED:
                found.append(job)
            else:
                console.warn(
                    f"{job_id} is {job['status']} and stays; `scribewire jobs cancel {job_id}` first"
                )
        return found
    newest = server.now() - purge.older_than_seconds
    return [
        job
        for status in purge.statuses
        for job in server.jobs(status=status)
        if purge.older_than_seconds == 0 or job["finished_at"] <= newest
    ]


def _say_erased(console: Console, purge: Purge, count: int, kind: str = "job") -> None:
    if purge.as_json:
        console.say(json.dumps({"erased": count}))
    else:
        console.say(f"{count} {kind if count == 1 else kind + 's'} erased")
