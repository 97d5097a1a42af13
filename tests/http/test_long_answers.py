"""Long transcripts as answers: the same as short ones, made in a thread of their own, so that nobody else waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from scribewire.server.http.answers import Answer
from scribewire.server.routes import documents
from tests.fakes.running_server import RunningServer, script
from tests.fakes.waiting import wait_until


class Word(Answer):
    word: str
    start: float


class Result(Answer):
    text: str
    words: list[Word]
    others: list[int]


class Whole(Answer):
    name: str
    result: Result | None
    more: list[Word]


@pytest.mark.parametrize("words", [0, 1, 500, 501, 1703])
@pytest.mark.parametrize("more", [0, 501])
def test_json_made_in_pieces_is_the_same(words: int, more: int):
    text = 'a text that says "words":[] and "result":null, \\"more\\":[] and \u2028'
    made = [Word(word=f'w{n}"', start=n / 3) for n in range(max(words, more))]
    result = Result(text=text, words=made[:words], others=list(range(words)))
    for body in (
        result,
        Whole(name=text, result=result, more=made[:more]),
        Whole(name="", result=None, more=[]),
    ):
        assert body.json_text() == body.model_dump_json()


def test_long_answers_of_every_format_are_made_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    threads: list[str] = []
    text = " ".join(f"word{n}" for n in range(20_000))
    for name in ("answer_headers", "rendered"):
        real = getattr(documents, name)

        def noted(*arguments: Any, real: Any = real, **named: Any) -> Any:
            threads.append(threading.current_thread().name)
            return real(*arguments, **named)

        monkeypatch.setattr(documents, name, noted)
    with RunningServer(tmp_path) as running:
        for response_format in ("json", "verbose_json", "text", "srt", "vtt", "tsv"):
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
