"""The compatibility suite can fail: silent, crashing and half-done programs, refused environments, lost retries."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scribewire.engine.demo import sample_recordings
from tools.compat import run_compat
from tools.compat.catalog import CLIENTS, Client, ClientUnknown, chosen_clients
from tools.compat.environments import HERE, Environment, EnvironmentRefused, Environments, quoted
from tools.compat.fault_proxy import FaultProxy
from tools.compat.results import CheckResult, ClientResult, compatibility_page

CLIENT = Client("some-client", "Some client", "1.2", "python", "some.py")
HELD, BROKEN = CheckResult("json", True, 0.1, ""), CheckResult("srt", False, 0.1, "AssertionError: no | cues")
PROGRAM = """
import json, sys, time
def check(name, ok=True):
    print(json.dumps({"check": name, "ok": ok, "seconds": 0.1, "detail": "" if ok else "wrong words"}), flush=True)
def plan(*names):
    print(json.dumps({"planned": names}), flush=True)
"""


def run(tmp_path: Path, body: str, *, patience_seconds: float = 60.0) -> ClientResult:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + body, encoding="utf-8")
    environment = Environment((sys.executable,), "Python 9", program)
    return run_compat.run_program(
        CLIENT,
        environment,
        [sys.executable, str(program)],
        dict(os.environ),
        patience_seconds=patience_seconds,
    )


def test_program_whose_checks_all_hold_passes(tmp_path: Path):
    result = run(tmp_path, "plan('a', 'b'); check('a'); print('chatter'); check('b')")
    assert result.is_passed
    assert [check.name for check in result.checks] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "planned no check"),
        ("plan()", "planned no check"),
        ("check('a')", "planned no check"),
        ("plan('a', 'b'); check('a')", "planned and reported differ: b"),
        ("plan('a'); check('a'); check('a')", "planned and reported differ"),
        ("plan('a'); check('a'); sys.exit(3)", "exit status 3"),
        ("plan('a'); check('a'); raise OSError('no server')", "OSError: no server"),
        ("plan('a'); check('a', ok=False)", ""),
        ("plan('a'); check('a', ok='yes')", ""),
    ],
)
def test_program_that_is_silent_or_broken_or_contradicted_fails(tmp_path: Path, body: str, problem: str):
    result = run(tmp_path, body)
    assert not result.is_passed
    assert problem in result.problem


def test_program_that_never_ends_is_stopped_and_fails(tmp_path: Path):
    result = run(tmp_path, "plan('a'); check('a'); time.sleep(600)", patience_seconds=1.0)
    assert not result.is_passed
    assert result.problem.startswith("stopped")


def test_refused_environment_is_a_failure_that_quotes_the_refusal():
    refused: Future[Environment] = Future()
    refused.set_exception(EnvironmentRefused("ERROR: no distribution"))
    result = run_compat.run_client(CLIENT, refused, bench=None)  # type: ignore[arg-type] - never reached
    assert not result.is_passed
    page = compatibility_page([result], run_on="Last run: today.")
    assert "did not run" in page
    assert "ERROR: no distribution" in page


def test_environment_of_a_package_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tools.compat.environments.HERE", tmp_path / "suite")
    requirements = tmp_path / "suite" / "requirements" / "some-client.txt"
    requirements.parent.mkdir(parents=True)
    requirements.write_text("--no-index\nno-such-package==1\n", encoding="utf-8")
    for variable in ("PIP_FIND_LINKS", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(EnvironmentRefused, match="no-such-package"):
        Environments(tmp_path / "cache").prepare(CLIENT)
    assert not list((tmp_path / "cache").glob("*/complete")), "the next run would take it for finished"


def test_quoted_refusal_names_no_address_and_no_path_of_this_machine():
    said = (
        "loading\nnpm ERROR 404 GET https://index.example.org/some%2fname\nERROR: /home/me/x.txt is missing\n"
    )
    assert quoted(said) == "npm ERROR 404 GET <address> ERROR: <path> is missing"
    assert quoted("") == "no reason was given"
    assert "index.example.org" not in quoted("error: getaddrinfo index.example.org")


def test_page_tells_passed_from_failed_and_what_was_exercised():
    sync, other = (CheckResult(f"{mode}: json", True, 0.1, "") for mode in ("sync", "async"))
    page = compatibility_page(
        [
            ClientResult(CLIENT, "Python 3.11", (sync, other)),
            ClientResult(CLIENT, "Python 3.11", (HELD, BROKEN)),
        ],
        run_on="Last run: today.",
    )
    assert "| Some client | 1.2 | Python 3.11 | 2 of 2 | passed |" in page
    assert "| 1 of 2 | FAILED: failed: srt |" in page
    assert "* **some-client**: json.\n" in page
    assert "* **some-client**: json; srt.\n" in page
    assert "no \\| cues" in page


def test_unknown_client_is_refused_by_name():
    assert [one.name for one in chosen_clients("curl, openai-1.3.9")] == ["openai-1.3.9", "curl"]
    assert chosen_clients("") == CLIENTS
    with pytest.raises(ClientUnknown, match="no client is called opanai"):
        chosen_clients("opanai")
    assert run_compat.main(["--clients", "opanai"]) == 2


def test_every_client_has_its_program_and_pins_its_version():
    for client in CLIENTS:
        assert (HERE / "clients" / client.program).is_file()
        if client.runtime == "python":
            text = (HERE / "requirements" / f"{client.name}.txt").read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line and not line.startswith("#")]
            assert all("==" in line for line in lines), lines
            assert any(line.endswith(f"=={client.version}") for line in lines), client
        if client.runtime == "node":
            text = (HERE / "node" / f"{client.name}.json").read_text(encoding="utf-8")
            pins = json.loads(text)["dependencies"]
            assert all(pin[0].isdigit() for pin in pins.values()), pins
            assert set(client.version.split(", ")) <= set(pins.values())


class Upstream:
    """A server that answers every POST alike and remembers the bodies."""

    def __init__(self) -> None:
        bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("x-request-id", "req_1")
                self.end_headers()
                self.wfile.write(b'{"text": "Hello."}')

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.bodies = bodies
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def upstream():
    one = Upstream()
    yield one
    one.server.shutdown()
    one.server.server_close()


def asked(
    proxy: FaultProxy, path: str, *, method: str = "POST", chunked: bool = False
) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=30)
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
    pieces = iter([form[:20], form[20:]]) if chunked else form
    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    connection.request(
        method, path, body=pieces if method == "POST" else None, headers=headers, encode_chunked=chunked
    )
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, answer.headers, json.loads(text)


def test_proxy_fails_once_as_the_server_would_and_then_lets_through(upstream: Upstream):
    with FaultProxy(upstream.server.server_address[1]) as proxy:
        status, headers, body = asked(proxy, "/unavailable-once/t/v1/x")
        assert (status, headers["retry-after"], body["error"]["code"]) == (503, "1", "engine_unavailable")
        assert headers["x-request-id"].startswith("req_")
        assert asked(proxy, "/unavailable-once/t/v1/x")[0] == 200
        assert asked(proxy, "/unavailable-once/other/v1/x")[0] == 503
        _, _, seen = asked(proxy, "/unavailable-once/t/attempts", method="GET")
        assert [one["status"] for one in seen] == [503, 200]
        assert len(upstream.bodies) == 1


def test_proxy_may_break_for_good_or_lose_the_first_answer(upstream: Upstream):
    with FaultProxy(upstream.server.server_address[1]) as proxy:
        for _ in range(2):
            status, headers, _ = asked(proxy, "/broken-for-good/t/v1/x")
            assert (status, headers["x-should-retry"]) == (503, "false")
        with pytest.raises(http.client.RemoteDisconnected):
            asked(proxy, "/answer-lost-once/t/v1/x")
        assert len(upstream.bodies) == 1
        assert asked(proxy, "/answer-lost-once/t/v1/x")[2] == {"text": "Hello."}


def test_proxy_tells_how_an_upload_was_sent(upstream: Upstream):
    with FaultProxy(upstream.server.server_address[1]) as proxy:
        asked(proxy, "/watch/t/v1/x", chunked=True)
        (seen,) = asked(proxy, "/watch/t/attempts", method="GET")[2]
        assert (seen["transfer_encoding"], seen["content_length"]) == ("chunked", None)
        assert seen["part_names"] == ["file"]
        assert upstream.bodies[0].startswith(b"--x\r\n")


CLAIMS = """
import json, sys
sys.path.insert(0, sys.argv[2])
from checks import *
plan = json.load(open(sys.argv[1], encoding="utf-8"))
spoken = plan["recording"]
cue = "1\\n00:00:00,000 --> 00:00:02,000\\n"
good = [
    lambda: assert_words(spoken["text"].upper(), spoken),
    lambda: assert_srt(cue + spoken["text"] + "\\n", spoken),
    lambda: assert_vtt("WEBVTT\\n\\n00:00.000 --> 00:02.000\\n" + spoken["text"] + "\\n", spoken),
]
bad = [
    lambda: assert_words("", spoken),
    lambda: assert_words(None, spoken),
    lambda: assert_words(spoken["text"] + " and then some more words", spoken),
    lambda: assert_words("Something else was said here, and at length, about boats.", spoken),
    lambda: assert_srt(spoken["text"], spoken),
    lambda: assert_srt(cue.replace("1", "7", 1) + spoken["text"], spoken),
    lambda: assert_srt("1\\n00:00:02,000 --> 00:00:01,000\\n" + spoken["text"], spoken),
    lambda: assert_srt("1\\n00:00:00,000 --> 00:09:00,000\\n" + spoken["text"], spoken),
    lambda: assert_vtt(cue + spoken["text"], spoken),
    lambda: assert_vtt("WEBVTT\\n\\n00:00.000 --> 00:02.000\\nOther words.\\n", spoken),
    lambda: assert_token_usage({"type": "tokens", "input_tokens": 3, "output_tokens": 1, "total_tokens": 5,
                                "input_token_details": {"audio_tokens": 2, "text_tokens": 1}}),
    lambda: assert_logprobs([], spoken),
    lambda: assert_logprobs([{"token": "a", "logprob": 0.5, "bytes": [97]}], spoken),
]
for claim in good:
    claim()
for number, claim in enumerate(bad):
    try:
        claim()
    except AssertionError:
        continue
    sys.exit(f"claim {number} holds for anything")
"""


def test_claims_about_transcripts_hold_for_right_ones_and_for_no_others(tmp_path: Path):
    plan = tmp_path / "plan.json"
    one = sample_recordings()[0]
    plan.write_text(json.dumps({"recording": {"text": one.reference, "seconds": 5.0}}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CLAIMS, str(plan), str(HERE / "clients")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
