"""The `scribewire` command: help, keys, and who loads what."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scribewire.engine.cli
import scribewire.server.cli
from scribewire.engine.protocol.config import DEFAULT_MODEL
from scribewire.server.settings.fields import Settings
from tests.fakes.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = scribewire.server.cli.main(arguments, environ={})
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    out, err = capsys.readouterr()
    return code, out, err


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh process holds after running some code."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
        timeout=PATIENCE_SECONDS,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_lists_every_command_and_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in (
        "serve",
        "keys",
        "submit",
        "status",
        "jobs",
        "transcribe",
        "models",
        "pull",
        "languages",
        "doctor",
    ):
        assert re.search(rf"^ +{command}\b", out, re.MULTILINE), command
    assert "examples:" in out


@pytest.mark.parametrize(
    "command",
    ["serve", "keys", "submit", "status", "jobs", "transcribe", "models", "pull", "languages", "doctor"],
)
def test_every_command_has_help_of_its_own(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: scribewire {command}")


@pytest.mark.parametrize("typed", [(), ("jobs",), ("keys",)])
def test_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str], typed: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *typed)
    assert (code, err) == (2, "")
    assert out == run(capsys, *typed, "--help")[1]


@pytest.mark.parametrize(
    ("typed", "usage", "hint"),
    [
        (("serve", "--prot", "1"), "scribewire serve", "--port"),
        (("keys", "list", "--jsno"), "scribewire keys list", "--json"),
        (("jobs", "list", "--stauts", "failed"), "scribewire jobs list", "--status"),
        (("submit", "a.wav", "--languge", "es"), "scribewire submit", "--language"),
        (("models", "--josn"), "scribewire models", "--json"),
    ],
)
def test_usage_is_that_of_the_command_that_was_typed(
    capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], usage: str, hint: str
) -> None:
    code, _, err = run(capsys, *typed)
    assert code == 2
    assert err.startswith(f"usage: {usage} [")
    assert err.splitlines()[-1].startswith(f"{usage}: error: unrecognized arguments: ")
    assert err.endswith(f"(did you mean {hint}?)\n")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("sevre",), "there is no `scribewire sevre` (did you mean serve?)"),
        (("keys", "revok", "x"), "there is no `scribewire keys revok` (did you mean revoke?)"),
        (("jobs", "lst"), "there is no `scribewire jobs lst` (did you mean list?)"),
        (("dance",), "there is no `scribewire dance`; --help lists what there is"),
    ],
)
def test_misspelt_command_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capsys, *typed)
    assert code == 2
    assert err.endswith(f": error: {message}\n")


def test_misspelt_variable_is_told_of_by_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = scribewire.server.cli.main(["languages"], environ={"SCRIBEWIRE_PROT": "1"})
    assert (code, capsys.readouterr().err) == (
        0,
        "scribewire: SCRIBEWIRE_PROT is no setting (did you mean SCRIBEWIRE_PORT?)\n",
    )


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"SCRIBEWIRE_PORT": "9"}, "http://127.0.0.1:9"),
        ({"SCRIBEWIRE_PORT": "9", "SCRIBEWIRE_HOST": "0.0.0.0"}, "http://127.0.0.1:9"),
        ({"SCRIBEWIRE_PORT": "9", "SCRIBEWIRE_HOST": "::1"}, "http://[::1]:9"),
        ({"SCRIBEWIRE_PORT": "9", "SCRIBEWIRE_SERVER": "127.0.0.1:7"}, "http://127.0.0.1:7"),
    ],
)
def test_client_asks_the_server_that_the_environment_names(
    capsys: pytest.CaptureFixture[str], environ: dict[str, str], address: str
) -> None:
    assert scribewire.server.cli.main(["jobs", "list"], environ=environ) == 3
    assert f"no server answers at {address} " in capsys.readouterr().err


def test_client_commands_load_neither_engine_nor_server() -> None:
    loaded = modules_after(
        "import scribewire.server.cli\nscribewire.server.cli.main(['jobs', 'list', '--server', '127.0.0.1:1'])"
    )
    assert not loaded & {"mlx", "av", "tokenizers", "numpy", "fastapi", "uvicorn"}


def test_command_tables_of_server_and_engine_agree() -> None:
    assert scribewire.server.cli.ENGINE_COMMANDS == scribewire.engine.cli.COMMANDS


def test_top_level_help_loads_neither_engine_nor_web_server() -> None:
    held = modules_after("from scribewire.server.cli import build_parser; build_parser().format_help()")
    assert not held & {"mlx", "av", "tokenizers", "numpy", "huggingface_hub", "fastapi", "uvicorn"}


def test_help_of_an_engine_command_loads_no_mlx() -> None:
    held = modules_after("import scribewire.engine.cli; scribewire.engine.cli.build_parser().format_help()")
    assert not held & {"mlx", "av", "tokenizers", "fastapi", "uvicorn"}


def test_default_model_is_the_same_for_serve_and_transcribe() -> None:
    parsed = scribewire.engine.cli.build_parser().parse_args(["transcribe", "a.wav"])
    assert parsed.model == Settings().model == DEFAULT_MODEL == "mlx-community/Qwen3-ASR-0.6B-8bit"


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"scribewire (\d+\.\d+\.\d+\S*|\(not installed\))\n", out)


def test_engine_command_is_handed_over(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "languages", "--json")
    assert code == 0
    assert len(json.loads(out)) == 30


def test_senseless_setting_is_one_line_and_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "serve", "--port", "99999")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"scribewire: --port .*\n", err)


# ---- keys ----------------------------------------------------------------------------------------------------


def test_key_is_created_listed_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    code, secret, err = run(capsys, "keys", "create", "laptop", *data)
    assert code == 0
    assert re.fullmatch(r"sk-scribewire-\S{40,}\n", secret)
    key_id = re.search(r"key_\w+", err).group()
    code, listed, _ = run(capsys, "keys", "list", *data)
    assert code == 0
    assert key_id in listed
    assert "laptop" in listed
    assert "active" in listed
    assert secret.strip() not in listed
    assert run(capsys, "keys", "revoke", key_id, *data)[:2] == (0, f"{key_id} is revoked (laptop)\n")
    rows = json.loads(run(capsys, "keys", "list", "--json", *data)[1])
    assert [row["key_id"] for row in rows] == [key_id]
    assert rows[0]["revoked_at"] is not None


def test_key_is_revoked_by_a_name_that_only_it_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path))
    for _ in range(2):
        _, _, err = run(capsys, "keys", "create", "phone", *data)
    first, second = (row["key_id"] for row in json.loads(run(capsys, "keys", "list", "--json", *data)[1]))
    assert f"another active key has the name 'phone' too: {first}" in err
    code, _, err = run(capsys, "keys", "revoke", "phone", *data)
    assert (code, err.count("\n")) == (1, 1)
    assert first in err
    assert second in err
    assert run(capsys, "keys", "revoke", first, *data)[0] == 0
    assert run(capsys, "keys", "revoke", "phone", *data)[:2] == (0, f"{second} is revoked (phone)\n")
    assert run(capsys, "keys", "create", "", *data)[0] == 0
    assert run(capsys, "keys", "revoke", "", *data)[0] == 1


def test_first_key_says_what_changes_in_the_examples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, secret, err = run(capsys, "keys", "create", "phone", "--data", str(tmp_path))
    assert '-H "Authorization: Bearer $SCRIBEWIRE_KEY"' in err
    assert 'OpenAI(base_url="http://127.0.0.1:8765/v1", api_key=' in err
    assert secret.strip() not in err
    assert "Authorization" not in run(capsys, "keys", "create", "laptop", "--data", str(tmp_path))[2]


def test_secret_is_stored_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    secret = run(capsys, "keys", "create", "--data", str(tmp_path))[1].strip()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert stored
    assert secret.encode() not in stored
    assert secret.removeprefix("sk-scribewire-").encode() not in stored


def test_unknown_key_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "keys", "revoke", "key_none", "--data", str(tmp_path))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "keys list" in err


def test_data_folder_that_is_a_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "keys", "create", "--data", str(tmp_path / "file" / "data"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--data" in err


def test_empty_list_says_how_to_make_a_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "keys create" in run(capsys, "keys", "list", "--data", str(tmp_path))[1]


def test_command_is_named_as_the_shell_would_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "scribewire"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert scribewire.server.cli.command_as_called(str(program)) == "bin/scribewire"
    monkeypatch.setenv("PATH", str(program.parent))
    assert scribewire.server.cli.command_as_called(str(program)) == "scribewire"
    assert scribewire.server.cli.command_as_called("pytest") == "scribewire"
