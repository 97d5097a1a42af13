"""An installed scribewire works beside other people's `server.py`, `engine/` and `tools/`, however it was installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scribewire.engine.demo import sample_recordings
from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS, wait_until

pytestmark = pytest.mark.process

PROJECT = Path(__file__).resolve().parents[2]
ENGLISH = next(one for one in sample_recordings() if one.language == "English")
PROGRAM = """
import sys
from scribewire import AudioFormatUnsupported, Transcriber, render_srt, cues_from_transcript
with Transcriber("demo") as transcriber:
    print(render_srt(cues_from_transcript(transcriber.transcribe(sys.argv[1]))))
    try:
        transcriber.transcribe(b"this is no recording, and it is long enough to be looked at")
    except AudioFormatUnsupported as error:
        print(type(error).__name__)
"""


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command and return its output; fails with that output if the command fails."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=STORY_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def distribution(form: str, folder: Path) -> list[str]:
    """The arguments by which pip installs this form."""
    if form == "editable":
        return ["--editable", str(PROJECT)]
    run(sys.executable, "-m", "hatchling", "build", "--target", form, "--directory", folder, cwd=PROJECT)
    return [str(next(folder.iterdir()))]


@pytest.fixture(scope="module", params=["editable", "wheel", "sdist"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment into which this form was installed.

    Dependencies are those of the environment that runs the tests, whose own scribewire is not reached: paths that a
    .pth file adds are searched for packages, not for further .pth files.
    """
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv").glob("lib/*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(*pip, *offline, *distribution(request.param, folder / "dist"), cwd=PROJECT)
    return python


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's folder with modules of the same names; importing one of them ends the process."""
    for name in ("server.py", "engine/__init__.py", "tools/__init__.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    return tmp_path


@pytest.fixture
def environment(elsewhere: Path) -> dict[str, str]:
    """Nothing of the environment that runs the tests but what a process needs."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return kept | {"SCRIBEWIRE_DATA": str(elsewhere / "data"), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def address(python: Path, elsewhere: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a server that was started by `python -m scribewire serve`."""
    log = elsewhere / "log"
    with log.open("w") as out:
        command = [python, "-m", "scribewire", "serve", "--model", "demo", "--port", "0"]
        served = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=out, stderr=out)
    try:
        ready = wait_until(
            lambda: served.poll() is not None or re.search(r"ready on (http://\S+)", log.read_text())
        )
        assert isinstance(ready, re.Match), log.read_text()
        yield ready[1]
    finally:
        served.terminate()
        assert served.wait(PATIENCE_SECONDS) == 0, log.read_text()


def test_command_transcribes(python: Path, elsewhere: Path, environment: dict[str, str]):
    said = run(
        *(python, "-m", "scribewire", "transcribe", "--model", "demo", ENGLISH.path),
        cwd=elsewhere,
        environment=environment,
    )
    assert said.strip() == ENGLISH.reference


def test_server_answers_an_upload(address: str):
    with ENGLISH.path.open("rb") as recording:
        answer = httpx.post(
            f"{address}/v1/audio/transcriptions",
            data={"model": "whisper-1"},
            files={"file": recording},
            timeout=PATIENCE_SECONDS,
        )
    assert answer.json()["text"] == ENGLISH.reference


def test_class_errors_and_subtitle_writers_are_the_packages_own(
    python: Path, elsewhere: Path, environment: dict[str, str]
):
    said = run(python, "-c", PROGRAM, ENGLISH.path, cwd=elsewhere, environment=environment)
    assert said.startswith("1\n00:00:0")
    assert said.endswith("\nAudioFormatUnsupported\n")


def test_public_names_are_there(python: Path, elsewhere: Path, environment: dict[str, str]):
    program = "import scribewire as s; print(s.__file__, *(getattr(s, name).__name__ for name in s.__all__))"
    file, *names = run(python, "-c", program, cwd=elsewhere, environment=environment).split()
    assert Path(file).parent == PROJECT / "scribewire" or python.parents[1] in Path(file).parents
    assert {"Transcriber", "Transcript", "EngineError", "AudioTooShort", "render_vtt"} <= set(names)
