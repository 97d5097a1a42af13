"""One server per test module where the tests do not disturb one another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.running_server import RunningServer
from tests.fakes.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("data")) as running:
        yield running
        # The last test did not wait for a client that had left a stream.
        wait_until(lambda: running.leftovers() == [])
