"""Attacks on parsers in short: that they reach what they attack, and what they may cost in memory, not in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tools.hostile.parsing_attacks import ATTACKS, SERVER, Attack, ServerUnderTest, attack, longest_json_call

pytestmark = pytest.mark.process

# By the name's first words; each has got as far as what it attacks.
ANSWERS = {
    "1,000 names": "400 form_invalid",
    "semicolons": "413 form_too_large",
    "escapes": "400 audio_format_unsupported",
    "10,000 JSON": "400 audio_format_unsupported",
    "parameters": "400 file_missing",
    "near boundaries": "400 audio_format_unsupported",
    "chunks": "400 upload_incomplete",
    "10,000 headers": "431 headers_too_large",
    "30,000 query": "431 headers_too_large",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with ServerUnderTest(SERVER, tmp_path_factory.mktemp("attacked") / "data") as running:
        yield running


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: one.name)
def test_attack_is_answered_as_it_should_be_and_leaves_the_health_page(server: ServerUnderTest, one: Attack):
    findings = attack(replace(one, clients=min(2, one.clients)), server, seconds=0.0)
    (expected,) = {answer for words, answer in ANSWERS.items() if one.name.startswith(words)}
    assert set(findings.measured["answers"]) <= {expected, "closed"}
    assert [claim for claim in findings.broken if "p99" not in claim] == []


def test_no_call_of_a_json_parse_is_long(tmp_path: Path):
    assert longest_json_call(tmp_path).broken == []
