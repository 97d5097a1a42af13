"""Words in a transcript: joined they are their text again, and a transcript with them survives being stored."""

from scribewire.engine.protocol.transcript import Segment, Transcript, Word, words_text
from scribewire.server.jobs.serialization import transcript_from_json, transcript_to_json
from tests.fakes.fake_worker import _spread


def test_words_joined_are_the_text_with_and_without_spaces():
    english = [Word("Hello,", 0.0, 0.4, spacing=""), Word("world!", 0.4, 0.9)]
    chinese = [Word(text, 0.0, 0.1, spacing="") for text in ("你", "好。")]
    assert words_text(english) == "Hello, world!"
    assert words_text(chinese) == "你好。"
    assert words_text([]) == ""


def test_the_fake_workers_words_fill_their_segment():
    words = _spread("one  three, five", 2.0, 5.0)
    assert words_text(words) == "one  three, five"
    assert (words[0].start_seconds, words[-1].end_seconds) == (2.0, 5.0)
    assert [word.end_seconds for word in words[:-1]] == [word.start_seconds for word in words[1:]]


def test_a_stored_transcript_keeps_its_words():
    words = _spread("¿Qué tal?", 0.0, 1.0)
    segment = Segment(0, 0.0, 1.0, "¿Qué tal?", "Spanish", words=words)
    transcript = Transcript("¿Qué tal?", "Spanish", ("Spanish",), 1.0, (segment,), "m")
    assert transcript_from_json(transcript_to_json(transcript)) == transcript
