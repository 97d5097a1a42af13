"""`scribewire submit`: recordings in, jobs out; with --wait their transcripts too.

All files are submitted before the first is waited for, so that the server works on them together. A refused file
causes one line on stderr and exit code 1, and the others are still submitted. An interrupted upload is sent again under
the same idempotency key, so it is never two jobs. Ctrl-C leaves every accepted job running.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scribewire.engine.processes.console import Console, json_text
from scribewire.engine.protocol.whole_file import (
    STANDARD_INPUT,
    Output,
    Planned,
    Recording,
    planned,
    write_whole,
)
from scribewire.server.client.connection import ServerConnection
from scribewire.server.client.failures import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    BadCommand,
    ClientFailure,
    ConnectionLost,
    KeyRefused,
    NoServer,
    Refused,
)
from scribewire.server.client.waiting import wait_for_job
from scribewire.server.intake.formats import FORMATS

TRIES = 6
BUSY_PAUSE_SECONDS = 5.0
"""Pause between two attempts of a submission, where the server names none."""

DEMO_NOTE = "the server runs the bundled demo model, which does not understand real voices"
DOCUMENT = "json"
"""The format that both `transcribe` and the client's commands know by this name: more than the API's json."""

EXTENSIONS = {name: one.extension for name, one in FORMATS.items()}
_SERVED = {DOCUMENT: "verbose_json"}
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Submit:
    """Arguments of the command line.

    formats: one for stdout. fields: of the form.
    """

    recordings: tuple[Recording, ...]
    waits: bool = False
    formats: tuple[str, ...] = ("text",)
    output: Output = field(default_factory=Output)
    as_json: bool = False
    idempotency_key: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Submitted:
    """A submitted file and its job."""

    plan: Planned
    job_id: str
    is_over: bool = False

    @property
    def shown(self) -> str:
        """The file's name for messages."""
        return self.plan.recording.shown


def submit_files(request: Submit, server: ServerConnection, console: Console) -> int:
    """Submit every file, wait if requested; returns the exit code.

    A failure that concerns every file, no server or a refused key, ends it with what becomes of the jobs.
    """
    if request.idempotency_key is not None and len(request.recordings) > 1:
        raise BadCommand("an idempotency key names one submission; give one FILE with it")
    plan = planned(request.recordings, request.formats, request.output, EXTENSIONS)
    if (done := sum(one.is_done for one in plan)) > 0:
        console.warn(f"{done} of {len(plan)} recordings have their results already and are passed over")
    submitted: list[_Submitted] = []
    failures = 0
    told_of_demo = False
    try:
        for one in plan:
            if one.is_done:
                continue
            shown = one.recording.shown
            try:
                if one.problem is not None:
                    raise OSError(one.problem)
                with _opened(one.recording.name, console) as recording:
                    job = _submit(request, server, console, recording, one.recording)
            except (KeyRefused, NoServer) as error:
                console.warn(str(error))
                _report_unfinished(submitted, console, because="stopped")
                return error.exit_code
            except (ClientFailure, OSError) as error:
                failures += 1
                console.warn(f"{shown}: {_in_words(error)}")
                continue
            submitted.append(_Submitted(one, job["job_id"]))
            if not request.waits:
                _say_accepted(request, console, submitted[-1], job)
        for index, work in enumerate(submitted if request.waits else ()):
            with console.bar(work.shown, "seconds") as bar:
                job = wait_for_job(server, work.job_id, bar, console)
            work.is_over = True
            if job["demo"] and not told_of_demo:
                told_of_demo = True
                console.warn(DEMO_NOTE)
            try:
                failures += not _deliver(request, server, console, work, job, is_first=index == 0)
            except (Refused, OSError) as error:
                failures += 1
                console.warn(f"{work.shown}: {_in_words(error)}; later: scribewire jobs show {work.job_id}")
    except KeyboardInterrupt:
        _report_unfinished(submitted, console, because="interrupted")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else 0


# ---- submitting --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(file: str, console: Console) -> Iterator[BinaryIO]:
    """The recording as a stream that can be read again from its beginning."""
    if file != STANDARD_INPUT:
        with open(file, "rb") as recording:
            yield recording
        return
    with tempfile.TemporaryFile(prefix="scribewire-") as spooled:
        shutil.copyfileobj(console.stdin, spooled)
        if spooled.tell() == 0:
            raise BadCommand("no recording came; pipe one in: `cat talk.mp3 | scribewire submit -`")
        yield spooled


def _submit(
    request: Submit, server: ServerConnection, console: Console, content: BinaryIO, recording: Recording
) -> dict[str, Any]:
    """Upload until the server has it; a full server or a lost connection is tried again."""
    key = request.idempotency_key or secrets.token_hex(16)
    shown = recording.shown
    fields = {"response_format": _computed(request.formats), **request.fields}
    if recording.name != STANDARD_INPUT:
        # A name that is not UTF-8 has no place in a form.
        fields["filename"] = os.fsencode(Path(recording.name).name).decode("utf-8", "replace")
    for tried in range(1, TRIES + 1):
        try:
            with console.bar(shown, "bytes") as bar:
                return server.submit(content, shown, fields, idempotency_key=key, counted=bar.advance)
        except ConnectionLost as error:
            if tried == TRIES:
                raise
            pause_seconds = float(2 ** (tried - 1))
            console.warn(f"{shown}: {error}; sending it again in {pause_seconds:.0f} s")
        except NoServer as error:
            # A server that never answered is not waited for.
            if tried == 1 or tried == TRIES:
                raise
            pause_seconds = float(2 ** (tried - 1))
            console.warn(f"{shown}: {error}; trying again in {pause_seconds:.0f} s")
        except Refused as error:
            if error.status not in (429, 503) or error.retry_after_seconds is None or tried == TRIES:
                raise
            pause_seconds = min(max(error.retry_after_seconds, 1.0), _LONGEST_PAUSE_SECONDS)
            console.warn(f"{shown}: {error} Trying again in {pause_seconds:.0f} s")
        console.pause(pause_seconds)
    raise AssertionError("the last try returns or raises")


def _say_accepted(request: Submit, console: Console, one: _Submitted, job: dict[str, Any]) -> None:
    if request.as_json:
        console.say(json_text({"file": one.shown, **job}))
    elif len(request.recordings) == 1:
        console.say(one.job_id)
    else:
        console.say(f"{one.job_id}  {one.shown}")


def _computed(formats: Sequence[str]) -> str:
    """Of several formats, the one for which the server computes the most."""
    served = [_SERVED.get(form, form) for form in formats]
    return max(served, key=lambda form: len(FORMATS[form].wants))


def _report_unfinished(submitted: Sequence[_Submitted], console: Console, *, because: str) -> None:
    left = [one for one in submitted if not one.is_over]
    if not left:
        console.warn(f"{because}; no job was left behind")
        return
    count = "1 job goes" if len(left) == 1 else f"{len(left)} jobs go"
    console.warn(f"{because}; {count} on at the server")
    for one in left:
        console.warn(f"  {one.shown}: scribewire jobs show {one.job_id} --wait")
    console.warn(f"to stop instead: scribewire jobs cancel {' '.join(one.job_id for one in left)}")


# ---- results -----------------------------------------------------------------------------------------------------


def _deliver(
    request: Submit,
    server: ServerConnection,
    console: Console,
    one: _Submitted,
    job: dict[str, Any],
    *,
    is_first: bool,
) -> bool:
    """Write a job's result; False when it has no transcript."""
    if request.as_json:
        console.say(json_text({"file": one.shown, **job}))
    if job["status"] != "completed":
        console.warn(f"{one.shown}: {end_in_words(job)}")
        return False
    for warning in (job.get("result") or {}).get("warnings", ()):
        console.warn(f"{one.shown}: warning: {warning}")
    for form, target in one.plan.targets.items():
        write_whole(target, result_of(server, job, form, one.shown, is_file=True))
        if not request.as_json:
            console.say(str(target))
    if not one.plan.targets and not request.as_json:
        [form] = request.formats
        content = result_of(server, job, form, one.shown, is_file=False)
        if len(request.recordings) > 1 and not FORMATS[form].is_json:
            console.say(f"{'' if is_first else chr(10)}==> {one.shown} <==")
        console.write(content)
    return True


def result_of(server: ServerConnection, job: dict[str, Any], form: str, file: str, *, is_file: bool) -> str:
    """A completed job's transcript in one format, ending with a line break. JSON is as `transcribe` writes it."""
    content = server.result(job["job_id"], _SERVED.get(form, form))
    if form == DOCUMENT:
        values = {
            "file": file,
            "model": job["result"]["model"],
            "is_demo": job["demo"],
            **json.loads(content),
        }
        content = json_text(values, indent=2 if is_file else None)
    return content if content.endswith("\n") else content + "\n"


def end_in_words(job: dict[str, Any]) -> str:
    """Reason why a job has no transcript, with a remedy."""
    if job["status"] == "cancelled":
        return f"{job['job_id']} was cancelled"
    error = job["error"] or {"message": "no reason was given", "code": "unknown"}
    again = f"; again: scribewire jobs retry {job['job_id']}" if is_worth_retrying(job) else ""
    return f"failed: {error['message']} ({error['code']}){again}"


def is_worth_retrying(job: dict[str, Any]) -> bool:
    """True when the cause of a failure is not the recording, and the server still has the recording."""
    return bool(job["status"] == "failed" and job["has_audio"] and job["error"]["type"] == "server_error")


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
