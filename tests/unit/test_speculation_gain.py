"""Speculation starts by itself where it was measured to gain, for rows that it suits, with a draft that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from scribewire import Transcriber
from scribewire.engine.batching.sequence import SpecialTokens
from scribewire.engine.batching.speculative.calibration import Calibrator, measure_pair
from scribewire.engine.batching.speculative.decoding import Speculator
from scribewire.engine.batching.speculative.drafting import check_pair
from scribewire.engine.batching.speculative.gain import (
    DOUBT_PER_DRIFT,
    GUESS_COUNTS,
    Measured,
    SpeculationPlan,
    choose_plan,
    tokens_per_round,
)
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.recording.work import TranscribeItem
from scribewire.engine.resident.device import HostProducts
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.text.tokenizer import Tokenizer
from tests.fakes.clips import uniform
from tests.fakes.random_model import OTHER_CHOICES
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import wait_until
from tests.unit.speculation_setting import (
    DRAFT_SIZES,
    GAINING,
    LOSING,
    NEVER,
    SAMPLES,
    Setting,
    assert_same,
    load_setting,
    write_pair,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def setting(pair: tuple[Path, Path]) -> Iterator[Setting]:
    with HostProducts(mx.Device(mx.cpu)).on_one_thread():
        yield load_setting(*pair)


def test_rounds_are_only_for_greedy_rows(setting: Setting) -> None:
    special_tokens = SpecialTokens(frozenset(), none_prefix=(1, 2), none_token=3)
    speculator = Speculator.with_draft(
        setting.target, setting.draft, special_tokens, SpeculationPlan(3, 0.0, GAINING)
    )
    assert speculator.suits(setting.sequence())
    assert not speculator.suits(setting.sequence(temperature=0.7))
    assert not speculator.suits(setting.sequence(repetition_penalty=1.2))
    assert not speculator.suits(setting.sequence(mel=None))
    restricted = setting.sequence(head_choices=(4, 5))
    restricted.tokens += [1, 2]
    assert not speculator.suits(restricted)
    restricted.tokens.append(4)
    assert speculator.suits(restricted)


def test_restricted_head_is_chosen_plainly_and_the_rest_in_rounds(setting: Setting) -> None:
    free = setting.plain(6)
    special_tokens = SpecialTokens(frozenset(), none_prefix=tuple(free.tokens[:2]))
    choices = (free.tokens[2] + 1, free.tokens[2] + 2)
    expected = setting.plain(40, special_tokens, head_choices=choices)
    assert expected.tokens[2] in choices
    speculator = setting.rigged(0.9, known=expected, special_tokens=special_tokens)
    found = setting.sequence(40, head_choices=choices)
    setting.ahead(speculator, found, special_tokens)
    assert_same(found, expected)
    assert speculator.tally.starts == 1


def test_answer_that_is_nearly_over_does_not_pay_for_a_draft(setting: Setting) -> None:
    seconds = SAMPLES / 16_000
    dear = replace(GAINING, prepare_seconds=60.0)
    plan = SpeculationPlan(3, 0.0, dear)
    speculator = Speculator.with_draft(setting.target, setting.draft, NEVER, plan)
    one = setting.sequence()
    needed = dear.prepare_seconds_for(seconds) / plan.seconds_won_per_token(0.8)
    expected = 3.5 * seconds
    one.tokens += [1] * int(expected - needed - 1)
    assert speculator.suits(one)
    one.tokens += [1] * 2
    assert not speculator.suits(one)


def test_draft_that_is_seldom_right_is_left_and_tried_again_later(setting: Setting) -> None:
    expected = setting.plain(25)
    # A round of two draft tokens takes 1.31 plain steps: worth it from an acceptance of about a quarter on.
    measured = Measured(10.0, 2.0, {2: 13.1}, 0.0)
    plan = SpeculationPlan(2, 0.0, measured)
    assert plan.break_even == pytest.approx(0.25, abs=0.02)
    speculator = setting.rigged(0.0, known=expected, plan=plan)
    starts = []
    for _ in range(14):
        found = setting.sequence(25)
        setting.ahead(speculator, found)
        assert_same(found, expected)
        starts.append(speculator.tally.starts)
    # Left after its first 20 draft tokens each time, after a while not begun at all, and again later.
    assert speculator.tally.rounds <= 20 * speculator.tally.starts
    begun = np.diff([0, *starts])
    assert begun[0] == 1
    assert 0 in begun
    assert 1 in begun[list(begun).index(0) :]


def test_gain_and_break_even_follow_from_what_was_measured() -> None:
    assert tokens_per_round(0.0, 4) == 1.0
    assert tokens_per_round(1.0, 4) == 5.0
    assert tokens_per_round(0.5, 2) == 1.75
    measured = Measured(10.0, 2.0, {1: 14.0, 4: 21.0}, 35.0)
    assert measured.gain(1.0, 4) == pytest.approx(350 / (35 + 35 * 21 / 5))
    even = measured.break_even(1)
    assert even == pytest.approx(0.4)
    with_preparation = measured.break_even(4, tokens=35)
    assert measured.gain(with_preparation, 4) == pytest.approx(1.0)
    assert measured.break_even(1, tokens=3.0) == float("inf")


def test_width_without_drift_is_preferred_and_one_that_does_not_gain_is_not_probed() -> None:
    measured = Measured(10.0, 1.0, {1: 12.0, 2: 13.0, 3: 90.0}, 0.0)
    probed = []

    def drift(width: int) -> float:
        probed.append(width)
        return 0.01 if width == 2 else 0.0

    assert choose_plan(measured, drift) == SpeculationPlan(1, 0.0, measured)
    assert probed == [2, 1]
    assert choose_plan(measured, lambda width: 0.01) == SpeculationPlan(2, DOUBT_PER_DRIFT * 0.01, measured)
    assert choose_plan(measured, lambda width: float("inf")) is None
    assert choose_plan(LOSING, drift) is None
    assert probed == [2, 1]


def test_measurement_runs_every_part_of_a_real_pair(setting: Setting) -> None:
    measured = measure_pair(setting.target, setting.draft, runs=2)
    assert set(measured.round_seconds) == set(GUESS_COUNTS)
    assert min(measured.step_seconds, measured.prepare_seconds, *measured.round_seconds.values()) > 0
    assert measured.draft_step_seconds >= 0


def test_measurement_is_made_once(setting: Setting) -> None:
    asked = []

    def measure(target: SpeechModel, draft: SpeechModel) -> Measured:
        asked.append(target)
        return GAINING

    calibrator = Calibrator(measure, lambda target, width: 0.0)
    assert calibrator.may_gain
    assert calibrator.plan(setting.target, setting.draft) == calibrator.plan(setting.target, setting.draft)
    assert len(asked) == 1
    assert calibrator.may_gain


def noise(seconds: float, name: str = "noise") -> np.ndarray:
    count = int(seconds * 16_000)
    return (0.2 * uniform(f"{name}/{count}", count)).astype(np.float32)


def knowing(measured: Measured) -> Calibrator:
    return Calibrator(lambda target, draft: measured, lambda target, width: 0.0)


def engine(
    folder: Path, draft: Path | None, calibrator: Calibrator, loaded: list[ResidentModel]
) -> Transcriber:
    def load(config: EngineConfig) -> ResidentModel:
        loaded.append(ResidentModel(config))
        return loaded[-1]

    config = EngineConfig(model=str(folder), device="cpu", draft_model=None if draft is None else str(draft))
    return Transcriber(config=config, load=load, calibrator=calibrator)


def test_engine_guesses_ahead_where_that_gains_and_says_the_same(pair: tuple[Path, Path]) -> None:
    items = [
        TranscribeItem(noise(9.0), max_tokens=40, logprobs=True, token_logprobs=True),
        TranscribeItem(noise(6.0), max_tokens=25, language="English"),
        TranscribeItem(noise(7.0), max_tokens=25, languages=("en", "es"), temperature=0.6, seed=4),
    ]
    loaded: list[ResidentModel] = []
    with engine(pair[0], None, Calibrator(), loaded) as plain:
        expected = [plain.transcribe_item(item) for item in items]
        plain_tokens = plain.counters.tokens_done
        assert plain.counters.steps_done == plain_tokens
    with engine(*pair, knowing(GAINING), loaded) as speculating:
        found = [speculating.transcribe_item(item) for item in items]
        together = speculating.transcribe_many(items)
        counters = speculating.counters
    assert loaded[0].draft is None
    assert loaded[1].draft is not None
    assert loaded[1].held_bytes > loaded[1].info.resident_bytes == loaded[0].held_bytes
    for one, other, batched in zip(expected, found, together, strict=True):
        assert [segment.tokens for segment in one.segments] == [segment.tokens for segment in other.segments]
        assert [segment.tokens for segment in one.segments] == [
            segment.tokens for segment in batched.segments
        ]
        assert one.usage == other.usage
        for mine, theirs in zip(one.segments, other.segments, strict=True):
            assert mine.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-4)
    assert counters.tokens_done == 2 * plain_tokens


def test_engine_takes_fewer_steps_than_tokens_when_guesses_are_right(pair: tuple[Path, Path]) -> None:
    loaded: list[ResidentModel] = []
    with engine(pair[0], pair[0], knowing(GAINING), loaded) as speculating:
        speculating.transcribe(noise(9.0), max_tokens=40)
        assert speculating.counters.steps_done < 0.5 * speculating.counters.tokens_done


@pytest.mark.parametrize("measured", [GAINING, LOSING], ids=["gaining", "losing"])
def test_engine_that_was_unloaded_while_idle_measures_no_second_time(
    pair: tuple[Path, Path], measured: Measured
) -> None:
    asked = []
    loaded: list[ResidentModel] = []

    def measure(target: SpeechModel, draft: SpeechModel) -> Measured:
        asked.append(target)
        return measured

    def load(config: EngineConfig) -> ResidentModel:
        # What is loaded again for a draft that does not gain is the model alone.
        assert not loaded or (config.draft_model is None) == (measured is LOSING)
        loaded.append(ResidentModel(config))
        return loaded[-1]

    config = EngineConfig(
        model=str(pair[0]), device="cpu", draft_model=str(pair[1]), idle_unload_seconds=0.05
    )
    calibrator = Calibrator(measure, lambda target, width: 0.0)
    with Transcriber(config=config, load=load, calibrator=calibrator) as engine:
        engine.transcribe(noise(1.0), max_tokens=4)
        wait_until(lambda: not engine.is_resident)
        engine.transcribe(noise(1.0), max_tokens=4)
    assert len(loaded) >= 2
    assert len(asked) == 1


def test_engine_lets_a_draft_go_that_does_not_gain(pair: tuple[Path, Path]) -> None:
    loaded: list[ResidentModel] = []
    with engine(*pair, knowing(LOSING), loaded) as plain:
        assert loaded[0].draft is None
        assert loaded[0].held_bytes == loaded[0].info.resident_bytes
        plain.transcribe(noise(9.0), max_tokens=20)
        assert plain.counters.steps_done == plain.counters.tokens_done
        assert plain._calibrator.may_gain is False


@pytest.mark.parametrize(
    "sizes", [OTHER_CHOICES, replace(DRAFT_SIZES, name="wide", vocab_size=704)], ids=["other", "vocabulary"]
)
def test_draft_of_another_vocabulary_is_refused(pair: tuple[Path, Path], tmp_path: Path, sizes: Any) -> None:
    other = write_tiny_model(tmp_path / "other", sizes=sizes)
    with pytest.raises(OptionInvalid, match="draft model") as raised:
        ResidentModel(EngineConfig(model=str(pair[0]), device="cpu", draft_model=str(other)))
    assert raised.value.parameter == "draft_model"


def test_draft_with_other_words_for_the_same_ids_is_refused(
    pair: tuple[Path, Path], setting: Setting, tmp_path: Path
) -> None:
    ours, draft = setting.target.config, setting.draft.config
    tokenizer = Tokenizer.from_folder(pair[0])
    check_pair(ours, tokenizer, draft, Tokenizer.from_folder(pair[1]))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        words = (pair[1] / name).read_text()
        if name == "vocab.json":
            words = words.replace('"A"', '"held"').replace('"B"', '"A"').replace('"held"', '"B"')
        (tmp_path / name).write_text(words)
    with pytest.raises(OptionInvalid, match="its tokens"):
        check_pair(ours, tokenizer, draft, Tokenizer.from_folder(tmp_path))
