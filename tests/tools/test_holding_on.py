"""Clients and receivers that hold on: short forms of what `make hostile` measures in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.server.webhooks.sender import ATTEMPT_SECONDS
from tools.hostile.holding_on import endless_streams, idle_connections, silent_receiver

pytestmark = pytest.mark.process


def test_endless_streams_of_one_key_leave_connections_to_others(tmp_path: Path):
    findings = endless_streams(tmp_path, streams=1_100)
    assert findings.broken == []
    assert findings.measured["answers"] == {"200": 128, "429": 972}


def test_silent_receiver_holds_up_no_other(tmp_path: Path):
    # Within the time limit of one attempt; `make hostile` holds it to a second.
    assert silent_receiver(tmp_path, webhooks=16).measured["attack"]["most_seconds"] < ATTEMPT_SECONDS


def test_idle_connections_leave_connections_to_others(tmp_path: Path):
    assert idle_connections(tmp_path, count=1_100).broken == []
