from __future__ import annotations

import socket
from pathlib import Path

import pytest
from seg_material import write_pictures, write_tiny


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> tuple[str, str]:
    """Config and checkpoint of a tiny HRNet with five classes."""
    pytest.importorskip("mmseg")
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pictures(tmp_path) -> dict[str, Path]:
    return write_pictures(tmp_path / "set")
