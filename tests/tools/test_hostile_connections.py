"""Clients that hold on, leave, or come by the hundred: short forms of what `make hostile` measures in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from scribewire.server.access.keys import KeyStore
from tests.fakes.served import Served
from tools.hostile.connections import disconnects, endless_body, slow_uploads
from tools.hostile.overload import overload, overloaded_server

pytestmark = pytest.mark.process

DESCRIPTORS = (160, 160)


def test_slow_connections_are_closed_and_hide_the_health_page_from_nobody(tmp_path: Path):
    patience = {"header_timeout_seconds": 2.0, "upload_idle_seconds": 2.0}
    with Served(tmp_path / "data", **patience) as served:
        findings = slow_uploads(served, 60, trickles=False)
    assert findings.broken == []
    assert "408" in findings.measured["statuses"]


def test_more_connections_than_descriptors_cost_neither_the_server_nor_its_files(tmp_path: Path):
    patience = {"header_timeout_seconds": 2.0, "upload_idle_seconds": 2.0}
    with Served(tmp_path / "data", descriptors=DESCRIPTORS, **patience) as served:
        findings = slow_uploads(served, 200, trickles=False, expects_health=False)
        assert findings.broken == []
        with served.client() as client:
            assert client.get("/health/live").status_code == 200


def test_uploads_left_in_the_middle_leave_no_files_and_no_descriptors(tmp_path: Path):
    with Served(tmp_path / "data") as served:
        findings = disconnects(served, 60)
    assert findings.broken == []


def test_endless_body_without_a_key_costs_neither_disk_nor_memory(tmp_path: Path):
    KeyStore(tmp_path / "data").create("ann")
    with Served(tmp_path / "data") as served:
        for lines in ((), ("Authorization: Bearer wrong",)):
            findings = endless_body(served, 96 << 20, *lines)
            assert findings.broken == []
            assert findings.measured["bytes_sent_until_closed"] < 64 << 20
            assert findings.measured["status"] in (401, None)
        with served.client() as client:
            assert client.get("/health/live").status_code == 200
        assert served.leftovers() == []


def test_overload_is_answered_with_200_202_429_and_503_only_and_the_queue_stays_within_its_cap(
    tmp_path: Path,
):
    with overloaded_server(tmp_path / "data", cap=8, answer_seconds=0.02, max_jobs=10) as served:
        findings = overload(served, 120, cap=8)
    assert findings.broken == []
