"""The forced aligner against PyTorch: the same clips, words and random weights, the recorded logits of every mark.

`official` is Qwen's own package with its attention windows applied, `native` is transformers'; both were recorded by
make_aligner_fixtures.py. Nothing here needs torch. Bounds are on float32, relative, mark by mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from scribewire.engine.audio.mel import log_mel
from scribewire.engine.checkpoint.load import build_aligner, build_model, read_checkpoint
from scribewire.engine.model.aligner import AlignerModel
from scribewire.engine.protocol.errors import CheckpointMismatch
from tests.fakes import clips, random_model
from tests.fakes.clips import CLIPS_BY_NAME
from tests.fakes.loading import cpu_profile
from tests.fakes.random_model import ALIGNER, ALL_ALIGNERS, OTHER_ALIGNER, TRUE_WINDOWS, Layout, Sizes

FIXTURES = Path(__file__).parent / "fixtures"
LOGITS_BOUND = 1e-3
MARK = random_model.TOKEN_IDS["<timestamp>"]

Array = NDArray[Any]


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files}
    return arrays, json.loads(str(arrays.pop("about")))


RECORDED = {name: read(FIXTURES / f"aligner-{name}.npz") for name in ("official", "native")}
CASES = [
    (reference, *dict.fromkeys(key.rpartition("/")[0] for key in arrays))
    for reference, (arrays, _) in RECORDED.items()
]
PAIRS = [(reference, *case.split("/")) for reference, *cases in CASES for case in cases]


def load(folder: Path, sizes: Sizes, layout: Layout = "thinker") -> AlignerModel:
    random_model.write_checkpoint(folder, sizes, layout)
    return build_aligner(read_checkpoint(folder), cpu_profile().placement)


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread() -> Iterator[None]:
    """As the engine multiplies: several threads share a product by its width, and sum in another order in company."""
    with cpu_profile().on_one_thread():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AlignerModel]:
    """Both random aligners, read from the original layout."""
    return {name: load(tmp_path_factory.mktemp(name), sizes) for name, sizes in ALL_ALIGNERS.items()}


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Array]:
    """Our logits of each model and clip, computed by the first test that needs them."""
    return {}


def mel_of(clip: str) -> mx.array:
    return log_mel(mx.array(clips.make_clip(CLIPS_BY_NAME[clip])))


def ids_of(sizes: str, clip: str) -> list[int]:
    return random_model.aligner_ids(ALL_ALIGNERS[sizes], clip, CLIPS_BY_NAME[clip].token_count)


def aligned(model: AlignerModel, sizes: str, names: list[str]) -> list[Array]:
    """Logits of these clips' marks, all in one call."""
    audio = model.encode([mel_of(name) for name in names])
    return [np.array(one) for one in model.time_logits([ids_of(sizes, name) for name in names], audio, MARK)]


def logits_alone(
    models: dict[str, AlignerModel], alone: dict[tuple[str, str], Array], sizes: str, clip: str
) -> Array:
    """Logits of one clip's marks in a call of its own, which is made once."""
    if (sizes, clip) not in alone:
        [alone[sizes, clip]] = aligned(models[sizes], sizes, [clip])
    return alone[sizes, clip]


def expect_recorded(ours: Array, reference: str, sizes: str, clip: str) -> None:
    arrays, _ = RECORDED[reference]
    kept = {
        key.rpartition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{sizes}/{clip}/")
    }
    assert ours.shape == (len(kept["classes"]), ALL_ALIGNERS[sizes].classify_num)
    stored = kept["logits"]
    whole = kept["logit_norm"] * np.sqrt(stored.shape[1] / ours.shape[1])
    errors = np.linalg.norm(ours[:, kept["column_index"]].astype(np.float64) - stored, axis=-1) / whole
    assert errors.max() <= LOGITS_BOUND
    log_sum_exp = np.log(np.exp(ours.astype(np.float64)).sum(axis=-1))
    assert np.abs(log_sum_exp - kept["log_sum_exp"]).max() <= 1e-4
    assert (ours.argmax(axis=-1) == kept["classes"]).all()


@pytest.mark.parametrize("reference", RECORDED)
def test_weights_are_those_the_reference_saw(reference: str) -> None:
    for name, checksum in RECORDED[reference][1]["checksums"].items():
        assert random_model.checksum(random_model.make_weights(ALL_ALIGNERS[name])) == checksum


@pytest.mark.parametrize(("reference", "sizes", "clip"), PAIRS)
def test_aligner_logits_agree_and_classes_are_identical(
    models: dict[str, AlignerModel],
    alone: dict[tuple[str, str], Array],
    reference: str,
    sizes: str,
    clip: str,
) -> None:
    expect_recorded(logits_alone(models, alone, sizes, clip), reference, sizes, clip)


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        (ALIGNER.name, ["31s", "0.3s", "8.1s-odd", "2.5s-odd"]),
        (OTHER_ALIGNER.name, ["0.3s", "8.1s", "2.5s-odd"]),
    ],
    ids=["aligner", "other-aligner"],
)
def test_aligner_clips_in_one_call_agree_as_alone(
    models: dict[str, AlignerModel], alone: dict[tuple[str, str], Array], sizes: str, names: list[str]
) -> None:
    for name, ours in zip(names, aligned(models[sizes], sizes, names), strict=True):
        single = logits_alone(models, alone, sizes, name)
        np.testing.assert_allclose(ours, single, rtol=0, atol=1e-5 * np.abs(single).max())
        expect_recorded(ours, "official", sizes, name)


def test_aligner_in_the_few_shapes_of_a_planning_device_says_the_same(
    models: dict[str, AlignerModel], tmp_path: Path
) -> None:
    """Rows, widths and marks padded to steps, as on CUDA; five clips become six rows."""
    names = ["8.1s-odd", "0.3s", "2.5s-odd", "1.0s", "8.1s-odd"]
    random_model.write_checkpoint(tmp_path, ALIGNER, "mlx")
    placement = replace(cpu_profile().placement, plans_by_shape=True)
    planning = build_aligner(read_checkpoint(tmp_path), placement)
    plain = aligned(models[ALIGNER.name], ALIGNER.name, names)
    for ours, wanted in zip(aligned(planning, ALIGNER.name, names), plain, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("layout", random_model.LAYOUTS)
@pytest.mark.parametrize("sizes", ALL_ALIGNERS)
def test_every_aligner_layout_is_the_same_model(
    models: dict[str, AlignerModel],
    alone: dict[tuple[str, str], Array],
    tmp_path: Path,
    sizes: str,
    layout: Layout,
) -> None:
    ours = logits_alone(models, alone, sizes, "8.1s-odd")
    [other] = aligned(load(tmp_path, ALL_ALIGNERS[sizes], layout), sizes, ["8.1s-odd"])
    assert (other == ours).all()


def test_an_aligner_is_no_recognizer_nor_the_other_way_round(tmp_path: Path) -> None:
    aligner = random_model.write_checkpoint(tmp_path / "aligner", ALIGNER, "hf")
    recognizer = random_model.write_checkpoint(tmp_path / "recognizer", TRUE_WINDOWS, "hf")
    with pytest.raises(CheckpointMismatch, match="forced aligner, not a speech recognizer"):
        build_model(read_checkpoint(aligner), cpu_profile().placement)
    with pytest.raises(CheckpointMismatch, match="speech recognizer, not a forced aligner"):
        build_aligner(read_checkpoint(recognizer), cpu_profile().placement)
