"""A draft model guesses for rows that suit it, fits its model or is refused, and the start tells what it gains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scribewire import Transcriber
from scribewire.engine.batching.sequence import SpecialTokens
from scribewire.engine.protocol.config import EngineConfig, TranscribeOptions
from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.recording.work import TranscribeItem
from scribewire.engine.resident.model import ResidentModel, check_draft
from scribewire.engine.resident.profile import DeviceProfile
from scribewire.engine.text.tokenizer import Tokenizer
from tests.fakes.clips import babbling
from tests.fakes.loading import cpu_profile
from tests.fakes.random_model import OTHER_CHOICES
from tests.fakes.tiny_model import write_tiny_model
from tests.unit.speculation_setting import (
    DRAFT_SIZES,
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
    with cpu_profile().on_one_thread():
        yield load_setting(*pair)


def test_rounds_are_only_for_greedy_rows(setting: Setting) -> None:
    special_tokens = SpecialTokens(frozenset(), none_prefix=(1, 2), none_token=3)
    speculator = setting.drafted(setting.draft, 3, special_tokens)
    assert speculator.suits(setting.sequence())
    assert not speculator.suits(setting.sequence(options=TranscribeOptions(temperature=0.7)))
    assert not speculator.suits(setting.sequence(options=TranscribeOptions(repetition_penalty=1.2)))
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
    assert speculator.starts == 1


def noise(seconds: float) -> np.ndarray:
    return babbling(f"noise/{int(seconds * 16_000)}", seconds)


def engine(folder: Path, draft: Path | None, loaded: list[ResidentModel]) -> Transcriber:
    def load(config: EngineConfig, profile: DeviceProfile) -> ResidentModel:
        loaded.append(ResidentModel(config, profile))
        return loaded[-1]

    config = EngineConfig(model=str(folder), device="cpu", draft_model=None if draft is None else str(draft))
    return Transcriber(config=config, load=load)


def test_engine_with_a_draft_says_the_same_and_tells_what_it_costs(
    pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    items = [
        TranscribeItem(noise(9.0), max_tokens=40, logprobs=True, token_logprobs=True),
        TranscribeItem(noise(6.0), max_tokens=25, language="English"),
        TranscribeItem(noise(7.0), max_tokens=25, languages=("en", "es"), temperature=0.6, seed=4),
    ]
    loaded: list[ResidentModel] = []
    with engine(pair[0], None, loaded) as plain:
        expected = [plain.transcribe_item(item) for item in items]
        plain_tokens = plain.counters.tokens_done
        assert plain.counters.steps_done == plain_tokens
    with caplog.at_level("INFO"), engine(*pair, loaded) as speculating:
        found = [speculating.transcribe_item(item) for item in items]
        together = speculating.transcribe_many(items)
        counters = speculating.counters
    assert re.search(
        r"speculative decoding (gains|costs) time here: .* at \d+\.\d\d times the plain speed", caplog.text
    )
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
    with engine(pair[0], pair[0], []) as speculating:
        speculating.transcribe(noise(9.0), max_tokens=40)
        assert speculating.counters.steps_done < 0.5 * speculating.counters.tokens_done


@pytest.mark.parametrize(
    "sizes", [OTHER_CHOICES, replace(DRAFT_SIZES, name="wide", vocab_size=704)], ids=["other", "vocabulary"]
)
def test_draft_of_another_vocabulary_is_refused(pair: tuple[Path, Path], tmp_path: Path, sizes: Any) -> None:
    other = write_tiny_model(tmp_path / "other", sizes=sizes)
    with pytest.raises(OptionInvalid, match="draft model") as raised:
        ResidentModel(EngineConfig(model=str(pair[0]), draft_model=str(other)), cpu_profile())
    assert raised.value.parameter == "draft_model"


def test_draft_with_other_words_for_the_same_ids_is_refused(
    pair: tuple[Path, Path], setting: Setting, tmp_path: Path
) -> None:
    ours, draft = setting.target.config, setting.draft.config
    tokenizer = Tokenizer.from_folder(pair[0])
    check_draft(ours, tokenizer, draft, Tokenizer.from_folder(pair[1]))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        words = (pair[1] / name).read_text()
        if name == "vocab.json":
            words = words.replace('"A"', '"held"').replace('"B"', '"A"').replace('"held"', '"B"')
        (tmp_path / name).write_text(words)
    with pytest.raises(OptionInvalid, match="its tokens"):
        check_draft(ours, tokenizer, draft, Tokenizer.from_folder(tmp_path))
