"""The start-up measurement of speculative decoding: times of its parts here, and the exactness of wide steps here.

Both are measured on the loaded models on this machine, with synthetic input, before the first request. A draft that
does not gain is not used, whatever it gains elsewhere.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from scribewire.engine.audio.mel import log_mel
from scribewire.engine.batching.sequence import Sequence, SpecialTokens
from scribewire.engine.batching.speculative.decoding import Acceptance, LoneRow, SpeculationCounters
from scribewire.engine.batching.speculative.drafting import ModelDrafter
from scribewire.engine.batching.speculative.gain import (
    CALIBRATION_SECONDS,
    GUESS_COUNTS,
    Measured,
    SpeculationPlan,
    choose_plan,
)
from scribewire.engine.batching.step import RunningBatch, prefill
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

_RUNS, _LEAST_RUNS = 20, 5
_RUNS_PER_PREPARATION = 4
_MOST_SECONDS = 8.0
"""A machine on which twenty runs take longer makes do with fewer, but not with fewer than five."""

_STEPS_AT_ONCE = 3
_CHAINED_GUESSES = 5
_NEVER = SpecialTokens(end_ids=frozenset())

_PROBED_LENGTHS = (64, 300, 1100)
"""Kernels for attention change with the number of keys."""
_PROBED_TOKENS = 24

_log = logging.getLogger(__name__)

MeasurePair = Callable[[SpeechModel, SpeechModel], Measured]
"""Measure a target with a draft."""

ProbeDrift = Callable[[SpeechModel, int], float]
"""(target, k) -> see `wide_drift`."""


class Calibrator:
    """Measures once and remembers: a model that was unloaded while idle comes back without a second measurement."""

    def __init__(self, measure: MeasurePair | None = None, drift: ProbeDrift | None = None) -> None:
        """measure, drift: `measure_pair` and `wide_drift`; a test may give others."""
        self._measure = measure or measure_pair
        self._drift = drift or wide_drift
        self._plan: SpeculationPlan | None = None
        self._is_known = False

    @property
    def may_gain(self) -> bool:
        """False once it was measured that this draft does not."""
        return self._plan is not None or not self._is_known

    def plan(self, target: SpeechModel, draft: SpeechModel) -> SpeculationPlan | None:
        """The plan for this pair; None where plain steps are faster. The numbers go to the log, in one line."""
        if not self._is_known:
            measured = self._measure(target, draft)
            self._plan = choose_plan(measured, lambda guesses: self._drift(target, guesses))
            self._is_known = True
            _log.info("%s", _told(measured, self._plan))
        return self._plan


def measure_pair(target: SpeechModel, draft: SpeechModel, *, runs: int = _RUNS) -> Measured:
    """Medians over runs in which plain steps, rounds of every width and the draft's preparation alternate."""
    mel = log_mel(0.01 * mx.random.normal((int(CALIBRATION_SECONDS * SAMPLE_RATE_HZ),), key=mx.random.key(0)))
    batch = RunningBatch(target, _NEVER)
    batch.join([_sequence(target, mel)])
    sequence = _sequence(target, mel)
    cache, logits = prefill(target, [sequence])
    sequence.accept(int(np.array(mx.argmax(logits[0]))), None, None, _NEVER)
    drafter = ModelDrafter(draft, sequence)
    exact = SpeculationPlan(1, 0.0, Measured(0.0, 0.0, {}, 0.0))
    row = LoneRow(target, _NEVER, exact, drafter, sequence, cache, Acceptance(), SpeculationCounters())

    steps: list[float] = []
    guesses: list[float] = []
    preparations: list[float] = []
    rounds: dict[int, list[float]] = {count: [] for count in GUESS_COUNTS}
    started = time.perf_counter()
    # The first run compiles and does not count.
    for run in range(-1, runs):
        batch.step()
        steps.append(_timed(lambda: [batch.step() for _ in range(_STEPS_AT_ONCE)]) / _STEPS_AT_ONCE)
        for count, taken in rounds.items():
            taken.append(_timed_round(row, count))
        long, short = (_timed_guesses(drafter, count) for count in (1 + _CHAINED_GUESSES, 1))
        guesses.append(max(0.0, long - short) / _CHAINED_GUESSES)
        if run % _RUNS_PER_PREPARATION == 0 or run < 0:
            preparations.append(_timed(lambda: ModelDrafter(draft, sequence).wait()))
        if run < 0:
            started = time.perf_counter()
        elif run + 1 >= _LEAST_RUNS and time.perf_counter() - started > _MOST_SECONDS:
            break
    return Measured(
        step_seconds=statistics.median(steps[1:]),
        draft_step_seconds=statistics.median(guesses[1:]),
        round_seconds={count: statistics.median(taken[1:]) for count, taken in rounds.items()},
        prepare_seconds=statistics.median(preparations[1:]),
    )


def wide_drift(model: SpeechModel, guesses: int, *, lengths: tuple[int, ...] = _PROBED_LENGTHS) -> float:
    """The largest difference, in logits, keys or values, between steps of `guesses` + 1 tokens and steps of one.

    0 only when all bits are equal, behind each of several lengths of context; infinite for what is not a number.
    """
    decoder = model.decoder
    vocabulary = model.config.text.vocab_size
    total = lengths[-1] + _PROBED_TOKENS
    ids = mx.random.randint(0, vocabulary, (total,), key=mx.random.key(1)).astype(mx.int32)
    cache = decoder.new_cache()
    cache.start_rows([lengths[0]])
    worst = 0.0
    for length in lengths:
        decoder(decoder.embed(ids[cache.end : length])[None], cache)
        mx.eval(cache.state())
        width = guesses + 1
        count = _PROBED_TOKENS // width * width
        found = []
        for fed_at_once in (1, width):
            logits = []
            for place in range(length, length + count, fed_at_once):
                hidden = decoder(decoder.embed(ids[place : place + fed_at_once])[None], cache)
                logits.append(decoder.head(hidden[0]))
                mx.async_eval(logits[-1])
            held = [mx.contiguous(buffer[:, :, length : length + count]) for buffer in cache.state()]
            found.append([mx.concatenate(logits), *held])
            mx.eval(found[-1])
            cache.rewind(count)
        for narrow, wide in zip(*found, strict=True):
            difference = mx.max(mx.abs(narrow.astype(mx.float32) - wide.astype(mx.float32))).item()
            assert isinstance(difference, float)
            # A comparison with NaN is never true.
            worst = max(worst, difference if difference >= 0.0 else float("inf"))
    return worst


def _sequence(target: SpeechModel, mel: mx.array) -> Sequence:
    """A prompt around these frames that never ends by itself."""
    audio = target.encode([mel])[0]
    pads = [target.audio_token_id] * audio.shape[0]
    return Sequence([*range(9), *pads, *range(6)], audio, token_budget=1 << 30, mel=mel)


def _timed_round(row: LoneRow, count: int) -> float:
    taken = _timed(lambda: row.launch(count).wait())
    row.take_back(count)
    return taken


def _timed_guesses(drafter: ModelDrafter, count: int) -> float:
    last = mx.array([0], dtype=mx.int32)
    taken = _timed(lambda: mx.eval(drafter.propose(last, count)))
    drafter.settle(0)
    return taken


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _told(measured: Measured, plan: SpeculationPlan | None) -> str:
    """All numbers in one line, times in milliseconds."""
    rounds = ", ".join(f"{count}: {1e3 * taken:.2f}" for count, taken in measured.round_seconds.items())
    verdict = "off, plain steps are as fast"
    if plan is not None:
        trust = f"margins below {plan.doubt:.3g} in doubt" if plan.doubt else "equal bits"
        verdict = (
            f"on with {plan.width} guesses, expected gain {plan.gain:.2f}, break-even acceptance "
            f"{plan.break_even:.2f}, {trust}"
        )
    return (
        f"speculative decoding {verdict} (ms: plain step {1e3 * measured.step_seconds:.2f}, one guess "
        f"{1e3 * measured.draft_step_seconds:.2f}, round by guesses {rounds}; draft's preparation of "
        f"{CALIBRATION_SECONDS:.0f} s of audio {1e3 * measured.prepare_seconds:.2f})"
    )
