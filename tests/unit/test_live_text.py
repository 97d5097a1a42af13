"""Deltas: what is sent stays, and all of it together is the text."""

from __future__ import annotations

import random

import pytest

from scribewire.engine.protocol.languages import join_texts
from scribewire.engine.protocol.transcript import TokenLogprob
from scribewire.engine.recording.output import StreamingText, continued


class Sent:
    """Deltas that a LiveText sent."""

    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.live = StreamingText(self.take)

    def take(self, delta: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        self.deltas.append(delta)
        self.logprobs += logprobs

    @property
    def text(self) -> str:
        return "".join(self.deltas)


def tokens(count: int, start: int = 0) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(str(n), str(n).encode(), -float(n)) for n in range(start, start + count))


def test_text_is_sent_as_it_grows_and_the_end_adds_the_rest() -> None:
    sent = Sent()
    sent.live.grow("Hello", "English", ())
    sent.live.grow("Hello wor", "English", ())
    assert sent.text == "Hello wor"
    assert sent.live.finish("Hello world.", "English", ()) == "Hello world."
    assert sent.deltas[0] == "Hello"
    assert sent.text == "Hello world."


@pytest.mark.parametrize(
    ("first", "second", "language"),
    [("One.", "Two.", "English"), ("你好。", "再见。", "Chinese"), ("用 GPT", "OpenAI 的", "Chinese")],
)
def test_chunks_are_joined_as_the_transcript_joins_them(first: str, second: str, language: str) -> None:
    sent = Sent()
    for text in (first, "", second):
        sent.live.grow(text, language, ())
        sent.live.finish(text, language, ())
    assert sent.text == join_texts([(first, language), (second, language)])


def test_incomplete_character_waits_for_its_bytes() -> None:
    sent = Sent()
    sent.live.grow("Caf\ufffd", "French", ())
    assert sent.text == "Caf"
    sent.live.grow("Café", "French", ())
    assert sent.text == "Café"


def test_every_token_has_its_log_probability_sent_once() -> None:
    sent = Sent()
    sent.live.grow("a", "English", tokens(2))
    assert sent.live.logprobs_taken == 2
    sent.live.grow("a b", "English", tokens(1, 2))
    sent.live.finish("a b c", "English", tokens(5))
    assert sent.logprobs == list(tokens(5))
    sent.live.finish("d", "English", tokens(2, 9))
    assert sent.logprobs == list(tokens(5)) + list(tokens(2, 9))


def test_second_attempt_that_hears_otherwise_goes_on_behind_what_was_sent() -> None:
    sent = Sent()
    sent.live.grow("the cat sad on", "English", ())
    final = sent.live.finish("The cat sat on the mat.", "English", ())
    assert final == "the cat sad on the mat."
    assert sent.text == final


@pytest.mark.parametrize(
    ("sent", "text", "expected"),
    [
        ("", "anything", "anything"),
        ("the cat", "the cat sat", "the cat sat"),
        ("the cat sad", "the cat sat on the mat", "the cat sad on the mat"),
        ("and and and", "and then we left", "and and and left"),
        ("one two three", "one two", "one two three"),
        ("今天天器", "今天天气很好", "今天天器很好"),
        ("gone", "", "gone"),
    ],
)
def test_continuation_neither_loses_nor_doubles_more_than_it_must(
    sent: str, text: str, expected: str
) -> None:
    assert continued(sent, text) == expected


@pytest.mark.parametrize("seed", range(20))
def test_deltas_joined_are_the_text_whatever_grows_and_changes(seed: int) -> None:
    chance = random.Random(seed)
    sent = Sent()
    finals = []
    for _ in range(6):
        language = chance.choice(["English", "Chinese", None])
        words = [chance.choice(["no", "ha", "a", "stop.", "好", "的"]) for _ in range(chance.randint(0, 40))]
        text = " ".join(words)
        for end in sorted(chance.sample(range(len(text) + 1), min(len(text), 5))):
            sent.live.grow(text[:end], language, ())
        if chance.random() < 0.3:
            text = " ".join(chance.sample(words, len(words)))
        finals.append((sent.live.finish(text, language, ()), language))
    assert sent.text == join_texts(finals)


def test_each_chunk_with_text_says_where_it_begins_before_its_first_delta() -> None:
    seen: list[object] = []
    live = StreamingText(lambda delta, _: seen.append(delta), seen.append)
    live.grow("One", "English", (), 0.0)
    live.grow("One two", "English", (), 0.0)
    live.finish("One two.", "English", (), 0.0)
    live.finish("", None, (), 30.0)
    live.finish("Three.", "English", (), 60.5)
    assert seen == [0.0, "One", " two", ".", 60.5, " Three."]
