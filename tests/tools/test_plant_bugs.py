"""The planted mistakes still fit the engine, and two quick ones are noticed (`make parity` plants all of them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.planted_bugs.plant_bugs import PlantDoesNotFit, copy_engine, planted, try_plant
from tools.planted_bugs.plants import PLANTS, Edit, Plant

QUICK = [plant for plant in PLANTS if plant.name in ("mel: no floor under the peak", "text: no NFC")]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the engine with its parity tests."""
    folder = tmp_path_factory.mktemp("copy")
    copy_engine(folder)
    return folder


def test_at_least_15_different_mistakes_are_planted() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 15


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_plant_fits_the_engine_and_leaves_python_that_compiles(copy: Path, plant: Plant) -> None:
    paths = {edit.path for edit in plant.edits}
    before = {path: (copy / path).read_text(encoding="utf-8") for path in paths}
    with planted(copy, plant):
        for path in paths:
            changed = (copy / path).read_text(encoding="utf-8")
            assert changed != before[path]
            compile(changed, path, "exec")
    assert {path: (copy / path).read_text(encoding="utf-8") for path in paths} == before


def test_a_plant_that_fits_nowhere_is_refused(copy: Path) -> None:
    nowhere = Plant("nowhere", "", (Edit("engine/audio/mel.py", "no such text", ""),))
    with pytest.raises(PlantDoesNotFit), planted(copy, nowhere):
        pass


@pytest.mark.parametrize("plant", QUICK, ids=lambda plant: plant.name)
def test_a_planted_mistake_is_noticed(copy: Path, plant: Plant) -> None:
    verdict = try_plant(copy, plant)
    assert verdict.failed is not None
    assert not verdict.is_breakage
