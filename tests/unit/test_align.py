"""The aligner's input: prompts as the official package makes them, and refusals before the model runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.align.aligner import Aligner, AlignmentPromptBuilder, AlignmentTask
from scribewire.engine.align.timestamps import repaired
from scribewire.engine.audio.mel import log_mel
from scribewire.engine.checkpoint.load import read_checkpoint
from scribewire.engine.protocol.errors import CheckpointMismatch
from scribewire.engine.protocol.transcript import words_text
from scribewire.engine.text.tokenizer import AUDIO_END, AUDIO_PAD, AUDIO_START, TIMESTAMP, Tokenizer
from scribewire.engine.text.words import WordsUnavailable
from tests.fakes import clips
from tests.fakes.clips import CLIPS_BY_NAME
from tests.fakes.loading import cpu_profile
from tests.fakes.random_model import TRUE_WINDOWS, write_checkpoint
from tests.fakes.tiny_aligner import write_tiny_aligner
from tests.fakes.tiny_model import write_tokenizer

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
RECORDED = json.loads((FIXTURES / "aligner_words.json").read_text(encoding="utf-8"))["texts"]
SPACED = [one for one in RECORDED if one["language"] not in ("Japanese", "Korean")]
LANGUAGES = tuple(dict.fromkeys(one["language"] for one in RECORDED))
CONTROLS = (AUDIO_START, AUDIO_PAD, AUDIO_END, TIMESTAMP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_aligner(tmp_path_factory.mktemp("aligner"), languages=LANGUAGES)


@pytest.fixture(scope="module")
def planner(folder: Path) -> AlignmentPromptBuilder:
    return AlignmentPromptBuilder(folder)


@pytest.mark.parametrize("case", SPACED, ids=lambda case: f"{case['language']}: {case['text'][:12]}")
def test_prompts_are_those_of_the_official_package(
    planner: AlignmentPromptBuilder, folder: Path, case: dict[str, str]
) -> None:
    """It writes one audio pad, which its processor repeats: 13 a second."""
    tokenizer = Tokenizer.from_folder(folder, required=CONTROLS)
    wanted: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, CONTROLS)) + ")", case["prompt"]):
        if part == AUDIO_PAD:
            wanted += [tokenizer.token_id(part)] * 26
        elif part in CONTROLS:
            wanted.append(tokenizer.token_id(part))
        else:
            wanted += tokenizer.encode_text(part)
    plan = planner.plan(case["text"], case["language"], 32_000)
    assert plan.prompt_ids == wanted
    assert plan.prompt_ids.count(planner.time_id) == 2 * len(plan.units)


def test_control_tokens_spelled_out_in_a_text_are_words(planner: AlignmentPromptBuilder) -> None:
    plan = planner.plan("Say <timestamp> and <|audio_pad|>.", "English", 16_000)
    assert [unit.text for unit in plan.units] == ["Say", "timestamp", "and", "audiopad"]
    assert plan.prompt_ids.count(planner.time_id) == 2 * 4


@pytest.mark.parametrize(
    ("text", "language", "seconds", "reason"),
    [
        ("Hello.", None, 1, "language is unknown"),
        ("สวัสดี", "Thai", 1, "does not know Thai; it knows English"),
        # 375 classes of 80 ms
        ("Hello.", "English", 31, "at most 30 s"),
        ("a " * 40_000, "English", 1, "65536 positions"),
    ],
)
def test_what_the_aligner_cannot_do_is_a_reason(
    planner: AlignmentPromptBuilder, text: str, language: str | None, seconds: int, reason: str
) -> None:
    with pytest.raises(WordsUnavailable, match=reason):
        planner.plan(text, language, 16_000 * seconds)


def test_a_folder_that_names_no_languages_has_the_published_ones(tmp_path: Path) -> None:
    """The layout of transformers names none."""
    write_tiny_aligner(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["support_languages"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert len(AlignmentPromptBuilder(tmp_path).languages) == 11


def test_a_recognizers_folder_is_no_aligner(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TRUE_WINDOWS, "mlx")
    write_tokenizer(tmp_path)
    with pytest.raises(Exception, match="no forced aligner"):
        AlignmentPromptBuilder(tmp_path)


def test_the_marks_id_may_come_from_the_tokenizer_alone(
    tmp_path: Path, planner: AlignmentPromptBuilder
) -> None:
    write_tiny_aligner(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["timestamp_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AlignmentPromptBuilder(tmp_path).time_id == planner.time_id
    assert np.asarray(AlignmentPromptBuilder(tmp_path).plan("one", "English", 16_000).prompt_ids).size > 13


def test_another_token_for_the_marks_than_the_tokenizer_s_is_refused(tmp_path: Path) -> None:
    write_tiny_aligner(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["timestamp_token_id"] -= 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match="timestamp_token_id"):
        AlignmentPromptBuilder(tmp_path)


# ---- from samples and text to times --------------------------------------------------------------------------

TIMED = json.loads((FIXTURES / "aligner_times.json").read_text(encoding="utf-8"))["timed"]


@pytest.fixture(scope="module")
def aligner(folder: Path, planner: AlignmentPromptBuilder) -> Aligner:
    return Aligner(read_checkpoint(folder), planner, cpu_profile().placement)


@pytest.mark.parametrize("case", TIMED, ids=lambda case: f"{case['clip']} {case['language']}")
def test_times_before_our_own_repair_are_those_of_the_official_package(
    planner: AlignmentPromptBuilder, aligner: Aligner, case: dict[str, Any]
) -> None:
    """Recorded from its aligner as a whole, with the same random weights
    (tools/parity_fixtures/make_aligner_fixtures.py).
    """
    samples = clips.make_clip(CLIPS_BY_NAME[case["clip"]])
    plan = planner.plan(case["text"], case["language"], samples.size)
    [logits] = aligner.network.time_logits(
        [plan.prompt_ids], aligner.network.encode([log_mel(mx.array(samples))]), planner.time_id
    )
    times = repaired([80.0 * float(one) for one in np.array(mx.argmax(logits, axis=-1))])
    ours = [
        [unit.text, times[2 * place] / 1000, times[2 * place + 1] / 1000]
        for place, unit in enumerate(plan.units)
    ]
    assert ours == case["items"]
    assert len({time for _, *pair in ours for time in pair}) >= 2


def test_words_with_times_are_the_text_in_order_and_inside_the_chunk(
    planner: AlignmentPromptBuilder, aligner: Aligner
) -> None:
    tasks = []
    for place, case in enumerate(TIMED):
        samples = clips.make_clip(CLIPS_BY_NAME[case["clip"]])
        plan = planner.plan(case["text"], case["language"], samples.size)
        tasks.append(AlignmentTask(plan, samples, 100.0 * place, samples.size / 16_000))
    together = aligner.align(tasks)
    for case, task, words in zip(TIMED, tasks, together, strict=True):
        assert aligner.align([task]) == [words]
        assert words_text(words) == case["text"].strip()
        bounds = [time for word in words for time in (word.start_seconds, word.end_seconds)]
        assert bounds == sorted(bounds)
        assert all(word.start_seconds < word.end_seconds for word in words)
        assert task.start_seconds <= bounds[0]
        assert bounds[-1] <= task.start_seconds + task.seconds + 1e-3
