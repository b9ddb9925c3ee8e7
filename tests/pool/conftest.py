"""The Redis server of the pool tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.processes.transport import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("redis"))
    started.start()
    yield started
    started.kill()
