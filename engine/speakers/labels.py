"""Names for the speaker turns that a pipeline found: known ones where a voice is known, else A, B, C and so on.

The annotations are those of pyannote.core; nothing else of pyannote is needed here.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribewire.engine.protocol.speakers import SpeakerTurn

LEAST_SIMILARITY = 0.5
"""Cosine of two voices that are taken for one. Ours: embeddings of one voice lie above it, of two well below."""

Embedding = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PipelineOutput:
    """A pipeline's result for one recording.

    annotation: a pyannote.core.Annotation; its labels are the pipeline's own names.
    exclusive: the same without overlaps, where the pipeline makes one: a word has one speaker.
    embeddings: (speakers, dimensions), in the order of annotation.labels(); None where the pipeline gives none.
    """

    annotation: Any
    exclusive: Any | None = None
    embeddings: NDArray[Any] | None = None

    @property
    def voices(self) -> dict[str, Embedding]:
        """The embedding of each label that has one of some length."""
        if self.embeddings is None:
            return {}
        pairs = zip(self.annotation.labels(), np.asarray(self.embeddings, dtype=np.float64), strict=False)
        return {
            str(label): voice / np.linalg.norm(voice)
            for label, voice in pairs
            if np.isfinite(voice).all() and np.linalg.norm(voice) > 0
        }

    def loudest(self) -> Embedding | None:
        """The voice that speaks longest, where it has an embedding: of a reference, the one that is meant."""
        voices = self.voices
        spoken = [(self.annotation.label_duration(label), label) for label in voices]
        return voices[max(spoken)[1]] if spoken else None


def turns_of(found: PipelineOutput, known: Sequence[tuple[str, Embedding]] = ()) -> tuple[SpeakerTurn, ...]:
    """The turns in order of their start, under names.

    known: names and voices. Each names the label that is most like it, if it is like it at all; no label and no name is
    used twice. The other labels are A, B, C in the order in which they are first heard, names in use left out.
    """
    annotation = found.annotation if found.exclusive is None else found.exclusive
    heard = sorted(
        (
            (segment.start, segment.end, str(label))
            for segment, _, label in annotation.itertracks(yield_label=True)
        )
    )
    names = dict(_known_names(found.voices, known))
    letters = (letter for letter in _letters() if letter not in set(names.values()))
    for _, _, label in heard:
        if label not in names:
            names[label] = next(letters)
    return tuple(SpeakerTurn(max(0.0, float(start)), float(end), names[label]) for start, end, label in heard)


def _known_names(
    voices: Mapping[str, Embedding], known: Sequence[tuple[str, Embedding]]
) -> Iterator[tuple[str, str]]:
    likeness = sorted(
        (
            (float(voice @ reference / np.linalg.norm(reference)), name, label)
            for name, reference in known
            for label, voice in voices.items()
            if reference.shape == voice.shape
        ),
        reverse=True,
    )
    used: set[str] = set()
    for similarity, name, label in likeness:
        if similarity < LEAST_SIMILARITY:
            return
        if name not in used and label not in used:
            used |= {name, label}
            yield label, name


def _letters() -> Iterator[str]:
    """A to Z, then AA, AB and so on."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_uppercase, repeat=length):
            yield "".join(letters)
