"""Scores of transcripts: the fold, the edit distance, error rates and their intervals.

The fold, applied to reference and hypothesis alike before anything is compared:

1. Unicode NFC, then lower case;
2. the curly apostrophe becomes the straight one;
3. letters (accents kept: "esta" and "está" are two words) and digits stay, and so does an apostrophe between two of
   them ("don't"); every other character, the hyphen included, becomes a space;
4. runs of spaces become one, and those at the ends go.

The edit distance is our own, because it is twenty lines, because the bootstrap needs errors and lengths per clip
rather than one rate, and because a compiled library would join the hash-locked development dependencies for it.

No number is written out, no spelling variant is forgiven and no filler is dropped: "two" is not "2".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_KEPT = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
BOOTSTRAP_ROUNDS = 2000


def fold(text: str) -> str:
    """`text` in the form that is compared: the four steps above."""
    normal = unicodedata.normalize("NFC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(_KEPT.findall(normal))


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Fewest substitutions, insertions and deletions that turn one sequence into the other (Levenshtein).

    One row of the table at a time. Insertions run along a row, so their part of the recurrence,
    row[j] = min over k <= j of (row[k] + j - k), is a running minimum of row[k] - k.
    """
    names: dict[Hashable, int] = {}
    first = np.array([names.setdefault(item, len(names)) for item in reference], dtype=np.int64)
    second = np.array([names.setdefault(item, len(names)) for item in hypothesis], dtype=np.int64)
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for item in first:
        best = np.empty_like(row)
        best[0] = row[0] + 1
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (second != item))
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


@dataclass(frozen=True)
class Errors:
    """Edits between one reference and one hypothesis, after the fold."""

    words: int
    word_errors: int
    characters: int
    character_errors: int


def compare(reference: str, hypothesis: str) -> Errors:
    """Word and character edits; spaces between words count as characters."""
    wanted, heard = fold(reference), fold(hypothesis)
    return Errors(
        words=len(wanted.split()),
        word_errors=edit_distance(wanted.split(), heard.split()),
        characters=len(wanted),
        character_errors=edit_distance(wanted, heard),
    )


def error_rate(errors: Sequence[int], lengths: Sequence[int]) -> float:
    """All edits over all reference items; raises ValueError when there is nothing to compare with."""
    total = sum(lengths)
    if total == 0:
        raise ValueError("no reference words: an error rate has no meaning")
    return sum(errors) / total


def bootstrap_interval(errors: Sequence[int], lengths: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of `error_rate`, clips drawn with replacement BOOTSTRAP_ROUNDS times."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(errors), size=(BOOTSTRAP_ROUNDS, len(errors)))
    rates = np.asarray(errors)[drawn].sum(axis=1) / np.asarray(lengths)[drawn].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(low), float(high)
