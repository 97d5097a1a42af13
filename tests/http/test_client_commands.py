"""`scribewire submit`, `jobs` and `status` against the real application on loopback."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.processes.console import Console
from scribewire.server.access.keys import KeyStore
from scribewire.server.client.command import main
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until

UNKNOWN_JOB = "job_" + "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("server"), retry_window_seconds=0) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "data") as running:
        yield running


class Typed:
    """Runs one command as if typed; pauses of the command are noted and not waited for."""

    def __init__(self, url: str, *, key: str | None = None, stdin: bytes = b"", asks: bool = False) -> None:
        self.url, self.key = url, key
        self.out, self.err = io.StringIO(), io.StringIO()
        self.pauses: list[float] = []
        self._console = Console(io.BytesIO(stdin), self.out, self.err, asks=asks, pause=self.pauses.append)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        try:
            code = main(
                arguments,
                default_server="http://127.0.0.1:1",
                server=self.url,
                key=self.key,
                console=self._console,
            )
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, self.out.getvalue(), self.err.getvalue()


def typed(server: RunningServer, *arguments: str, **keywords: Any) -> tuple[int, str, str]:
    return Typed(server.url, **keywords).run(*arguments)


def recording(folder: Path, name: str = "talk.mp3", **keys: Any) -> str:
    path = folder / name
    path.write_bytes(script(**keys))
    return str(path)


def job(server: RunningServer, job_id: str) -> dict[str, Any]:
    body: dict[str, Any] = server.client.get(f"/jobs/{job_id}").json()
    return body


def behind(proxy: CuttingProxy, folder: Path) -> RunningServer:
    """A server that answers to the proxy's address."""
    server = RunningServer(folder / "data", allow_host=(f"127.0.0.1:{proxy.port}",))
    proxy.target = server.port
    return server


# ---- submit ------------------------------------------------------------------------------------------------------


def test_submit_prints_the_job_and_does_not_wait(server: RunningServer, tmp_path: Path):
    gate = tmp_path / "gate"
    file = recording(tmp_path, text="late", gate=str(gate))
    code, out, err = typed(server, "submit", file)
    assert (code, err) == (0, "")
    job_id = out.strip()
    assert job(server, job_id)["status"] in ("queued", "processing")
    gate.touch()
    assert typed(server, "jobs", "show", job_id, "--wait", "-f", "text") == (0, "late\n", "")


def test_submit_and_wait_prints_the_text(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, deltas=["Hello", " there."], delta_delay_seconds=0.05)
    assert typed(server, "submit", "--wait", file) == (0, "Hello there.\n", "")


def test_options_reach_the_engine(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, echo_options=True)
    code, out, _ = typed(
        *(server, "submit", "-w", "--language", "es", "--prompt", "etcd", "--temperature", "0.5", "--words"),
        file,
    )
    options = json.loads(out)
    assert code == 0
    assert options["words"] is True
    assert (options["language"], options["prompt"], options["temperature"]) == ("es", "etcd", 0.5)


def test_several_files_become_one_result_each(server: RunningServer, tmp_path: Path):
    folder = tmp_path / "texts"
    files = [recording(tmp_path, f"{name}.wav", text=f"this is {name}") for name in ("a", "b")]
    code, out, err = typed(server, "submit", "-o", str(folder), "-f", "vtt", *files)
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(folder / "a.vtt"), str(folder / "b.vtt")]
    assert (folder / "a.vtt").read_text().startswith("WEBVTT")
    assert "this is b" in (folder / "b.vtt").read_text()
    assert typed(server, "submit", "-o", str(folder), "-f", "tsv", files[0])[0] == 0
    assert (folder / "a.tsv").read_text().startswith("start\tend\ttext\n")


def test_file_that_fails_does_not_stop_the_others(server: RunningServer, tmp_path: Path):
    bad = recording(tmp_path, "bad.wav", fail="audio_undecodable", message="it is noise")
    good = recording(tmp_path, "good.wav", text="fine")
    code, out, err = typed(server, "submit", "--wait", str(tmp_path / "none.wav"), bad, good)
    assert code == 1
    assert out.endswith("==> " + good + " <==\nfine\n")
    first, second = err.splitlines()
    assert first.endswith("none.wav: no such file")
    assert second.endswith("bad.wav: failed: it is noise (audio_undecodable)")


def test_json_has_the_job_as_the_api_has_it(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, text="as JSON")
    _, out, _ = typed(server, "submit", "--wait", "--json", file)
    shown = json.loads(out)
    assert shown["file"] == file
    assert {key: shown[key] for key in shown if key != "file"} == job(server, shown["job_id"])
    assert shown["result"]["text"] == "as JSON"


def test_recording_may_come_from_standard_input(server: RunningServer):
    assert typed(server, "submit", "-w", "-", stdin=script(text="piped"))[:2] == (0, "piped\n")
    code, _, err = typed(server, "submit", "-", stdin=b"")
    assert code == 1
    assert "no recording came" in err


def test_idempotency_key_makes_a_repeated_submission_the_same_job(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, text="once")
    again = ["submit", "--idempotency-key", "monday", file]
    first, second = typed(server, *again)[1], typed(server, *again)[1]
    assert first == second
    code, _, err = typed(server, *again, file)
    assert code == 2
    assert "one FILE" in err


def test_result_never_overwrites_an_input(server: RunningServer, tmp_path: Path):
    file = recording(tmp_path, "notes.txt", text="x")
    before = Path(file).read_bytes()
    code, _, err = typed(server, "submit", "-o", str(tmp_path), file)
    assert code == 1
    assert "would overwrite" in err
    assert Path(file).read_bytes() == before


# ---- connections that break ----------------------------------------------------------------------------------


def test_waiting_goes_on_where_a_dropped_connection_left_it(tmp_path: Path):
    file = recording(tmp_path, deltas=["a", "b", "c", "d"], delta_delay_seconds=0.4)
    # The first connection carries the upload and the events, and is cut in the middle of the second one of these.
    with CuttingProxy([b"event: progress\ndata: "]) as proxy, behind(proxy, tmp_path) as server:
        code, out, err = Typed(proxy.url).run("submit", "--wait", file)
        assert (code, out) == (0, "abcd\n")
        assert "was lost" in err
        assert "the job goes on" in err
        assert len(server.client.get("/jobs").json()["data"]) == 1
        wait_until(lambda: any(b"last-event-id: 1\r\n" in one for one in proxy.requests))


def test_upload_whose_answer_was_lost_is_not_a_second_job(tmp_path: Path):
    file = recording(tmp_path, text="single")
    with CuttingProxy([b"", b"HTTP/1.1 202"]) as proxy, behind(proxy, tmp_path) as server:
        client = Typed(proxy.url)
        code, out, err = client.run("submit", "--wait", file)
        assert (code, out) == (0, "single\n")
        assert err.count("sending it again") == 2
        assert client.pauses[:2] == [1.0, 2.0]
        assert len(server.client.get("/jobs").json()["data"]) == 1


def test_full_server_is_tried_again_when_it_says(tmp_path: Path):
    with RunningServer(tmp_path / "data", max_jobs=1) as server:
        blocker = typed(server, "submit", recording(tmp_path, text="x", delay_seconds=60))[1].strip()
        client = Typed(server.url)
        code, _, err = client.run("submit", recording(tmp_path, "next.wav", text="y"))
        assert code == 1
        assert err.count("Trying again in") == 5
        assert all(pause >= 1 for pause in client.pauses)
        typed(server, "jobs", "cancel", blocker)
        assert client.run("submit", "-w", recording(tmp_path, "next.wav", text="y"))[:2] == (0, "y\n")


# ---- what ends a command -------------------------------------------------------------------------------------


def test_absent_server_is_named_with_the_way_out(tmp_path: Path):
    for arguments in (["submit", recording(tmp_path, text="x")], ["jobs", "list"]):
        code, out, err = Typed("127.0.0.1:1").run(*arguments)
        assert (code, out) == (3, "")
        reason, *left = err.splitlines()
        assert "no server answers at http://127.0.0.1:1" in reason
        assert left == (["scribewire: stopped; no job was left behind"] if arguments[0] == "submit" else [])
        assert "`scribewire serve`" in err


@pytest.mark.parametrize("address", ["ftp://x", "http://", "127.0.0.1:port", "http://x?y=1"])
def test_address_that_is_none_is_a_usage_error(address: str):
    code, _, err = Typed(address).run("jobs", "list")
    assert code == 2
    assert "no server's address" in err


def test_key_is_asked_for_and_wrong_ones_are_refused(tmp_path: Path):
    key = KeyStore(tmp_path / "data").create("ann")[1]
    with RunningServer(tmp_path / "data") as server:
        code, _, err = typed(server, "jobs", "list")
        assert code == 4
        assert "SCRIBEWIRE_KEY" in err
        code, _, err = typed(server, "submit", recording(tmp_path, text="x"), key="wrong")
        assert code == 4
        assert "this key was refused" in err
        assert typed(server, "submit", "-w", recording(tmp_path, text="let in"), key=key)[1] == "let in\n"
        assert typed(server, "jobs", "list", "--key", key)[0] == 0


def test_unknown_job_has_an_exit_code_of_its_own(server: RunningServer):
    for action in ("show", "cancel", "retry", "purge"):
        code, out, err = typed(server, "jobs", action, UNKNOWN_JOB)
        assert (code, out) == (5, ""), action
        assert "no such job" in err
    code, _, err = typed(server, "jobs", "show", "talk.mp3")
    assert code == 2
    assert "no job's id" in err


def test_what_answers_but_is_no_scribewire_is_told_apart(tmp_path: Path):
    class Elsewhere(CuttingProxy):
        def _carry(self, client: socket.socket, cut: bytes | None) -> None:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")
            client.close()

    with Elsewhere([]) as elsewhere:
        code, _, err = Typed(elsewhere.url).run("jobs", "list")
    assert code == 3
    assert "not as scribewire does" in err


# ---- jobs ----------------------------------------------------------------------------------------------------


def test_list_is_a_table_newest_first_and_tells_that_there_is_more(fresh: RunningServer, tmp_path: Path):
    assert "there are no jobs" in typed(fresh, "jobs", "list")[2]
    files = [recording(tmp_path, f"my talk {n}.mp3", text=str(n)) for n in range(3)]
    ids = [typed(fresh, "submit", file)[1].strip() for file in files]
    for job_id in ids:
        wait_until(lambda job_id=job_id: job(fresh, job_id)["status"] == "completed")
    code, out, err = typed(fresh, "jobs", "list", "--limit", "2")
    heading, *rows = out.splitlines()
    assert code == 0
    assert heading.split() == ["JOB", "STATUS", "LENGTH", "SPEED", "FILE", "SUBMITTED"]
    assert ["my talk 2.mp3" in rows[0], "my talk 1.mp3" in rows[1]] == [True, True]
    assert [row.split()[:3] for row in rows] == [[one, "completed", "0:01"] for one in (ids[2], ids[1])]
    assert [re.fullmatch(r"[0-9.e+]+x", row.split()[3]) is not None for row in rows] == [True, True]
    assert "--all" in err
    listed = json.loads(typed(fresh, "jobs", "list", "--all", "--json")[1])
    assert [one["job_id"] for one in listed] == ids[::-1]
    assert typed(fresh, "jobs", "list", "--status", "failed", "--json")[1] == "[]\n"


def test_list_fits_the_terminal(fresh: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = recording(tmp_path, "a name that is longer than there is room.mp3", text="x")
    typed(fresh, "submit", "--wait", file)
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    console = Console(io.BytesIO(), terminal, io.StringIO())
    main(["jobs", "list"], default_server=fresh.url, console=console)
    heading, row = terminal.getvalue().splitlines()
    assert heading.split() == ["JOB", "STATUS", "LENGTH", "SPEED", "FILE"]
    assert len(row) <= 80
    assert row.endswith("...")


def test_status_says_what_is_loaded_and_what_waits(fresh: RunningServer, tmp_path: Path):
    typed(fresh, "submit", "--wait", recording(tmp_path, text="x"))
    code, out, err = typed(fresh, "status")
    assert (code, err) == (0, "")
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told["server"].startswith(f"{fresh.url}, scribewire ")
    assert (told["state"], told["model"], told["device"]) == ("ready", "fake", "none, none")
    assert (told["recordings"], told["jobs"]) == ("0 in hand, 0 waiting", "1 completed")
    assert " front" in told["memory"]
    status = json.loads(typed(fresh, "status", "--json")[1])
    assert (status["ready"], status["reason"], status["engine"], status["demo"]) == (
        True,
        None,
        "ready",
        False,
    )
    assert status["queue"] == {"engine": 0, "jobs": 0}
    assert status["memory_bytes"]["front"] > 1_000_000


def test_status_of_a_server_that_takes_nothing_says_why(tmp_path: Path):
    with RunningServer(tmp_path, model="fake:load_seconds=600", wait_ready=False, drain_seconds=0) as server:
        code, out, _ = typed(server, "status")
        assert code == 1
        assert re.search(r"^state +\S.*\(model_loading\)$", out, re.MULTILINE)
        assert json.loads(typed(server, "status", "--json")[1])["ready"] is False


def test_show_tells_all_that_is_known(server: RunningServer, tmp_path: Path):
    job_id = typed(server, "submit", recording(tmp_path, text="the text", duration_seconds=75))[1].strip()
    typed(server, "jobs", "show", job_id, "--wait")
    code, out, _ = typed(server, "jobs", "show", job_id)
    assert code == 0
    assert out.splitlines()[0].split() == ["job", job_id]
    assert "1:15 of 1:15" in out
    assert out.splitlines()[2].split() == ["file", "talk.mp3"]
    assert out.endswith("\nthe text\n")
    assert typed(server, "jobs", "show", job_id, "--format", "srt")[1].startswith("1\n00:00:00")
    assert json.loads(typed(server, "jobs", "show", job_id, "--json")[1]) == job(server, job_id)


def test_show_of_a_job_without_text_says_why(server: RunningServer, tmp_path: Path):
    job_id = typed(server, "submit", recording(tmp_path, text="x", delay_seconds=60))[1].strip()
    code, out, err = typed(server, "jobs", "show", job_id, "-f", "text")
    assert (code, out) == (1, "")
    assert "--wait waits for it" in err
    assert typed(server, "jobs", "cancel", job_id)[1] == f"{job_id}  cancelled\n"
    assert typed(server, "jobs", "show", job_id, "--wait", "--json")[0] == 1
    assert "was cancelled" in typed(server, "jobs", "show", job_id, "-f", "text")[2]


def test_cancel_never_erases_what_is_finished(server: RunningServer, tmp_path: Path):
    job_id = typed(server, "submit", recording(tmp_path, text="keep me"))[1].strip()
    typed(server, "jobs", "show", job_id, "--wait")
    code, _, err = typed(server, "jobs", "cancel", job_id)
    assert code == 1
    assert "is completed already" in err
    assert job(server, job_id)["result"]["text"] == "keep me"


def test_retry_queues_a_failed_job_again(server: RunningServer, tmp_path: Path):
    counter = tmp_path / "counter"
    file = recording(tmp_path, exit=3, break_times=3, break_counter=str(counter), text="in the end")
    code, _, err = typed(server, "submit", "--wait", file)
    assert code == 1
    assert "engine_crashed" in err
    job_id = err.split("scribewire jobs retry ")[1].strip()
    assert typed(server, "jobs", "retry", job_id)[1] == f"{job_id}  queued\n"
    assert typed(server, "jobs", "show", job_id, "--wait", "-f", "text")[1] == "in the end\n"
    code, _, err = typed(server, "jobs", "retry", job_id)
    assert code == 1
    assert "Only a failed job" in err


def test_purge_asks_and_takes_only_a_yes(fresh: RunningServer, tmp_path: Path):
    done = typed(fresh, "submit", recording(tmp_path, text="x"))[1].strip()
    typed(fresh, "jobs", "show", done, "--wait")
    running = typed(fresh, "submit", recording(tmp_path, text="x", delay_seconds=60))[1].strip()
    code, _, err = typed(fresh, "jobs", "purge")
    assert code == 2
    assert "--yes" in err
    assert typed(fresh, "jobs", "purge", asks=True, stdin=b"\n")[0] == 1
    assert job(fresh, done)["status"] == "completed"
    code, out, err = typed(fresh, "jobs", "purge", asks=True, stdin=b"y\n")
    assert (code, out) == (0, "1 job erased\n")
    assert "1 completed" in err
    assert fresh.client.get(f"/jobs/{done}").status_code == 404
    assert job(fresh, running)["status"] == "processing"
    assert typed(fresh, "jobs", "purge", running, "--yes")[0] == 1
    typed(fresh, "jobs", "cancel", running)


def test_purge_of_orphans_asks_and_erases_what_is_set_aside_alone(fresh: RunningServer, tmp_path: Path):
    orphans, audio = tmp_path / "jobs" / "orphans", tmp_path / "jobs" / "audio"
    purge = ("jobs", "purge", "--orphans", "--data", str(tmp_path))
    assert typed(fresh, *purge)[:2] == (0, "0 recordings erased\n")
    for folder in (orphans, audio):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("0" * 32)).write_bytes(b"x")
    assert typed(fresh, *purge)[0] == 2
    assert typed(fresh, *purge, asks=True, stdin=b"\n")[0] == 1
    assert typed(fresh, *purge, "job_" + "0" * 32)[0] == 2
    assert typed(fresh, *purge, "--yes")[1] == "1 recording erased\n"
    assert (list(orphans.iterdir()), len(list(audio.iterdir()))) == ([], 1)


def test_purge_goes_by_status_and_age(
    fresh: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    done = typed(fresh, "submit", recording(tmp_path, text="x"))[1].strip()
    failed = typed(fresh, "submit", recording(tmp_path, fail="audio_undecodable"))[1].strip()
    for job_id in (done, failed):
        typed(fresh, "jobs", "show", job_id, "--wait")
    assert typed(fresh, "jobs", "purge", "--older-than", "1h", "--yes", "--json")[1] == '{"erased": 0}\n'
    assert typed(fresh, "jobs", "purge", "--status", "failed", "--yes", "--json")[1] == '{"erased": 1}\n'
    assert job(fresh, done)["status"] == "completed"
    assert fresh.client.get(f"/jobs/{failed}").status_code == 404
    assert typed(fresh, "jobs", "purge", "--older-than", "soon")[0] == 2
    assert "90m, 12h or 7d" in capsys.readouterr().err
