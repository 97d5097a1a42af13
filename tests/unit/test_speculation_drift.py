"""No near tie is trusted where wide steps give other logits than narrow ones, and the answer stays the plain one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.batching.sequence import FinishReason, Replay, Sequence
from scribewire.engine.batching.speculative.calibration import wide_drift
from scribewire.engine.batching.speculative.gain import DOUBT_PER_DRIFT, Measured, SpeculationPlan
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.checkpoint.load import load_checkpoint
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.projection import Projection
from scribewire.engine.resident.device import HostProducts
from scribewire.engine.text.repetition import LoopGuard
from tests.fakes.random_model import prompt_ids
from tests.unit.speculation_setting import (
    GAINING,
    NEVER,
    Setting,
    assert_same,
    load_setting,
    run,
    write_pair,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def setting(pair: tuple[Path, Path]) -> Iterator[Setting]:
    with HostProducts(mx.Device(mx.cpu)).on_one_thread():
        yield load_setting(*pair)


class DriftingWhenWide:
    """A head that, for several rows at once, gives the best logit `drift` too low, as another kernel might."""

    def __init__(self, head: Projection, drift: float) -> None:
        self._head, self._drift = head, drift

    def __call__(self, x: mx.array) -> mx.array:
        logits = self._head(x)
        if logits.size == logits.shape[-1]:
            return logits
        is_best = logits == mx.max(logits, axis=-1, keepdims=True)
        return mx.where(is_best, logits - self._drift, logits)


def margins(target: SpeechModel, audio: mx.array, tokens: list[int]) -> np.ndarray:
    ordered = np.sort(np.array(target.score(prompt_ids(audio.shape[0]), audio, tokens)), axis=-1)
    difference: np.ndarray = ordered[:, -1] - ordered[:, -2]
    return difference


def drifting(setting: Setting, folder: Path, drift: float) -> Setting:
    model = load_checkpoint(folder, dtype=mx.float32)
    model.decoder.head = DriftingWhenWide(model.decoder.head, drift)
    return setting.with_target(model)


def test_answer_with_near_ties_is_replayed_plainly_where_wide_steps_drift(
    setting: Setting, pair: tuple[Path, Path]
) -> None:
    expected = setting.plain(50)
    near = np.sort(margins(setting.target, setting.audio, expected.tokens)[1:])
    drift = float(near[2]) * 1.01
    rigged = drifting(setting, pair[0], drift)
    # Trusting blindly goes wrong here, so the rig is a true one.
    trusting = rigged.sequence(50)
    rigged.ahead(rigged.rigged(1.0, known=expected), trusting)
    assert trusting.tokens != expected.tokens

    plan = SpeculationPlan(4, DOUBT_PER_DRIFT * drift, GAINING)
    speculator = rigged.rigged(1.0, known=expected, plan=plan)
    found = rigged.sequence(50, guard=LoopGuard(10_000))
    rigged.ahead(speculator, found)
    assert_same(found, expected)
    assert speculator.tally.replays == 1
    assert found.replay is None
    assert found.mel is None


def test_replay_finds_a_wrong_token_that_was_not_in_doubt(setting: Setting, pair: tuple[Path, Path]) -> None:
    expected = setting.plain(50)
    sizes = np.sort(margins(setting.target, setting.audio, expected.tokens)[1:])
    rigged = drifting(setting, pair[0], drift=float(sizes[10]))
    # Far less doubt than the drift calls for: only a later near tie sends the answer back.
    for doubt in (float(sizes[1]), float(sizes[2]), float(sizes[4])):
        speculator = rigged.rigged(1.0, known=expected, plan=SpeculationPlan(4, doubt, GAINING))
        found = rigged.sequence(50, guard=LoopGuard(10_000))
        batch = RunningBatch(rigged.target, NEVER)
        batch.join([found])
        while batch.row_count and not speculator.tally.replays:
            batch.step(speculator)
        if speculator.tally.replays:
            run(batch, speculator)
            assert_same(found, expected)
            break
    else:
        pytest.fail("no answer came in doubt: the rig is too gentle")


def test_others_may_join_during_a_replay(setting: Setting, pair: tuple[Path, Path]) -> None:
    expected, short = setting.plain(40), setting.plain(9)
    doubt = float(np.sort(margins(setting.target, setting.audio, expected.tokens)[8:])[3])
    speculator = setting.rigged(1.0, known=expected, plan=SpeculationPlan(4, doubt, GAINING))
    batch = RunningBatch(setting.target, NEVER)
    found, guest = setting.sequence(40), setting.sequence(9)
    batch.join([found])
    while not speculator.tally.replays:
        batch.step(speculator)
    batch.step()
    assert found.replay is not None
    batch.join([guest])
    run(batch)
    assert_same(found, expected)
    assert_same(guest, short)


def test_answer_that_is_left_for_seldom_right_guesses_is_replayed_where_wide_steps_drift(
    setting: Setting,
) -> None:
    expected = setting.plain(45)
    measured = Measured(10.0, 2.0, {2: 13.1}, 0.0)
    for doubt, replays in ((0.0, 0), (1e-9, 1)):
        speculator = setting.rigged(0.0, known=expected, plan=SpeculationPlan(2, doubt, measured))
        found = setting.sequence(45)
        setting.ahead(speculator, found)
        assert_same(found, expected)
        assert speculator.tally.rounds == 20
        assert speculator.tally.replays == replays


def test_replayed_tokens_that_differ_take_back_all_behind_them() -> None:
    guard = LoopGuard(2)
    one = Sequence([1], None, token_budget=400, wants_logprobs=True, guard=LoopGuard(2))
    for token in (5, 6, 7, 8):
        one.accept(token, -1.0, None, NEVER)
    guard.push(5)
    one.replay = Replay(start=1, place=1, guard=guard)
    one.accept(6, -2.0, None, NEVER)
    assert (one.tokens, one.logprobs) == ([5, 6, 7, 8], [-1.0, -2.0, -1.0, -1.0])
    one.accept(9, -3.0, None, NEVER)
    assert (one.tokens, one.logprobs) == ([5, 6, 9], [-1.0, -2.0, -3.0])
    assert one.replay is None
    # The guard counts what is left: nine more make ten.
    for _ in range(8):
        one.accept(9, -1.0, None, NEVER)
        assert one.finish_reason is None
    one.accept(9, -1.0, None, NEVER)
    assert one.finish_reason is FinishReason.LOOP


def test_draft_whose_answers_come_in_doubt_too_often_is_not_asked_again(setting: Setting) -> None:
    expected = setting.plain(5)
    speculator = setting.rigged(1.0, known=expected, plan=SpeculationPlan(2, 1e9, GAINING))
    for _ in range(12):
        found = setting.sequence(5)
        setting.ahead(speculator, found)
        assert_same(found, expected)
    assert (speculator.tally.starts, speculator.tally.replays) == (10, 10)


def test_probe_sees_drift_and_measures_it(setting: Setting, pair: tuple[Path, Path]) -> None:
    found = wide_drift(drifting(setting, pair[0], drift=0.5).target, 3, lengths=(16, 40))
    assert found == pytest.approx(0.5, abs=1e-3)
    assert 0.0 <= wide_drift(setting.target, 3, lengths=(16, 40)) < 1e-3


def test_probe_takes_no_answer_for_the_worst(pair: tuple[Path, Path]) -> None:
    broken = load_checkpoint(pair[0], dtype=mx.float32)
    broken.decoder.head = DriftingWhenWide(broken.decoder.head, float("nan"))
    assert wide_drift(broken, 2, lengths=(16,)) == float("inf")
