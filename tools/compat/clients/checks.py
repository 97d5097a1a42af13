"""Parts shared by all Python client programs: a list of named checks, run in order, one JSON line each.

Standard library only, because each program runs in its client's own environment and knows nothing of this project. The
first line names all checks that are about to run, so that the runner notices one
that never reports.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORD_ERRORS_ALLOWED = 0.1
SEGMENT_FIELDS = {
    "id": int,
    "seek": int,
    "start": (int, float),
    "end": (int, float),
    "text": str,
    "tokens": list,
    "temperature": (int, float),
    "avg_logprob": (int, float),
    "compression_ratio": (int, float),
    "no_speech_prob": (int, float),
}
_SRT_TIME = re.compile(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})")
_VTT_TIME = re.compile(r"(?:(\d\d):)?(\d\d):(\d\d)\.(\d{3}) --> (?:(\d\d):)?(\d\d):(\d\d)\.(\d{3})")


class Checks:
    """Named claims about the server, made by a real client. `plan` is what the runner handed over."""

    def __init__(self) -> None:
        with open(sys.argv[1], encoding="utf-8") as file:
            self.plan: dict[str, Any] = json.load(file)
        self._checks: list[tuple[str, Callable[[], Any]]] = []

    def add(self, name: str, claim: Callable[[], Any]) -> None:
        """Plan a claim; it holds unless it raises."""
        self._checks.append((name, claim))

    def run(self) -> None:
        """Run every check, whatever the others came to, and print what they came to."""
        say(planned=[name for name, _ in self._checks])
        for name, claim in self._checks:
            started = time.monotonic()
            try:
                claim()
            except Exception as error:
                # The line of this program that failed says more than a library's last frame.
                frames = traceback.extract_tb(error.__traceback__)
                own = [frame for frame in frames if Path(frame.filename).parent == HERE] or frames
                where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
                detail = f"{type(error).__name__} at {where}: {str(error) or own[-1].line}"
                say(check=name, ok=False, seconds=elapsed(started), detail=detail[:2000])
            else:
                say(check=name, ok=True, seconds=elapsed(started), detail="")


def raised(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The error of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def elapsed(started: float) -> float:
    """Seconds since a time.monotonic(), to the hundredth."""
    return round(time.monotonic() - started, 2)


def say(**fields: Any) -> None:
    """One JSON line for the runner."""
    print(json.dumps(fields), flush=True)


def folded_words(text: str) -> list[str]:
    """Words without case and punctuation."""
    return re.findall(r"[\w']+", unicodedata.normalize("NFC", text).casefold())


def assert_words(said: Any, recording: dict[str, Any]) -> None:
    """The transcript is that of the recording, one word in ten at most being wrong."""
    assert isinstance(said, str), f"a {type(said).__name__} is no transcript: {said!r}"
    left, right = folded_words(recording["text"]), folded_words(said)
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    assert row[-1] <= WORD_ERRORS_ALLOWED * len(left), f"heard {said!r}, spoken was {recording['text']!r}"


def assert_verbose(body: dict[str, Any], recording: dict[str, Any]) -> None:
    """A verbose_json body: English name of the language, duration of the audio, every segment with ten fields."""
    assert body["task"] == "transcribe", body["task"]
    assert body["language"] == recording["language"], body["language"]
    assert abs(body["duration"] - recording["seconds"]) < 0.1, body["duration"]
    assert_words(body["text"], recording)
    assert body["segments"], "no segments"
    for index, segment in enumerate(body["segments"]):
        assert set(SEGMENT_FIELDS) <= set(segment), f"missing {set(SEGMENT_FIELDS) - set(segment)}"
        for name, kind in SEGMENT_FIELDS.items():
            assert isinstance(segment[name], kind), f"{name} is {segment[name]!r}"
        assert segment["id"] == index, segment["id"]
        assert 0 <= segment["start"] < segment["end"] <= recording["seconds"] + 0.1, segment
        assert segment["tokens"], "no tokens"
        assert all(isinstance(token, int) for token in segment["tokens"]), segment["tokens"]
        assert segment["avg_logprob"] <= 0, segment["avg_logprob"]
    assert_words(" ".join(segment["text"] for segment in body["segments"]), recording)
    assert body["usage"]["type"] == "duration", body["usage"]
    assert abs(body["usage"]["seconds"] - recording["seconds"]) < 1.0, body["usage"]


def assert_timed_words(words: list[dict[str, Any]], recording: dict[str, Any]) -> None:
    """verbose_json's words: the text's, in order, each of some length and inside the recording."""
    before = 0.0
    for word in words:
        assert set(word) == {"word", "start", "end"}, word
        assert before <= word["start"] < word["end"] <= recording["seconds"] + 0.1, word
        before = word["end"]
    assert_words(" ".join(word["word"] for word in words), recording)


def assert_token_usage(usage: dict[str, Any]) -> None:
    """The tokens form of usage, whose parts add up."""
    assert usage["type"] == "tokens", usage
    parts = usage["input_token_details"]
    assert parts["audio_tokens"] > 0, usage
    assert parts["audio_tokens"] + parts["text_tokens"] == usage["input_tokens"], usage
    assert usage["output_tokens"] > 0, usage
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"], usage


def assert_logprobs(logprobs: list[dict[str, Any]], recording: dict[str, Any]) -> None:
    """Real log-probabilities: one for each token, whose bytes put together are the transcript."""
    assert logprobs, "no logprobs"
    for one in logprobs:
        assert isinstance(one["token"], str), one
        assert isinstance(one["logprob"], float), one
        assert one["logprob"] <= 0, one
    assert len({one["logprob"] for one in logprobs}) > 1, "every token is equally likely"
    # Some SDKs' types turn the bytes into floats.
    assert_words(bytes(int(byte) for one in logprobs for byte in one["bytes"]).decode("utf-8"), recording)


def assert_srt(said: Any, recording: dict[str, Any]) -> None:
    """SubRip: numbered cues with rising times, and the words of the recording."""
    assert isinstance(said, str), type(said)
    cues = [cue.split("\n") for cue in said.replace("\r\n", "\n").strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number + 1) for number in range(len(cues))], said
    _assert_cues([cue[1:] for cue in cues], _SRT_TIME, recording)


def assert_vtt(said: Any, recording: dict[str, Any]) -> None:
    """WebVTT: its first line, cues with rising times, and the words of the recording."""
    assert isinstance(said, str), type(said)
    head, _, rest = said.replace("\r\n", "\n").partition("\n\n")
    assert head.split("\n")[0].strip() == "WEBVTT", said
    cues = [cue.split("\n") for cue in rest.strip().split("\n\n")]
    _assert_cues([cue if "-->" in cue[0] else cue[1:] for cue in cues], _VTT_TIME, recording)


def _assert_cues(cues: list[list[str]], pattern: re.Pattern[str], recording: dict[str, Any]) -> None:
    last = 0.0
    for cue in cues:
        match = pattern.match(cue[0])
        assert match is not None, cue
        numbers = [int(part or 0) for part in match.groups()]
        start, end = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (numbers[:4], numbers[4:]))
        assert last <= start < end <= recording["seconds"] + 0.5, cue[0]
        assert "".join(cue[1:]).strip(), "a cue without text"
        last = end
    assert_words(" ".join(line for cue in cues for line in cue[1:]), recording)
