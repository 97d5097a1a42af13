"""The blocks of the README and of docs/python.md do what they say, against a real server with the demo model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.engine.demo import sample_recordings
from tests.fakes.documents import PROJECT, Block, blocks
from tests.fakes.waiting import PATIENCE_SECONDS, in_time

PAGES = [PROJECT / "README.md", PROJECT / "docs" / "python.md"]
RUN = [
    (page.name, number, one) for page in PAGES for number, one in enumerate(blocks(page)) if not one.reason
]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of the blocks' commands, with a server's port in it; curl takes an error status for a failure."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "CURL_HOME": str(folder),
        "SCRIBEWIRE_DATA": str(folder / "data"),
        "SCRIBEWIRE_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "scribewire", "serve", "--model", "demo", "--port", "0"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            while "ready on " not in (line := in_time(process.stdout.readline)):
                assert line, (folder / "log").read_text()
            yield environment | {"SCRIBEWIRE_PORT": line.strip().rpartition(":")[2]}
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("page", "number", "block"), RUN, ids=[f"{page}-{number}" for page, number, _ in RUN]
)
def test_a_block_works_as_written(page: str, number: int, block: Block, surroundings: dict[str, str]) -> None:
    if "curl" in block.text and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    # The demo recordings are named as from the checkout; the command and the port are those of this run.
    text = block.text.replace(".venv/bin/scribewire", f"'{sys.executable}' -m scribewire")
    text = text.replace("127.0.0.1:8765", f"127.0.0.1:{surroundings['SCRIBEWIRE_PORT']}")
    command = ["sh", "-eu", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(
        command, cwd=PROJECT, env=surroundings, capture_output=True, text=True, timeout=PATIENCE_SECONDS * 4
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def test_what_is_shown_first_is_the_text_of_the_recording(surroundings: dict[str, str]) -> None:
    first = next(block for _, _, block in RUN if block.text.startswith("curl"))
    text = first.text.replace("127.0.0.1:8765", f"127.0.0.1:{surroundings['SCRIBEWIRE_PORT']}")
    done = subprocess.run(
        ["sh", "-c", text],
        cwd=PROJECT,
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    expected = Path(sample_recordings()[0].path).with_suffix(".txt").read_text(encoding="utf-8").strip()
    assert expected.split()[0] in done.stdout
