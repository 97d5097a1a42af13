"""A recording named by its path: only in folders that the operator opened, and never one of the server's own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from scribewire.server.http.errors import ApiError
from scribewire.server.intake.local_files import LocalFiles, identity, open_without_links
from tests.fakes.running_server import RunningServer, assert_openai_error, script
from tests.http.json_bodies import SPEECH, post


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    """A server with one opened folder, which the test fills, and a secret beside it."""
    root = tmp_path_factory.mktemp("local")
    opened, data = root / "opened", root / "data"
    (opened / "inner").mkdir(parents=True)
    (opened / "inner" / "speech.wav").write_bytes(SPEECH)
    (root / "secret.wav").write_bytes(script(text="secret"))
    (root / "opened-not").mkdir()
    (root / "opened-not" / "secret.wav").write_bytes(script(text="secret"))
    (opened / "out.wav").symlink_to(root / "secret.wav")
    (opened / "outside").symlink_to(root)
    (opened / "in.wav").symlink_to(opened / "inner" / "speech.wav")
    (opened / "loop.wav").symlink_to(opened / "loop.wav")
    os.mkfifo(opened / "pipe.wav")
    (root / "link").symlink_to(opened)
    with RunningServer(data, allow_local_files=(str(root / "link"),), max_upload_bytes=1_000_000) as running:
        yield running, opened


def test_file_in_an_opened_folder_is_transcribed_and_kept(folders: tuple[RunningServer, Path]):
    running, opened = folders
    for name in ("inner/speech.wav", "in.wav", "inner/../inner/speech.wav"):
        response = post(running, {"file_path": f"{opened}/{name}", "model": "whisper-1"})
        assert response.json() == {**response.json(), "text": "Hello."}
    assert (opened / "inner" / "speech.wav").read_bytes() == SPEECH
    assert running.leftovers() == []


@pytest.mark.parametrize(
    "name",
    [
        "OPENED/out.wav",
        "OPENED/outside/secret.wav",
        "OPENED/../secret.wav",
        "OPENED-not/secret.wav",
        "OPENED/pipe.wav",
        "OPENED/loop.wav",
        "OPENED/inner",
        "OPENED",
        "OPENED/missing.wav",
        "OPENED/inner/speech.wav/more",
        "OPENED/a\x00b",
        "OPENED/" + "x" * 300,
        "inner/speech.wav",
        "~/speech.wav",
        "file:///etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
    ],
)
def test_everything_else_is_403_and_says_the_same(folders: tuple[RunningServer, Path], name: str):
    running, opened = folders
    response = post(running, {"file_path": name.replace("OPENED", str(opened))})
    error = assert_openai_error(response, 403, "file_path_not_allowed", param="file_path")
    elsewhere = post(running, {"file_path": "/nowhere/at/all"}).json()["error"]
    assert error == elsewhere
    assert running.leftovers() == []


def test_link_put_in_place_after_the_check_is_not_followed(tmp_path: Path):
    (tmp_path / "opened" / "inner").mkdir(parents=True)
    (tmp_path / "opened" / "inner" / "a.wav").write_bytes(SPEECH)
    os.close(open_without_links(tmp_path / "opened", ("inner", "a.wav")))
    # What was checked as a plain path is swapped before it is opened.
    (tmp_path / "opened" / "inner").rename(tmp_path / "moved")
    (tmp_path / "opened" / "inner").symlink_to(tmp_path / "moved")
    with pytest.raises(OSError):
        open_without_links(tmp_path / "opened", ("inner", "a.wav"))
    (tmp_path / "opened" / "a.wav").symlink_to(tmp_path / "moved" / "a.wav")
    with pytest.raises(OSError):
        open_without_links(tmp_path / "opened", ("a.wav",))


def test_servers_own_files_are_never_opened(tmp_path: Path):
    data = tmp_path / "data"
    with RunningServer(data, allow_local_files=(str(tmp_path),)) as running:
        (tmp_path / "speech.wav").write_bytes(SPEECH)
        assert post(running, {"file_path": f"{tmp_path}/speech.wav"}).status_code == 200
        (data / "private.wav").write_bytes(SPEECH)
        response = post(running, {"file_path": f"{data}/private.wav"})
        assert_openai_error(response, 403, "file_path_not_allowed", param="file_path")


def local_files(root: Path, *allowed: Path, same: dict[Path, Path] | None = None) -> LocalFiles:
    """Allowed folders beside root/data. same: other names of a file or folder, as a disk may give them."""
    aliases = {identity(name): identity(real) for name, real in (same or {}).items()}

    def known(where: int | Path) -> tuple[int, int]:
        return aliases.get(identity(where), identity(where))

    return LocalFiles([str(folder) for folder in allowed], private=root / "data", identity=known)


@pytest.fixture
def beside_data(tmp_path: Path) -> Path:
    """A folder with a data folder and, under a second name, what a disk would show there."""
    for name in ("data", "DATA"):
        (tmp_path / name / "jobs" / "audio").mkdir(parents=True)
        for inner in ("keys.json", "jobs/jobs.db", "jobs/audio/a"):
            (tmp_path / name / inner).write_text("private")
    (tmp_path / "speech.wav").write_text("open")
    return tmp_path


@pytest.mark.parametrize("inside", ["", "jobs", "jobs/audio", "keys.json"])
def test_servers_own_files_are_known_under_any_name_of_any_part(beside_data: Path, inside: str):
    one, other = beside_data / "data" / inside, beside_data / "DATA" / inside
    files = [other] if other.is_file() else [path for path in other.rglob("*") if path.is_file()]
    for allowed in {beside_data, beside_data / "DATA", other.parent} - {beside_data.parent}:
        opened = local_files(beside_data, allowed, same={other: one})
        for file in files:
            with pytest.raises(ApiError, match="file_path must be"):
                opened.open(str(file))
    os.close(local_files(beside_data, beside_data, same={other: one}).open(str(beside_data / "speech.wav")))


def test_allowed_folder_inside_the_servers_own_opens_nothing(beside_data: Path):
    (beside_data / "link").symlink_to(beside_data / "data")
    for allowed in ("data", "data/jobs/audio", "link/jobs/audio", "link/../data/jobs"):
        opened = local_files(beside_data, beside_data / allowed)
        for file in (beside_data / allowed).resolve().rglob("*"):
            with pytest.raises(ApiError):
                opened.open(str(file))


def test_second_name_of_a_private_file_is_not_opened(beside_data: Path):
    (beside_data / "other").mkdir()
    (beside_data / "other" / "speech.wav").hardlink_to(beside_data / "data" / "keys.json")
    with pytest.raises(ApiError):
        local_files(beside_data, beside_data / "other").open(str(beside_data / "other" / "speech.wav"))


def test_another_spelling_of_the_data_folder_is_not_read_on_a_disk_that_ignores_case(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").write_text("private")
    if not (tmp_path / "DATA").exists():
        pytest.skip("this disk heeds case")
    with pytest.raises(ApiError):
        local_files(tmp_path, tmp_path).open(str(tmp_path / "DATA" / "keys.json"))


def test_size_cap_holds_for_files_named_by_path(folders: tuple[RunningServer, Path]):
    running, opened = folders
    (opened / "large.wav").write_bytes(b"x" * 1_000_001)
    assert_openai_error(
        post(running, {"file_path": f"{opened}/large.wav"}), 413, "upload_too_large", param="file"
    )
    (opened / "fits.wav").write_bytes(b"x" * 1_000_000)
    digest = hashlib.sha256(b"x" * 1_000_000).hexdigest()
    assert digest in post(running, {"file_path": f"{opened}/fits.wav"}).json()["text"]
    assert running.leftovers() == []


def test_no_path_is_taken_where_no_folder_is_open(server: RunningServer, tmp_path: Path):
    (tmp_path / "speech.wav").write_bytes(SPEECH)
    response: httpx.Response = post(server, {"file_path": f"{tmp_path}/speech.wav"})
    assert_openai_error(response, 403, "file_path_not_allowed", param="file_path")


@pytest.mark.process
def test_folder_that_does_not_exist_is_one_line_and_exit_1(tmp_path: Path):
    missing = tmp_path / "missing"
    command = [sys.executable, "-m", "scribewire", "serve", "--model", "demo", "--port", "0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data"), "--allow-local-files", str(missing)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"scribewire: {missing} is not a folder; see --allow-local-files"]
