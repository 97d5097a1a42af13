"""A model's aligner: its own, the published one, another on this disk; and the message when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scribewire.engine.checkpoint.aligners import find_aligner
from scribewire.engine.checkpoint.fetch import HubAccess, pull
from scribewire.engine.demo import demo_aligner_path
from scribewire.engine.protocol.config import AUTO_ALIGNER, DEFAULT_ALIGNER, DEFAULT_MODEL, DEMO_MODEL
from scribewire.engine.protocol.errors import AlignerMissing
from tests.fakes.fake_hub import FakeHub, model_files

OTHER = "Qwen/Qwen3-ForcedAligner-0.6B"
OWN = "someone/Our-Aligner"


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    files = model_files()
    with FakeHub({DEFAULT_ALIGNER: files, OTHER: files, OWN: files}).serving() as serving:
        yield serving


@pytest.fixture
def hub(fake: FakeHub, tmp_path: Path) -> HubAccess:
    return HubAccess(fake.address, tmp_path / "cache", retry_waits_seconds=(), timeout_seconds=5)


def found(wanted: str, hub: HubAccess, **options: object) -> str:
    return find_aligner(wanted, model=DEFAULT_MODEL, hub=hub, **options).model_id  # type: ignore[arg-type]  # by name


def test_an_aligner_that_is_not_there_is_named_with_the_command_that_fetches_it(
    fake: FakeHub, hub: HubAccess
) -> None:
    for wanted, named in ((AUTO_ALIGNER, DEFAULT_ALIGNER), (OWN, OWN)):
        with pytest.raises(AlignerMissing, match=f"scribewire pull {named}.*--aligner"):
            found(wanted, hub)
    assert fake.requests == []


def test_the_default_is_taken_before_others_that_are_there(hub: HubAccess) -> None:
    pull(OTHER, hub=hub)
    assert found(AUTO_ALIGNER, hub) == OTHER
    pull(DEFAULT_ALIGNER, hub=hub)
    assert found(AUTO_ALIGNER, hub) == DEFAULT_ALIGNER
    assert found(OTHER, hub) == OTHER


def test_the_default_is_fetched_when_that_is_allowed(fake: FakeHub, hub: HubAccess) -> None:
    with pytest.raises(AlignerMissing):
        found(AUTO_ALIGNER, hub, download=True, offline=True)
    assert fake.requests == []
    assert found(AUTO_ALIGNER, hub, download=True) == DEFAULT_ALIGNER
    asked = len(fake.requests)
    assert found(AUTO_ALIGNER, hub, download=True) == DEFAULT_ALIGNER
    assert len(fake.requests) == asked


def test_what_is_there_is_not_fetched_again_under_another_name(fake: FakeHub, hub: HubAccess) -> None:
    pull(OTHER, hub=hub)
    asked = len(fake.requests)
    assert found(AUTO_ALIGNER, hub, download=True) == OTHER
    assert len(fake.requests) == asked


def test_a_failed_fetch_says_why(fake: FakeHub, hub: HubAccess) -> None:
    fake.refused[DEFAULT_ALIGNER] = 401
    with pytest.raises(AlignerMissing, match=r"cannot be fetched: .*private"):
        found(AUTO_ALIGNER, hub, download=True)


def test_a_folder_is_an_aligner_of_ones_own(tmp_path: Path, hub: HubAccess) -> None:
    with pytest.raises(AlignerMissing, match="no folder"):
        found(str(tmp_path / "nowhere"), hub)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AlignerMissing, match=r"config\.json"):
        found(str(tmp_path / "empty"), hub)


def test_the_demo_models_aligner_is_its_own(hub: HubAccess) -> None:
    if demo_aligner_path().is_dir():
        resolved = find_aligner(AUTO_ALIGNER, model=DEMO_MODEL, hub=hub)
        assert resolved.folder == demo_aligner_path().resolve()
    else:
        with pytest.raises(AlignerMissing, match="demo model has no aligner"):
            find_aligner(AUTO_ALIGNER, model=DEMO_MODEL, hub=hub)
