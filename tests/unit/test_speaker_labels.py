"""Names of speakers, on real annotations of pyannote.core."""

from __future__ import annotations

import itertools

import numpy as np
from pyannote.core import Annotation, Segment

from scribewire.engine.speakers.labels import PipelineOutput, _letters, turns_of

ANN, BOB, CAM = np.array([1.0, 0.0, 0.1]), np.array([0.0, 1.0, 0.1]), np.array([0.1, 0.1, 1.0])


def annotation(*turns: tuple[float, float, str]) -> Annotation:
    made = Annotation(uri="talk")
    for track, (start, end, label) in enumerate(turns):
        made[Segment(start, end), track] = label
    return made


TALK = annotation(
    (0.5, 2.0, "SPEAKER_01"), (2.0, 3.0, "SPEAKER_00"), (2.5, 4.0, "SPEAKER_01"), (5.0, 6.0, "SPEAKER_02")
)


def names(found: PipelineOutput, known=()) -> list[str]:
    return [turn.speaker for turn in turns_of(found, known)]


def test_speakers_are_named_in_the_order_in_which_they_are_heard():
    turns = turns_of(PipelineOutput(TALK))
    assert [(turn.start_seconds, turn.end_seconds, turn.speaker) for turn in turns] == [
        (0.5, 2.0, "A"),
        (2.0, 3.0, "B"),
        (2.5, 4.0, "A"),
        (5.0, 6.0, "C"),
    ]


def test_turns_without_overlap_are_preferred_where_the_pipeline_makes_them():
    alone = annotation((0.5, 2.4, "SPEAKER_01"), (2.4, 3.0, "SPEAKER_00"))
    assert [turn.end_seconds for turn in turns_of(PipelineOutput(TALK, exclusive=alone))] == [2.4, 3.0]


def test_a_known_voice_has_its_name_and_the_others_their_letters():
    found = PipelineOutput(TALK, embeddings=np.array([ANN, BOB, CAM]))  # of SPEAKER_00, 01 and 02
    assert names(found, [("Bob", 3 * BOB)]) == ["Bob", "A", "Bob", "B"]
    assert names(found, [("Ann", ANN), ("Bob", BOB), ("Cam", CAM)]) == ["Bob", "Ann", "Bob", "Cam"]


def test_a_letter_that_is_somebodys_name_is_left_out():
    found = PipelineOutput(TALK, embeddings=np.array([ANN, BOB, CAM]))
    assert names(found, [("A", CAM)]) == ["B", "C", "B", "A"]


def test_a_voice_that_is_like_none_of_the_known_keeps_its_letter():
    found = PipelineOutput(TALK, embeddings=np.array([ANN, BOB, CAM]))
    assert names(found, [("Dan", -BOB)]) == ["A", "B", "A", "C"]


def test_a_name_goes_to_the_voice_that_is_most_like_it_and_to_no_other():
    nearly = BOB + 0.5 * ANN
    found = PipelineOutput(TALK, embeddings=np.array([nearly, BOB, CAM]))
    assert names(found, [("Bob", BOB)]) == ["Bob", "A", "Bob", "B"]
    # Two references of equal likeness: each label has one name.
    assert sorted(set(names(found, [("Bob", BOB), ("Rob", BOB)]))) == ["A", "Bob", "Rob"]


def test_voices_that_are_no_numbers_or_of_another_kind_name_nobody():
    found = PipelineOutput(TALK, embeddings=np.array([[np.nan] * 3, np.zeros(3), CAM]))
    assert names(found, [("Ann", ANN), ("Cam", CAM), ("Odd", np.ones(5))]) == ["A", "B", "A", "Cam"]


def test_more_labels_than_embeddings_are_no_fault():
    assert names(PipelineOutput(TALK, embeddings=np.array([ANN])), [("Ann", ANN)]) == ["A", "Ann", "A", "B"]


def test_a_reference_is_the_voice_that_speaks_longest_in_it():
    found = PipelineOutput(TALK, embeddings=np.array([ANN, BOB, CAM]))
    assert np.allclose(found.loudest(), BOB / np.linalg.norm(BOB))
    assert PipelineOutput(annotation()).loudest() is None


def test_silence_has_no_turns():
    assert turns_of(PipelineOutput(annotation(), embeddings=np.zeros((0, 3)))) == ()


def test_after_z_comes_aa():
    letters = list(itertools.islice(_letters(), 28))
    assert letters[:3] + letters[25:] == ["A", "B", "C", "Z", "AA", "AB"]
