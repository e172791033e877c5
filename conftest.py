"""Examples in docstrings run as tests, each in a folder of its own; which tests share a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# Their tests start many processes themselves: they run one after the other, never against each other.
MANY_PROCESSES = (
    "tests/data/clips/test_loader.py",
    "tests/training/test_distributed.py",
    "tests/workers/test_pool.py",
    "tests/workers/test_ray_cluster.py",
)


@pytest.fixture(autouse=True)
def _examples_write_elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file, and of all `MANY_PROCESSES`, in one process: it prepares their fixtures once.

    `--dist loadgroup` would do the same by marks, but it groups nothing under pytest 9.2 and says nothing.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    for file in MANY_PROCESSES:
        if not (config.rootpath / file).exists():
            raise pytest.UsageError(f"MANY_PROCESSES of conftest.py names {file}, which is not there")

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "many processes" if file in MANY_PROCESSES else file

    return Scheduling(config, log)
