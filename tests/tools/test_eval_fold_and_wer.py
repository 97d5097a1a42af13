"""The held-out evaluation judges fairly: fold, error rates, noise and sentences."""

import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tools.demo_model import text
from tools.eval import evaluate_demo
from tools.eval.clips import LANGUAGES, read_sentences
from tools.eval.noise import KINDS, LEVEL_RANGE_DBFS, SAMPLE_RATE, make_noise, noise_clip
from tools.eval.scoring import bootstrap_interval, compare, edit_distance, error_rate, fold

SENTENCES = read_sentences(Path(evaluate_demo.__file__).parent)
TRAINING_SAMPLE = 20_000
codes = pytest.mark.parametrize("code", LANGUAGES)


# The fold


@pytest.mark.parametrize(
    ("raw", "folded"),
    [
        ("Hello, World!", "hello world"),
        ("¿Qué  hora\tes?\n", "qué hora es"),
        ("Don't stop 'now', O\N{RIGHT SINGLE QUOTATION MARK}Neil.", "don't stop now o'neil"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "café"),
        ("well-known, twenty-one", "well known twenty one"),
        ("ÁRBOL Ñandú PINGÜINO", "árbol ñandú pingüino"),
        ("room 12_b", "room 12 b"),
        ("'' - . ?", ""),
        ("", ""),
    ],
)
def test_fold_drops_case_and_punctuation_only(raw: str, folded: str):
    assert fold(raw) == folded


def test_fold_keeps_accents_apart():
    assert compare("Está aquí", "Esta aquí").word_errors == 1


@codes
def test_fold_of_a_fold_changes_nothing(code: str):
    assert all(fold(fold(line)) == fold(line) for line in SENTENCES[code])


# Error rates


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abc", "abc", 0),
        ("abcdef", "bcdef", 1),
        ("abcdef", "xabcdef", 1),
        ("intention", "execution", 5),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance_counts_fewest_edits(reference: str, hypothesis: str, edits: int):
    assert edit_distance(reference, hypothesis) == edits


def plain_edit_distance(reference: str, hypothesis: str) -> int:
    """The textbook recurrence, cell by cell."""
    table_of_edits = [
        [max(i, j) if 0 in (i, j) else 0 for j in range(len(hypothesis) + 1)]
        for i in range(len(reference) + 1)
    ]
    for i, wanted in enumerate(reference, 1):
        for j, heard in enumerate(hypothesis, 1):
            table_of_edits[i][j] = min(
                table_of_edits[i - 1][j] + 1,
                table_of_edits[i][j - 1] + 1,
                table_of_edits[i - 1][j - 1] + (wanted != heard),
            )
    return table_of_edits[-1][-1]


def test_edit_distance_agrees_with_the_textbook_on_random_strings():
    rng = random.Random(4)
    for _ in range(300):
        pair = ["".join(rng.choices("abcd", k=rng.randint(0, 14))) for _ in range(2)]
        assert edit_distance(*pair) == plain_edit_distance(*pair), pair


def test_word_and_character_errors_are_counted_after_the_fold():
    errors = compare("The cat sat.", "the hat, sat down")
    assert (errors.words, errors.word_errors) == (3, 2)
    assert (errors.characters, errors.character_errors) == (len("the cat sat"), 1 + len(" down"))


def test_error_rate_pools_clips_instead_of_averaging_them():
    assert error_rate([1, 0], [1, 9]) == pytest.approx(0.1)


def test_error_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no reference words"):
        error_rate([], [])


def test_bootstrap_interval_holds_the_rate_and_narrows_with_more_clips():
    rng = np.random.default_rng(2)
    errors = rng.binomial(10, 0.1, size=400).tolist()
    few, many = bootstrap_interval(errors[:25], [10] * 25), bootstrap_interval(errors, [10] * 400)
    assert many[0] < error_rate(errors, [10] * 400) < many[1]
    assert many[1] - many[0] < few[1] - few[0]
    # Normal approximation of the same interval: the two may differ by little.
    spread = 2 * 1.96 * float(np.std(errors)) / 10 / np.sqrt(400)
    assert many[1] - many[0] == pytest.approx(spread, rel=0.15)


def test_bootstrap_interval_of_equal_clips_has_no_width():
    assert bootstrap_interval([1, 1, 1], [4, 4, 4]) == (0.25, 0.25)


# Noise


@pytest.mark.parametrize("kind", ["room", "hum", "white", "pink"])
@pytest.mark.parametrize("level_dbfs", [-60.0, -30.0, -15.0])
def test_noise_has_the_level_it_was_asked_for(kind: str, level_dbfs: float):
    samples = make_noise(kind, 48_000, level_dbfs, np.random.default_rng(1)) / 32768.0
    assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(level_dbfs, abs=0.2)


def test_silence_is_digital_silence():
    samples = make_noise("silence", 16_000, -20.0, np.random.default_rng(1))
    assert samples.dtype == np.int16
    assert not samples.any()


def octave_levels_db(samples: np.ndarray, starts_hz: list[int]) -> list[float]:
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return [10 * np.log10(power[(hz >= start) & (hz < 2 * start)].sum()) for start in starts_hz]


def test_white_noise_gains_three_decibels_an_octave_and_pink_noise_none():
    starts_hz = [125, 250, 500, 1000, 2000]
    for kind, slope_db in (("white", 3.01), ("pink", 0.0)):
        samples = make_noise(kind, 20 * SAMPLE_RATE, -20.0, np.random.default_rng(3))
        slopes = np.diff(octave_levels_db(samples, starts_hz))
        assert np.allclose(slopes, slope_db, atol=0.5), kind


def test_hum_lies_below_half_a_kilohertz_on_multiples_of_the_mains():
    samples = make_noise("hum", 4 * SAMPLE_RATE, -20.0, np.random.default_rng(5)).astype(np.float64)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    assert power[hz < 500].sum() > 0.9999 * power.sum()
    loudest_hz = hz[power.argmax()]
    assert min(loudest_hz % 50, 50 - loudest_hz % 50, loudest_hz % 60, 60 - loudest_hz % 60) < 1.5


def test_unknown_kind_of_noise_is_refused():
    with pytest.raises(ValueError, match="brown"):
        make_noise("brown", 100, -20.0, np.random.default_rng(0))


def test_same_seed_gives_the_same_noise_and_another_seed_another():
    (first_kind, first_level, first), (again_kind, again_level, again) = noise_clip(7, 20), noise_clip(7, 20)
    assert (first_kind, first_level) == (again_kind, again_level)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:8000], noise_clip(7, 21)[2][:8000])


def test_noise_series_has_every_kind_equally_and_spans_levels_and_durations():
    series = [noise_clip(index, 20) for index in range(200)]
    assert {kind: sum(found == kind for found, _, _ in series) for kind in KINDS} == dict.fromkeys(KINDS, 40)
    seconds = [len(samples) / SAMPLE_RATE for _, _, samples in series]
    assert 0.5 <= min(seconds) < 1.0
    assert 15.0 < max(seconds) <= 20.0
    levels = [level for kind, level, _ in series if kind in ("hum", "white", "pink")]
    assert LEVEL_RANGE_DBFS[0] <= min(levels) < -55.0
    assert -16.0 < max(levels) <= LEVEL_RANGE_DBFS[1]


# Sentences


@codes
def test_sentence_list_is_long_enough_and_repeats_nothing(code: str):
    lines = SENTENCES[code]
    assert len(lines) >= 460
    assert len({fold(line) for line in lines}) == len(lines)


@codes
def test_sentences_have_four_to_sixteen_words(code: str):
    assert [line for line in SENTENCES[code] if not 4 <= len(line.split()) <= 16] == []


@codes
def test_short_clips_use_at_least_1500_distinct_words_and_the_rest_adds_more(code: str):
    short = {word for line in SENTENCES[code][:300] for word in fold(line).split()}
    everything = {word for line in SENTENCES[code] for word in fold(line).split()}
    assert len(short) >= 1500
    assert len(everything) >= len(short) + 400


@pytest.mark.parametrize(
    ("code", "pattern"),
    [
        ("en", r"[A-Z][A-Za-z']*(?:,? [A-Za-z']+)*[.?!]"),
        ("es", r"[¿¡]?[A-ZÁÉÍÓÚÑ][a-záéíóúüñA-ZÁÉÍÓÚÑ]*(?:,? ¿?[a-záéíóúüñA-ZÁÉÍÓÚÑ]+)*[.?!]"),
    ],
)
def test_sentences_are_cased_and_punctuated_and_have_no_digit_or_symbol(code: str, pattern: str):
    assert [line for line in SENTENCES[code] if not re.fullmatch(pattern, line)] == []


def test_spanish_questions_and_exclamations_open_as_they_close():
    for line in SENTENCES["es"]:
        assert (line.count("¿"), line.count("¡")) == (line.count("?"), line.count("!")), line


@cache
def training_sentences(code: str, folder: Path | None) -> frozenset[str]:
    found = text.sentences(LANGUAGES[code], 77, folder)
    return frozenset(fold(line) for line in islice(found, TRAINING_SAMPLE))


@pytest.fixture(scope="module")
def word_list_folder(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """None where Debian's word lists are installed, else a folder with a few words in their place."""
    if all((text.DEFAULT_WORD_LIST_FOLDER / name).exists() for name in ("american-english", "spanish")):
        return None
    folder = tmp_path_factory.mktemp("dict")
    for name, code in (("american-english", "en"), ("spanish", "es")):
        # The evaluation's own words, the likeliest to make a sentence of it by chance.
        listed = sorted({word for line in SENTENCES[code] for word in fold(line).split()})
        (folder / name).write_text("\n".join([*listed, "Alba", "Bruno", "Clara"]) + "\n", encoding="utf-8")
    return folder


@codes
def test_training_text_never_says_an_evaluation_sentence(code: str, word_list_folder: Path | None):
    assert training_sentences(code, word_list_folder) & {fold(line) for line in SENTENCES[code]} == set()


def five_word_sequences(line: str) -> Iterator[tuple[str, ...]]:
    said = fold(line).split()
    return zip(*(said[start:] for start in range(5)), strict=False)


@codes
def test_training_text_shares_hardly_any_five_words_in_a_row_with_the_evaluation(
    code: str, word_list_folder: Path | None, record_property: pytest.FixtureRequest
):
    trained = {
        found for line in training_sentences(code, word_list_folder) for found in five_word_sequences(line)
    }
    evaluated = [found for line in SENTENCES[code] for found in five_word_sequences(line)]
    share = sum(found in trained for found in evaluated) / len(evaluated)
    record_property(f"five_word_overlap_{code}", share)
    assert share < 0.002
