"""The walk of one upload: how many modules it enters, and how often it is handed over, in a real server."""

from __future__ import annotations

import pytest

from tests.fakes.waiting import in_time
from tools.release import walk

pytestmark = pytest.mark.tools

MOST_MODULES = 63
"""May be lowered, never raised; 40 is the aim."""

MOST_HAND_OVERS = 6


@pytest.fixture(scope="module")
def traced() -> walk.Walk:
    return in_time(walk.trace, seconds=300.0)


def test_upload_enters_few_modules_and_is_handed_over_seldom(traced: walk.Walk):
    assert len(traced.modules) <= MOST_MODULES, traced.modules
    assert len(traced.hand_overs) <= MOST_HAND_OVERS, traced.hand_overs


def test_way_leads_through_all_three_processes_and_back(traced: walk.Walk):
    for role, module in (
        ("front", "scribewire.server.routes.openai"),
        ("audio child", "scribewire.engine.audio.transcode"),
        ("worker", "scribewire.engine.pipeline"),
    ):
        assert module in traced.modules_of(role)
    assert {one.sender for one in traced.hand_overs} >= {"front: event loop", "worker: engine"}
    assert traced.hand_overs[-1].receiver == "front: event loop"


def test_start_up_and_what_runs_on_its_own_are_no_part_of_it(traced: walk.Walk):
    entered = {
        (leg.thread, name) for leg in traced.legs for names in leg.functions.values() for name in names
    }
    names = {name for _, name in entered}
    assert not names & {"serve", "_Worker._beat", "EngineSupervisor._keep_watch", "Pipeline.__init__"}


def test_page_names_every_module_once_with_its_subject(traced: walk.Walk):
    text = walk.page(traced)
    on_one_line = " ".join(text.split())
    for module in traced.modules:
        assert on_one_line.count(f"* `{walk.path_of(module)}`. {walk.subject_of(module)}") == 1
    assert all(len(line) <= walk.WIDTH for line in text.splitlines())
