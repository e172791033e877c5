"""Examples in docstrings run as tests, each in a folder of its own; which tests share a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# Their tests start many processes themselves: they run one after the other, never against each other.
MANY_PROCESSES = (
    "tests/data/clips/test_loader.py",
    "tests/reproduce/test_processes.py",
    "tests/training/test_distributed.py",
    "tests/workers/test_pool.py",
    "tests/workers/test_ray_cluster.py",
)
# They take longest, so they begin first: a process that begins one of them last would work alone.
LONGEST = (
    *MANY_PROCESSES,
    "tests/transfer/test_run.py",
    "tests/training/test_run.py",
    "tests/reproduce/test_run.py",
    "tests/video/test_odd_videos.py",
    "tests/prepare/test_real_oddities.py",
    "tests/training/test_length.py",
    "tests/data/synthetic/test_videos.py",
    "tests/test_imports.py",
    "tests/transfer/teachers/test_teacher.py",
    "tests/training/test_start_up.py",
    "tests/video/test_video.py",
    "tests/models/test_contract.py",
)


@pytest.fixture(autouse=True)
def _examples_write_elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; see `LONGEST`."""
    for file in LONGEST:
        if not (config.rootpath / file).exists():
            raise pytest.UsageError(f"LONGEST of conftest.py names {file}, which is not there")
    places = {config.rootpath / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file, and of all `MANY_PROCESSES`, in one process: it prepares their fixtures once.

    The files begin in the order of `LONGEST`.

    `--dist loadgroup` would do the same by marks, but it groups nothing under pytest 9.2 and says nothing.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # xdist would begin with the files that have most tests

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "many processes" if file in MANY_PROCESSES else file

    return Scheduling(config, log)
