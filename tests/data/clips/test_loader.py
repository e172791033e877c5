"""Loaders of training clips: the same however their processes are started, and memory that stays flat."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import Batch, TrainClips, collate
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader, start_worker
from t3d.data.clips.sampler import ResumableBatchSampler, SampleKey
from t3d.data.config import AugmentConfig
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, FetchError, LostReaderError
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.video.encode import write_video

SPEC = ClipSpec(num_frames=4, stride=2, size=32, resize=36)
VIDEOS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of two classes, and `shards` of them."""
    root = tmp_path_factory.mktemp("loader")
    generator = torch.Generator().manual_seed(0)
    for number in range(VIDEOS):
        path = root / "videos" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, torch.randint(256, (20, 3, 40, 48), generator=generator, dtype=torch.uint8))
    index_videos(Manifest.from_folder(root / "videos"), root / "index.parquet", workers=1)
    index = VideoIndex.read(root / "index.parquet")
    write_shards(Manifest.from_folder(root / "videos"), index, root / "shards", shard_mb=0.1, workers=1)
    return root


def clips_of(folder: Path, kind: str) -> TrainClips:
    name = {
        "files": None,
        "indexed": folder / "index.parquet",
        "shards": folder / "shards" / "index.parquet",
    }[kind]
    manifest = Manifest.from_folder(folder / "videos") if name is None else Manifest.from_index(name)
    store = FrameStore(SPEC, index=None if name is None else VideoIndex.read(name))
    return TrainClips(manifest, SPEC, store=store, augment=AugmentConfig(color=0.4), seed=3)


class Both(Dataset[tuple[object, object]]):
    """The clips of files and, under the same key, those of shards."""

    def __init__(self, folder: Path) -> None:
        self.parts = clips_of(folder, "files"), clips_of(folder, "shards")

    def __getitem__(self, key: SampleKey) -> tuple[object, object]:
        files, shards = self.parts
        return files[key], shards[key]


def collate_both(pairs: list[tuple[Any, Any]]) -> tuple[Batch, Batch]:
    files, shards = zip(*pairs, strict=True)
    return collate(list(files)), collate(list(shards))


@pytest.mark.long
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_clips_are_the_same_however_workers_are_started(
    folder: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where a spawned worker looks for `Both`
    both = Both(folder)
    # Open decoders in this process, as a run has that read a video before its loader starts.
    kept = [clips.store.open(clips.manifest[row].path) for clips in both.parts for row in range(3)]
    assert [frames.get(np.arange(2)).shape[0] for frames in kept] == [2] * 6
    workers = 1 if start == "spawn" else 2  # a spawned worker takes seconds to start
    batches = batches_of(both, start=start, workers=workers)
    wanted = batches_of(both, start=None, workers=0)
    assert len(batches) == len(wanted) == 3
    for pair, wanted_pair in zip(batches, wanted, strict=True):
        for one, other in zip(pair, wanted_pair, strict=True):
            assert one.frames is not None
            assert other.frames is not None
            assert torch.equal(one.frames, other.frames)
            assert one.videos.tolist() == other.videos.tolist()


def batches_of(both: Both, *, start: str | None, workers: int) -> list[tuple[Batch, Batch]]:
    loader = Loader(
        both,
        batch_sampler=ResumableBatchSampler(VIDEOS, batch_size=4, seed=1),
        collate_fn=collate_both,
        num_workers=workers,
        multiprocessing_context=start,
    )
    return list(loader)


class Weighed(Dataset[tuple[int, int, int]]):
    """Each clip replaced by its reader's process, memory and open files after reading it."""

    def __init__(self, clips: TrainClips) -> None:
        self.clips = clips

    def __getitem__(self, key: SampleKey) -> tuple[int, int, int]:
        assert not isinstance(self.clips[key], Failed)
        return os.getpid(), *used()


def used() -> tuple[int, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    "epochs", [pytest.param(60, marks=pytest.mark.long), pytest.param(250, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["files", "shards"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for memory and open files")
def test_memory_and_open_files_are_flat_over_many_epochs(folder: Path, kind: str, epochs: int) -> None:
    clips = clips_of(folder, kind)
    sampler = ResumableBatchSampler(VIDEOS, batch_size=4, seed=1)
    loader = Loader(
        Weighed(clips), batch_sampler=sampler, collate_fn=list, num_workers=2, persistent_workers=True
    )
    memory: dict[int, list[float]] = {}
    files: dict[int, set[int]] = {}
    warm = 20
    for epoch in range(epochs):
        sampler.set_state(epoch=epoch, step=0)
        for batch in loader:
            for process, size, opened in batch:
                if epoch >= warm:
                    memory.setdefault(process, []).append(size)
                    files.setdefault(process, set()).add(opened)
    assert len(memory) == 2
    for sizes in memory.values():
        tenth = len(sizes) // 10
        assert np.median(sizes[-tenth:]) - np.median(sizes[:tenth]) < 4e6
    for counts in files.values():
        assert max(counts) - min(counts) <= 2  # a file is open or not just now


class Failing(Dataset[int]):
    """Numbers, of which 5 cannot be had."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: int) -> int:
        if key == 5:
            raise self.error
        return key


class FailingStream(IterableDataset[int]):
    def __init__(self, error: Exception) -> None:
        self.items = Failing(error)

    def __iter__(self) -> Iterator[int]:
        yield from (self.items[key] for key in range(8))


@pytest.mark.parametrize("kind", [Failing, FailingStream])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_t3d_error_in_a_worker_is_raised_unchanged(kind, workers: int, batch_size: int | None) -> None:
    error = FetchError("https://example.org/000001.tar", "connection refused")
    seen = []
    with pytest.raises(FetchError, match=r"^https://example.org/000001.tar: connection refused$") as caught:
        seen.extend(Loader(kind(error), batch_size=batch_size, num_workers=workers))
    assert caught.value.url == error.url
    assert [int(number) for batch in seen for number in np.atleast_1d(batch)] == list(
        range(5 if batch_size is None else 4)
    )
    if workers == 0:  # torch's own way of raising an error of a worker keeps its processes for a while
        with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
            list(Loader(kind(ZeroDivisionError()), batch_size=batch_size, num_workers=0))


def test_a_process_ends_although_a_traceback_keeps_its_loader(tmp_path: Path) -> None:
    """Its workers ignore SIGTERM, by which Python ends those that are left."""
    script = tmp_path / "kept.py"
    script.write_text(
        """
from t3d.data.clips.loader import Loader, start_worker
from t3d.errors import ConfigError

class Failing:
    def __len__(self):
        return 9
    def __getitem__(self, key):
        if key == 5:
            raise ConfigError("number five")
        return key

def run():
    try:
        list(Loader(Failing(), batch_size=1, num_workers=2, persistent_workers=True))
    except ConfigError as error:
        kept = error  # this frame is in its traceback
        print(kept)

run()
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "number five\n")
    assert "killed" not in done.stderr  # torch alone would report the end of a worker as an error


class _Killing:
    """A dataset whose process kills itself after the first item, as soon as it may."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.may_die = multiprocessing.get_context("fork").Event()

    def __len__(self) -> int:
        return 9

    def __getitem__(self, key: int) -> int:
        if key and get_worker_info() is not None:
            self.may_die.wait()
            os.kill(os.getpid(), self.number)
        return key


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "SIGKILL, probably because the machine ran out of memory. Free memory"),
        (signal.SIGBUS, r"SIGBUS, probably because shared memory \(/dev/shm\) is full. Enlarge"),
        (signal.SIGSEGV, "SIGSEGV, so a library crashed, perhaps on a damaged video. Find"),
    ],
)
def test_the_death_of_a_reader_says_the_likely_cause(number: int, cause: str) -> None:
    clips = _Killing(number)
    batches = iter(Loader(clips, batch_size=1, num_workers=1))  # type: ignore[arg-type]
    assert next(batches).tolist() == [0]
    with pytest.raises(  # noqa: PT012 (the death may interrupt either)
        LostReaderError, match=rf"^Reading process 1 of 1 \(pid \d+\) was killed by {cause}"
    ):
        clips.may_die.set()
        list(batches)


def test_the_death_of_a_reader_is_reported_while_the_model_computes() -> None:
    clips = _Killing(signal.SIGKILL)
    batches = iter(Loader(clips, batch_size=1, num_workers=1))  # type: ignore[arg-type]
    assert next(batches).tolist() == [0]
    with pytest.raises(LostReaderError, match="killed by SIGKILL"):  # noqa: PT012 (as above)
        clips.may_die.set()
        time.sleep(300)


def test_a_stopped_run_leaves_no_traceback_of_its_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thread of a worker hands batches over, and may be in the middle of one when the run stops."""
    monkeypatch.setattr("t3d.data.clips.loader.signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back after the test
    start_worker(0)
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError(), OSError("another")):
        sys.excepthook(type(error), error, None)
    printed = capsys.readouterr().err
    assert "another" in printed
    assert "reset" not in printed
    assert "EOFError" not in printed
