"""The evaluation as a whole: clips, an engine, figures, targets, report and model card."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.demo_model import speech
from tools.eval import evaluate_demo, provenance
from tools.eval.clips import LANGUAGES, LONG_FEWEST, LONG_MOST, Studio, read_sentences, remembered
from tools.eval.report import (
    CARD_BEGIN,
    CARD_END,
    Outcome,
    Target,
    TrainingWords,
    fill_model_card,
    set_figures,
    table,
    targets_of,
)
from tools.eval.scoring import compare

SENTENCES = read_sentences(Path(evaluate_demo.__file__).parent)
QUICK_SIZES = {name: min(size, 6) for name, size in evaluate_demo.SET_SIZES.items()}


# The run


def fake_speak(words: str, voice: speech.Voice) -> np.ndarray:
    """A third of a second a word; the samples hold nothing that matters."""
    return np.full(len(words.split()) * 5333, 1000, dtype=np.int16)


@pytest.fixture
def studio() -> Studio:
    return Studio(SENTENCES, speech.training_voice, speech.held_out_voice, fake_speak, seed=3)


def said_in(studio: Studio, sizes: dict[str, int]) -> dict[bytes, tuple[str, str | None]]:
    """Text and language by samples, so that a fake can answer as a perfect engine would."""
    return {
        clip.samples.astype(np.float32).tobytes(): (clip.text, clip.language)
        for name, size in sizes.items()
        for clip in evaluate_demo.clips_of(studio, name, size)
    }


def test_perfect_engine_meets_every_target_but_the_word_count_of_a_short_run(studio: Studio):
    truth = said_in(studio, QUICK_SIZES)
    asked: list[tuple[str | None, str]] = []

    def recognize(waveform: np.ndarray, language: str | None, context: str) -> evaluate_demo.Heard:
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() <= 1.0
        asked.append((language, context))
        return evaluate_demo.Heard(*truth[(waveform * 32768).astype(np.float32).tobytes()])

    known = {"en": TrainingWords(frozenset({"the"}), frozenset())}
    report = evaluate_demo.evaluate(studio, recognize, QUICK_SIZES, known, show_progress=False)
    missed = [target["name"] for target in report["targets"] if not target["met"]]
    assert missed == ["distinct words, short-en", "distinct words, short-es"]
    assert report["sets"]["long-es"]["wer"] == report["sets"]["held-out-en"]["cer"] == 0.0
    assert report["sets"]["noise-context"]["empty"] == report["sets"]["noise"]["language_none"] == 1.0
    assert {language for language, _ in asked} == {None, "English", "Spanish"}
    assert sum(bool(context) for _, context in asked) == sum(
        size for name, size in QUICK_SIZES.items() if "context" in name
    )
    assert report["sets"]["short-en"]["words"]["not_in_training_sample"] == 1.0
    assert report["sets"]["short-es"]["words"]["never_in_training"] is None
    assert report["complete"] is False
    assert "partial run" in table(report | {"machine": provenance.machine(), "versions": {"python": "3"}})


def test_engine_that_invents_words_in_noise_misses_its_target(studio: Studio):
    def recognize(waveform: np.ndarray, language: str | None, context: str) -> evaluate_demo.Heard:
        return evaluate_demo.Heard("thank you", "English")

    report = evaluate_demo.evaluate(studio, recognize, {"noise": 4}, {}, show_progress=False)
    assert report["sets"]["noise"]["empty"] == 0.0
    assert evaluate_demo.exit_code(report) == 1


def test_long_clips_last_15_to_30_seconds_and_never_repeat_one_another(studio: Studio):
    clips = list(studio.long("en", 60))
    assert all(15.0 <= clip.seconds <= 30.0 for clip in clips)
    assert all(LONG_FEWEST <= len(re.findall(r"[.?!]", clip.text)) <= LONG_MOST for clip in clips)
    assert len({clip.text for clip in clips}) == 60
    assert clips[0].text.startswith(SENTENCES["en"][300])


def test_held_out_clips_use_only_the_variant_kept_out_of_training(studio: Studio):
    for code, language in LANGUAGES.items():
        variants = {clip.voice.split("+")[1] for clip in studio.held_out(code, 20)}
        assert variants == {speech.HELD_OUT_VARIANTS[language]}
        trained = {clip.voice.partition("+")[2] for clip in studio.short(code, 300)}
        assert speech.HELD_OUT_VARIANTS[language] not in trained


def test_forced_and_context_clips_are_the_short_clips_told_otherwise(studio: Studio):
    for plain, forced, with_context in zip(
        studio.short("es", 8), studio.forced("es", 8), studio.with_context("es", 8), strict=True
    ):
        assert np.array_equal(plain.samples, forced.samples)
        assert np.array_equal(plain.samples, with_context.samples)
        assert (plain.forced_language, forced.forced_language, with_context.forced_language) == (
            None,
            "Spanish",
            None,
        )
        assert len(with_context.context.split()) >= 5


def test_a_sound_once_made_is_read_back_and_not_made_again(tmp_path: Path):
    calls: list[str] = []

    def speak(words: str, voice: speech.Voice) -> np.ndarray:
        calls.append(words)
        return np.arange(len(words), dtype=np.int16)

    voice = speech.Voice("English", "flite", "slt", "", 1.0, 0.0)
    first = remembered(speak, tmp_path, "1")("Hello there.", voice)
    again = remembered(speak, tmp_path, "1")("Hello there.", voice)
    assert np.array_equal(first, again)
    assert calls == ["Hello there."]
    remembered(speak, tmp_path, "2")("Hello there.", voice)
    remembered(speak, tmp_path, "1")("Hello there.", replace(voice, speed=1.1))
    assert len(calls) == 3


def outcome(said: str, heard: str, voice: str, language: str | None = "English") -> Outcome:
    return Outcome("short-en", "English", voice, said, heard, language, 2.0, 0.5, compare(said, heard))


def test_figures_are_grouped_by_engine_and_by_voice_without_its_variant():
    figures = set_figures(
        [
            outcome("one two three four", "one two three for", "flite:slt"),
            outcome("one two three four", "one two three four", "espeak:en-us+Alex"),
            outcome("one two three four", "two three four", "espeak:en-us+max", language="Spanish"),
        ],
        TrainingWords(frozenset({"one", "two", "three"}), frozenset({"one"})),
    )
    assert figures["wer"] == pytest.approx(2 / 12, abs=1e-5)
    assert figures["by_engine"]["flite"]["wer"] == 0.25
    assert set(figures["by_voice"]) == {"flite:slt", "espeak:en-us"}
    assert figures["by_voice"]["espeak:en-us"]["clips"] == 2
    assert figures["language_right"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["words"] == {
        "distinct": 4,
        "never_in_training": 0.25,
        "not_in_training_sample": 0.75,
    }
    assert figures["real_time_factor"] == 0.25
    assert [worst["heard"] for worst in figures["worst"]] == ["one two three for", "two three four"]


@pytest.mark.parametrize(
    ("wer", "right", "is_met"),
    [(0.05, 0.99, True), (0.0501, 0.99, False), (0.05, 0.9899, False)],
)
def test_targets_are_the_issues_limits_exactly(wer: float, right: float, is_met: bool):
    sets = {"short-en": {"clips": 300, "wer": wer, "language_right": right, "words": {"distinct": 1500}}}
    assert all(target.is_met for target in targets_of(sets)) is is_met


def test_target_at_least_is_missed_from_below():
    assert not Target("empty", 0.989, 0.99, at_most=False).is_met


# The command line


@pytest.mark.parametrize(
    "otherwise", [["--limit", "3"], ["--seed", "21"], ["--model", "elsewhere"], ["--sentences", "elsewhere"]]
)
def test_committed_results_and_model_card_are_of_the_whole_evaluation_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, otherwise: list[str]
):
    for more, message in (
        ([], "--output"),
        (["--output", str(tmp_path / "x.json"), "--fill-model-card"], "model card"),
    ):
        with pytest.raises(SystemExit) as ended:
            evaluate_demo.main([*otherwise, *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_sentences_of_ones_own_are_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The texts that reach the synthesizers, which may not be installed here."""
    for code in ("en", "es"):
        lines = "\n".join(f"{code} number {place}." for place in range(300))
        (tmp_path / f"sentences_{code}.txt").write_text(lines, encoding="utf-8")
    spoken = []

    def say(words: str, *_: object) -> np.ndarray:
        spoken.append(words)
        return np.zeros(8000, dtype=np.int16)

    monkeypatch.setattr(evaluate_demo.speech.Programs, "installed", lambda: None)
    monkeypatch.setattr(evaluate_demo.speech, "synthesize", say)
    monkeypatch.setattr(
        evaluate_demo.provenance, "versions", lambda _: {"flite": "0", "espeak-ng": "0", "python": "0"}
    )
    monkeypatch.setattr(evaluate_demo, "_training_words", lambda _: None)
    given = [
        "--sentences",
        str(tmp_path),
        "--clips",
        str(tmp_path / "clips"),
        "--output",
        str(tmp_path / "r.json"),
    ]
    evaluate_demo.main([*given, "--sets", "short-es", "--limit", "2"])
    assert len(spoken) == 2
    assert all(words.startswith("es number ") for words in spoken)


def test_help_names_every_set_and_the_exit_codes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        evaluate_demo.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for expected in (
        "short-en",
        "held-out-es",
        "noise-context",
        "forced-",
        "context-",
        "Exit code",
        "examples:",
    ):
        assert expected in shown


def test_missing_results_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate_demo.main(["--report-only", "--output", str(tmp_path / "none.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_report_of_a_missed_target_ends_with_1(
    tmp_path: Path, studio: Studio, capsys: pytest.CaptureFixture[str]
):
    def recognize(waveform: np.ndarray, language: str | None, context: str) -> evaluate_demo.Heard:
        return evaluate_demo.Heard("", None)

    report = evaluate_demo.evaluate(studio, recognize, {"short-en": 3, "noise": 3}, {}, show_progress=False)
    report |= {"machine": provenance.machine(), "versions": {"python": "3.11"}}
    results = tmp_path / "results.json"
    results.write_text(json.dumps(report), encoding="utf-8")
    assert evaluate_demo.main(["--report-only", "--output", str(results)]) == 1
    assert "| WER, short-en | 100.00% | at most 5.00% | NO |" in capsys.readouterr().out


def test_model_card_keeps_all_but_what_stands_between_the_markers(tmp_path: Path):
    card = tmp_path / "MODEL_CARD.md"
    card.write_text(f"# Before\n{CARD_BEGIN}\nold\n{CARD_END}\n## After\n", encoding="utf-8")
    fill_model_card(card, "| new |")
    fill_model_card(card, "| newer |")
    assert (
        card.read_text(encoding="utf-8") == f"# Before\n{CARD_BEGIN}\n\n| newer |\n\n{CARD_END}\n## After\n"
    )


@pytest.mark.parametrize("body", ["nothing", CARD_BEGIN, f"{CARD_END}\n{CARD_BEGIN}"])
def test_model_card_without_its_markers_is_left_alone(tmp_path: Path, body: str):
    card = tmp_path / "MODEL_CARD.md"
    card.write_text(body, encoding="utf-8")
    with pytest.raises(ValueError, match="once each"):
        fill_model_card(card, "| new |")
    assert card.read_text(encoding="utf-8") == body
