"""Long transcripts as answers: the same as short ones, made in a thread of their own, so that nobody else waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from scribewire.server.routes import bodies
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "text",
        {"a": {}, "b": [], "c": None, "d": {"e": [1, 2.5, '\u2028é"\\'], "f": True}},
        {
            "many": [{"word": f"w{n}", "start": n / 3} for n in range(1703)],
            "rest": {"many": list(range(500))},
        },
        {"exactly": list(range(1000)), "nested": {"nested": {"words": ["x" * 70] * 501}}},
    ],
)
def test_json_made_in_pieces_is_the_same(body: Any):
    assert bodies.JsonInPieces(body).body == JSONResponse(body).body


def test_long_answers_of_every_format_are_made_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    threads: list[str] = []
    text = " ".join(f"word{n}" for n in range(20_000))
    for name in ("answer_headers", "cues_from_transcript", "job_result_body"):
        real = getattr(bodies, name)

        def noted(*arguments: Any, real: Any = real, **named: Any) -> Any:
            threads.append(threading.current_thread().name)
            return real(*arguments, **named)

        monkeypatch.setattr(bodies, name, noted)
    with RunningServer(tmp_path) as running:
        for response_format in ("json", "verbose_json", "text", "srt", "vtt"):
            threads.clear()
            answer = running.transcribe(script(text=text), response_format=response_format)
            assert "word19999" in answer.text
            assert {name.partition("_")[0] for name in threads} == {"long-answers"}
            threads.clear()
            assert (
                running.transcribe(script(text="short"), response_format=response_format).status_code == 200
            )
            assert "long-answers" not in {name.partition("_")[0] for name in threads}
        job_id = running.client.post("/transcribe", files={"file": script(text=text)}).json()["job_id"]
        wait_until(lambda: running.client.get(f"/jobs/{job_id}").json()["status"] == "completed")
        assert running.client.get(f"/jobs/{job_id}").json()["result"]["text"] == text
        assert "word19999" in running.client.get(f"/jobs/{job_id}/result?format=srt").text
