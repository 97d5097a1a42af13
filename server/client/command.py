"""The command lines of `scribewire submit`, `jobs` and `status`: parsers, and dispatch to their functions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from scribewire.engine.processes.arguments import CommandParser
from scribewire.engine.processes.console import PROGRAM, Console
from scribewire.engine.protocol.whole_file import (
    OutputInvalid,
    chosen_formats,
    chosen_output,
    find_recordings,
)
from scribewire.server.client.connection import ServerConnection, checked_job_id, server_url
from scribewire.server.client.failures import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    BadCommand,
    ClientFailure,
)
from scribewire.server.client.jobs import (
    FINISHED,
    STATUSES,
    Purge,
    age_in_seconds,
    cancel_jobs,
    list_jobs,
    purge_jobs,
    purge_orphans,
    retry_jobs,
    show_job,
)
from scribewire.server.client.status import show_status
from scribewire.server.client.submit import EXTENSIONS, Submit, submit_files
from scribewire.server.intake.formats import FORMATS, names_of_formats

SHOWN_JOBS = 20
_FORMATS = names_of_formats()


def main(
    arguments: Sequence[str],
    *,
    default_server: str,
    server: str | None = None,
    key: str | None = None,
    data_folder: Path | None = None,
    console: Console | None = None,
) -> int:
    """Run `submit ...`, `jobs ...` or `status ...`; returns the exit code.

    data_folder: of this machine's `serve`, for `jobs purge --orphans`.

    default_server: address of `serve` by this machine's settings. server, key: from the environment, None if not set.
    """
    parsed = build_parser(default_server).parse_args(arguments)
    console = console or Console.of_this_process()
    try:
        if getattr(parsed, "orphans", False):
            if parsed.job_ids or parsed.status or parsed.older_than:
                raise BadCommand(
                    "--orphans erases all that is set aside; it goes with no job and no --status"
                )
            return purge_orphans(parsed.data or data_folder or Path(), console, _purge_of(parsed))
        url = server_url(parsed.server or server or default_server)
        with ServerConnection(url, parsed.key or key) as connection:
            return _run(parsed, connection, console)
    except ClientFailure as error:
        console.warn(str(error))
        return error.exit_code
    except OSError as error:
        console.warn(f"{error.filename or 'this command'}: {error.strerror or error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.warn("interrupted")
        return EXIT_INTERRUPTED


def _run(parsed: argparse.Namespace, server: ServerConnection, console: Console) -> int:
    if parsed.command == "submit":
        return submit_files(_submit_of(parsed), server, console)
    if parsed.command == "status":
        return show_status(server, console, as_json=parsed.json)
    match parsed.action:
        case "list":
            limit = None if parsed.all else parsed.limit
            return list_jobs(server, console, status=parsed.status, limit=limit, as_json=parsed.json)
        case "show":
            return show_job(
                server,
                console,
                checked_job_id(parsed.job_id),
                waits=parsed.wait,
                result_format=parsed.format,
                as_json=parsed.json,
            )
        case "cancel":
            return cancel_jobs(server, console, [checked_job_id(one) for one in parsed.job_ids])
        case "retry":
            return retry_jobs(server, console, [checked_job_id(one) for one in parsed.job_ids])
        case _:
            return purge_jobs(server, console, _purge_of(parsed))


def _purge_of(parsed: argparse.Namespace) -> Purge:
    return Purge(
        tuple(checked_job_id(one) for one in parsed.job_ids),
        tuple(parsed.status or FINISHED),
        parsed.older_than or 0.0,
        is_confirmed=parsed.yes,
        as_json=parsed.json,
    )


def _submit_of(parsed: argparse.Namespace) -> Submit:
    existing: Literal["refuse", "replace", "skip"] = (
        "replace" if parsed.force else "skip" if parsed.skip_existing else "refuse"
    )
    recordings = find_recordings(parsed.files, recursive=parsed.recursive)
    try:
        output, formats = chosen_output(
            parsed.output,
            chosen_formats(parsed.format, tuple(FORMATS)),
            EXTENSIONS,
            existing,
            default="text",
            is_one=len(recordings) == 1,
        )
    except OutputInvalid as error:
        raise BadCommand(str(error)) from None
    given = {
        "language": parsed.language,
        "prompt": parsed.prompt,
        "temperature": parsed.temperature,
        "model": parsed.model,
        "timestamp_granularities[]": "word" if parsed.words else None,
    }
    return Submit(
        recordings=tuple(recordings),
        waits=parsed.wait or output.folder is not None or output.file is not None,
        formats=formats,
        output=output,
        as_json=parsed.json,
        idempotency_key=parsed.idempotency_key,
        fields={name: value for name, value in given.items() if value is not None},
    )


def build_parser(default_server: str) -> argparse.ArgumentParser:
    """The parser of all three commands, whose name is the first argument."""
    parser = CommandParser(prog=PROGRAM)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_submit(commands, default_server)
    status = commands.add_parser("status", description=_STATUS_HELP, epilog=_EXIT_CODES)
    _add_json(status, "print a JSON object instead of lines")
    _add_server(status, default_server)
    jobs = commands.add_parser("jobs", description=_JOBS_HELP, epilog=_JOBS_EPILOG)
    actions = jobs.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, add in (
        ("list", _add_list),
        ("show", _add_show),
        ("cancel", _add_cancel),
        ("retry", _add_retry),
        ("purge", _add_purge),
    ):
        action = actions.add_parser(name, help=_ACTIONS[name], description=_ACTIONS[name])
        add(action)
        _add_server(action, default_server)
    return parser


def _add_submit(commands: argparse._SubParsersAction[CommandParser], default_server: str) -> None:
    submit = commands.add_parser("submit", description=_SUBMIT_HELP, epilog=_SUBMIT_EPILOG)
    submit.add_argument(
        "files", nargs="+", metavar="FILE", help="a recording or a folder; - reads standard input"
    )
    submit.add_argument(
        "-w", "--wait", action="store_true", help="wait until the jobs are finished and print the texts"
    )
    submit.add_argument(
        "-o",
        "--output",
        metavar="PLACE",
        help="write a file such as talk.srt, or one per recording into a folder; also waits",
    )
    submit.add_argument(
        "-f",
        "--format",
        action="append",
        default=[],
        metavar="FORMAT",
        help=f"{_FORMATS} (default: text); several with commas or one -f each",
    )
    submit.add_argument(
        "-r", "--recursive", action="store_true", help="of folders, submit the recordings in them"
    )
    existing = submit.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="replace results that are there already")
    existing.add_argument(
        "--skip-existing", action="store_true", help="pass over recordings whose results are there already"
    )
    submit.add_argument("--language", metavar="NAME", help="name or code; by default it is recognized")
    submit.add_argument("--prompt", metavar="TEXT", help="names, terms and spellings to expect")
    submit.add_argument(
        "--temperature", metavar="N", help="0 to 1; 0, the default, always chooses the likeliest token"
    )
    submit.add_argument(
        "--words", action="store_true", help="add times of words, to the result's JSON and for subtitles"
    )
    submit.add_argument("--model", metavar="NAME", help="refuse unless the server has this model loaded")
    submit.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="your own name for this submission: given again, it is the same job and not a second one",
    )
    submit.add_argument(
        "--json", action="store_true", help="print one JSON object per file, the job as the API has it"
    )
    _add_server(submit, default_server)


def _add_list(action: argparse.ArgumentParser) -> None:
    action.add_argument("--status", choices=STATUSES, help="only these")
    action.add_argument(
        "--limit",
        type=_count,
        default=SHOWN_JOBS,
        metavar="N",
        help=f"at most N (default: {SHOWN_JOBS})",
    )
    action.add_argument("--all", action="store_true", help="every one that the server keeps")
    _add_json(action, "print a JSON array instead of a table")


def _add_show(action: argparse.ArgumentParser) -> None:
    action.add_argument("job_id", metavar="JOB", help="as `submit` printed it and `jobs list` shows it")
    action.add_argument(
        "-w", "--wait", action="store_true", help="wait until it is finished; exit code 1 without a text"
    )
    chosen = action.add_mutually_exclusive_group()
    chosen.add_argument(
        "-f",
        "--format",
        type=_one_format,
        metavar="FORMAT",
        help=f"print the transcript alone, as {_FORMATS}",
    )
    _add_json(chosen, "print the job as the API has it")


def _add_cancel(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "job_ids", nargs="+", metavar="JOB", help="queued or processing; its recording is deleted"
    )


def _add_retry(action: argparse.ArgumentParser) -> None:
    action.add_argument("job_ids", nargs="+", metavar="JOB", help="failed, and its recording is still kept")


def _add_purge(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "job_ids", nargs="*", metavar="JOB", help="only these; without any, all finished jobs"
    )
    action.add_argument("--status", action="append", choices=FINISHED, help="only these; may be repeated")
    action.add_argument(
        "--older-than", type=_age, metavar="AGE", help="only those that ended AGE ago: 90m, 12h, 7d, 2w"
    )
    action.add_argument(
        "--orphans",
        action="store_true",
        help="erase no jobs, but recordings of unknown jobs, which are set aside in this machine's data folder",
    )
    action.add_argument("--data", type=Path, metavar="DIR", help="with --orphans: the server's data folder")
    action.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _add_json(action, 'print {"erased": N} instead of a sentence')


def _add_json(action: argparse._ActionsContainer, text: str) -> None:
    action.add_argument("--json", action="store_true", help=text)


def _add_server(action: argparse.ArgumentParser, default_server: str) -> None:
    action.add_argument(
        "--server", metavar="URL", help=f"the server (default: SCRIBEWIRE_SERVER, or else {default_server})"
    )
    action.add_argument(
        "--key",
        metavar="KEY",
        help="its API key, where it requires one; other users may see it here, but not in SCRIBEWIRE_KEY",
    )


def _one_format(text: str) -> str:
    try:
        [form] = chosen_formats([text], tuple(FORMATS))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {_FORMATS}, not {text!r}") from None
    return form


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text!r}")
    return int(text)


def _age(text: str) -> float:
    try:
        return age_in_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_ACTIONS = {
    "list": "list your jobs, newest first",
    "show": "show one job: how far it is, and its text",
    "cancel": "end jobs that are not finished yet",
    "retry": "queue failed jobs again, with the recordings that the server kept",
    "purge": "erase finished jobs, with their transcripts and any recordings still kept",
}

_EXIT_CODES = f"""\
exit codes: 0 done, {EXIT_FAILED} a job failed or was refused, {EXIT_USAGE} the command line makes no sense, 3 no server
answers, 4 the key is missing or refused, 5 there is no such job, {EXIT_INTERRUPTED} interrupted"""

_SUBMIT_HELP = """\
Submit recordings to a running server as jobs. A job is safe as soon as its id is printed: it outlives this command,
the connection and a restart of the server. With --wait the texts are printed when they are complete; Ctrl-C then leaves
the jobs running and prints the commands that get their texts later."""

_SUBMIT_EPILOG = f"""\
examples:
  scribewire submit talk.mp3                        print the job's id and exit
  scribewire submit --wait talk.mp3                 and its text at the end
  scribewire submit -o texts -f srt *.m4a           one subtitle file per recording
  id=$(scribewire submit talk.mp3) && scribewire jobs show "$id" --wait -f text
  scribewire submit --server http://mini.local:8765 talk.mp3

{_EXIT_CODES}"""

_STATUS_HELP = """\
What a running server has loaded, the memory that it takes, and what waits there. Exit code 1 where it accepts no
recordings now."""

_JOBS_HELP = "Your jobs at a running server. A key sees its own jobs only."

_JOBS_EPILOG = f"""\
examples:
  scribewire jobs list --status failed
  scribewire jobs show job_0123... --format srt > talk.srt
  scribewire jobs retry job_0123...
  scribewire jobs purge --older-than 7d

{_EXIT_CODES}"""
