"""The `scribewire` command: `serve`, `keys` and `webhook-secret` here, the client's and engine's commands by name.

`serve` must never load MLX or the decoders, and help must be fast; so only the engine's protocol is imported, and each
command's module is loaded when that command is given.
Exit codes: 0 done, 1 something failed, 2 the command line makes no sense, 130 interrupted; those of `submit` and `jobs`
are in server/client/failures.py.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from scribewire.engine.processes.architecture import wrong_architecture
from scribewire.engine.processes.arguments import EXIT_USAGE, CommandParser
from scribewire.engine.processes.console import PROGRAM, Console, table
from scribewire.engine.protocol import config as protocol_config
from scribewire.server.access.keys import ApiKey, KeyStore, KeysUnreadable, KeyUnknown
from scribewire.server.settings.fields import Settings, SettingsError, client_variables, misspelt_variables
from scribewire.server.settings.flags import add_config_argument, add_settings_arguments
from scribewire.server.webhooks.signing import SecretUnreadable, WebhookSecret

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

OWN_COMMANDS = {
    "serve": "serve the OpenAI-compatible API",
    "keys": "create, list and revoke API keys",
    "webhook-secret": "print the secret that this server signs its webhooks with",
}
CLIENT_COMMANDS = {
    "submit": "submit recordings to a running server as jobs, and wait for them if asked to",
    "status": "say what a running server has loaded, its memory and its queue",
    "jobs": "list, show, cancel, retry and erase your jobs at a running server",
}
# A copy of the engine's table, compared by a test: importing that table would load the engine.
ENGINE_COMMANDS = {
    "transcribe": "turn recordings into text",
    "models": "list the models on this disk and the published ones",
    "pull": "download a model, or go on with a download",
    "quantize": "write a copy of a model that takes fewer bits",
    "languages": "list the languages and their codes",
    "doctor": "check this machine by transcribing a shipped recording",
    "bench": "measure a model on this machine",
}
NEED_MLX = ("serve", "transcribe", "quantize", "bench")
ENGINE_CLI_MODULE = "scribewire.engine.cli"
SERVE_MODULE = "scribewire.server.serve"
CLIENT_MODULE = "scribewire.server.client.command"


def main(argv: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code. environ: the process's own when None."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for sentence in misspelt_variables(environ):
        print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    try:
        if arguments and arguments[0] in NEED_MLX and (reason := wrong_architecture()) is not None:
            print(f"{PROGRAM}: {reason}", file=sys.stderr)
            return EXIT_FAILED
        if arguments and arguments[0] in ENGINE_COMMANDS:
            return _run_engine_command(arguments, environ)
        if arguments and arguments[0] in CLIENT_COMMANDS:
            return _run_client_command(arguments, environ)
        parsed = build_parser().parse_args(arguments)
        settings = Settings.from_sources(parsed, environ, parsed.config)
        if parsed.command == "serve":
            serve = importlib.import_module(SERVE_MODULE).serve
            return int(serve(settings, sample_recording=sample_recording(), command=command_as_called()))
        if parsed.command == "webhook-secret":
            secret = WebhookSecret(settings.data)
            print(secret.renew() if parsed.renew else secret.text())
            return 0
        return _run_keys(parsed, KeyStore(settings.data), _own_server(settings))
    except (KeyUnknown, KeysUnreadable, SecretUnreadable) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"{PROGRAM}: {error.filename}: {error.strerror}; see --data", file=sys.stderr)
        return EXIT_FAILED
    except SettingsError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of `serve` and `keys`, whose help lists every command."""
    parser = CommandParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version()}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog=PROGRAM
    )
    serve = commands.add_parser(
        "serve",
        usage=f"{PROGRAM} serve [--SETTING VALUE ...]",
        help=OWN_COMMANDS["serve"],
        description=_SERVE_HELP,
        epilog=_SERVE_EXAMPLES,
    )
    add_settings_arguments(serve)
    add_config_argument(serve)
    keys = commands.add_parser(
        "keys",
        help=OWN_COMMANDS["keys"],
        description=_KEYS_HELP,
        epilog=_KEYS_EXAMPLES,
    )
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key; it is printed once, on stdout, and not stored")
    create.add_argument("name", nargs="?", default="", metavar="NAME", help="what the key is for")
    listing = actions.add_parser("list", help="list all keys ever made, without their secrets")
    listing.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    revoke = actions.add_parser(
        "revoke", help="refuse a key from now on; a running server follows within a second"
    )
    revoke.add_argument("key", metavar="KEY", help="its id or its name, as `keys list` shows them")
    for action in (create, listing, revoke):
        add_settings_arguments(action, only=["data"])
        add_config_argument(action)
    webhook = commands.add_parser(
        "webhook-secret",
        help=OWN_COMMANDS["webhook-secret"],
        description=_WEBHOOK_HELP,
    )
    webhook.add_argument("--renew", action="store_true", help="make a new secret, which replaces the old one")
    add_settings_arguments(webhook, only=["data"])
    add_config_argument(webhook)
    for name, text in {**CLIENT_COMMANDS, **ENGINE_COMMANDS}.items():
        commands.add_parser(name, help=text)
    return parser


def version() -> str:
    """The installed version, or a note that the package is not installed."""
    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def command_as_called(program: str | None = None) -> str:
    """The command that calls this program again: its plain name where the shell finds it, else its path."""
    called = Path(program or sys.argv[0])
    if called.name != PROGRAM or not called.is_file():
        return PROGRAM
    found = shutil.which(PROGRAM)
    if found is not None and Path(found).resolve() == called.resolve():
        return PROGRAM
    here = Path.cwd()
    # Not resolved: a virtual environment's links are what the user types.
    absolute = Path(os.path.normpath(called.absolute()))
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def sample_recording() -> str | None:
    """Path of a shipped English recording, relative to the working folder where it is below it."""
    first = Path(protocol_config.__file__).resolve().parents[1] / "demo" / "recordings" / "english.wav"
    if not first.is_file():
        return None
    here = Path.cwd()
    return str(first.relative_to(here) if first.is_relative_to(here) else first)


def _run_engine_command(arguments: list[str], environ: Mapping[str, str] | None) -> int:
    run = importlib.import_module(ENGINE_CLI_MODULE).main
    if arguments[0] != "doctor":
        return int(run(arguments))
    # `doctor` checks what `serve` would use, which only the server's settings know.
    settings = Settings.from_sources(None, environ)
    return int(run(arguments, data_folder=settings.data, port=settings.port))


def _run_client_command(arguments: list[str], environ: Mapping[str, str] | None) -> int:
    settings = Settings.from_sources(None, environ)
    server, key = client_variables(environ)
    return int(
        importlib.import_module(CLIENT_MODULE).main(
            arguments,
            default_server=_own_server(settings),
            server=server,
            key=key,
            data_folder=settings.data,
        )
    )


def _own_server(settings: Settings) -> str:
    """The address of this machine's `serve` by its settings."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host.strip("[]")
    shown_host = f"[{host}]" if ":" in host else host
    return f"http://{shown_host}:{settings.port or 8765}"


def _run_keys(parsed: argparse.Namespace, store: KeyStore, server: str) -> int:
    if parsed.action == "create":
        _create_key(store, parsed.name, server)
    elif parsed.action == "revoke":
        key = store.revoke(parsed.key)
        print(f"{key.key_id} is revoked" + (f" ({key.name})" if key.name else ""))
    else:
        _list_keys(store.list(), as_json=parsed.json)
    return 0


def _create_key(store: KeyStore, name: str, server: str) -> None:
    before = store.list()
    key_id, secret = store.create(name)
    print(secret)
    notes = [f"this is {key_id}; copy it now, it cannot be shown again"]
    if same := [key.key_id for key in before if name and key.name == name and key.is_active]:
        notes.append(f"another active key has the name {name!r} too: {', '.join(same)}")
    if not before:
        notes.append(_FIRST_KEY.format(server=server))
    for note in notes:
        print(f"{PROGRAM}: {note}", file=sys.stderr)


def _list_keys(keys: Sequence[ApiKey], *, as_json: bool) -> None:
    if as_json:
        rows = [{name: value for name, value in asdict(key).items() if name != "sha256"} for key in keys]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    if not keys:
        print(f"There are no keys. `{PROGRAM} keys create NAME` makes one.")
    lines = []
    for key in keys:
        state = "active" if key.revoked_at is None else f"revoked {_shown_time(key.revoked_at)}"
        lines.append((key.key_id, f"created {_shown_time(key.created_at)}", state, key.name))
    for line in table(lines, columns=Console.of_this_process().columns):
        print(line)


def _shown_time(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


_DESCRIPTION = """\
Speech to text with a Qwen3-ASR model that stays loaded: an OpenAI-compatible server, and a command for files."""

_EXAMPLES = """\
examples:
  scribewire serve --model demo                  try everything at once, with the small bundled model
  scribewire serve                               serve the real model (1 GB, fetched on first use)
  scribewire transcribe talk.mp3                 no server needed
  scribewire transcribe -o texts *.m4a           one text file per recording
  scribewire submit --wait lecture.mp3           as a job at a running server, which outlives this command
  scribewire pull mlx-community/Qwen3-ASR-1.7B-8bit
  scribewire doctor                              check the installation, with advice for each failure

`scribewire COMMAND --help` describes each command."""

_SERVE_HELP = """\
Serve the OpenAI-compatible API until Ctrl-C. Every setting can be given as a flag, as SCRIBEWIRE_NAME in the
environment, or in the config file. On a loopback address no key is asked for until one is made; any other address
needs one first."""

_SERVE_EXAMPLES = """\
examples:
  scribewire serve --model demo
  scribewire serve --model mlx-community/Qwen3-ASR-1.7B-8bit --port 9000
  scribewire keys create phone && scribewire serve --host 0.0.0.0"""

_WEBHOOK_HELP = """\
Receivers of webhooks (callback_url) check the signature with this secret; docs/webhooks.md shows how. It is made when
it is first needed, and kept in a file under the data folder that only you can read. With --renew another one is made,
which a running server uses from its next attempt on."""

_FIRST_KEY = """\
from now on every request needs a key:
  export SCRIBEWIRE_KEY=...       which `scribewire submit`, `jobs` and `status` read
  curl {server}/v1/audio/transcriptions -H "Authorization: Bearer $SCRIBEWIRE_KEY" \\
    -F model=whisper-1 -F 'file=@talk.mp3'
  OpenAI(base_url="{server}/v1", api_key=os.environ["SCRIBEWIRE_KEY"])
Only /health, /health/live and /health/ready go without one."""

_KEYS_HELP = "API keys. Only their hashes are stored, under the data folder."

_KEYS_EXAMPLES = """\
examples:
  scribewire keys create laptop
  scribewire keys list
  scribewire keys revoke laptop"""
