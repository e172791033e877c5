"""Training from shards: the same run from a folder and over HTTP, also when it is stopped and resumed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.io.shard_cache import shard_cache_of
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.run import train
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("work_here")

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """The runs of this file decode their videos."""
    return lambda **changes: tiny(**changes | {"data": {"cache": None} | changes.get("data", {})})


@pytest.fixture(scope="module")
def packed(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The red and blue videos in shards of about three: `train` and `val`."""
    root = tmp_path_factory.mktemp("packed")
    for part in ("train", "val"):
        manifest = Manifest.from_csv(colors / f"{part}.csv")
        index_videos(manifest, root / f"{part}.parquet", workers=1)
        index = VideoIndex.read(root / f"{part}.parquet")
        report = write_shards(manifest, index, root / part, shard_mb=0.006, workers=1)
        assert report.shards > 1
    return root


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("T3D_SHARDS", str(tmp_path / "twin"))
    shard_cache_of.cache_clear()
    yield tmp_path / "twin"
    shard_cache_of.cache_clear()


def shards_at(place: Any, **more: Any) -> dict[str, Any]:
    lists = {part: f"{place}/{part}/index.parquet" for part in ("train", "val")}
    return lists | {"shuffle_window": 4, "lanes": 2} | more


def same_weights(one: Path, two: Path) -> bool:
    for name in ("last.safetensors", "best.safetensors"):
        left, right = load_file(one / name), load_file(two / name)
        if left.keys() != right.keys() or not all(torch.equal(left[key], right[key]) for key in left):
            return False
    return True


@pytest.mark.long
def test_a_run_stopped_and_resumed_over_http_ends_as_from_a_folder(
    tiny: Tiny, packed: Path, twin: Path, site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optim = {"epochs": 3}
    straight = train(tiny(out=str(tmp_path / "straight"), optim=optim, data=shards_at(packed)))
    for part in ("train", "val"):
        site.put_folder(f"/{part}", packed / part)
    config = tiny(optim=optim, data=shards_at(site.url(""), workers=2))
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        if epoch * self.steps + step == 5:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    paths = [path for path, _ in site.asked]
    assert len(set(paths)) == len(paths) > 6, "everything came once"
    shutil.rmtree(twin)  # as on another machine
    shard_cache_of.cache_clear()
    resumed = train(config, resume=True)
    assert same_weights(straight, resumed)


@pytest.mark.long
def test_another_window_is_another_order_and_files_a_third(tiny: Tiny, packed: Path, tmp_path: Path) -> None:
    runs = {}
    for name, data in {
        "near": shards_at(packed, shuffle_window=1),
        "far": shards_at(packed, shuffle_window=100),
        "again": shards_at(packed, shuffle_window=100, workers=1),
        "files": {},
    }.items():
        runs[name] = train(tiny(out=str(tmp_path / name), data=data))
    assert same_weights(runs["far"], runs["again"])
    assert not same_weights(runs["far"], runs["near"])
    assert not same_weights(runs["far"], runs["files"])


def test_lanes_that_do_not_fit_are_refused_before_a_folder_is_made(tiny: Tiny, packed: Path) -> None:
    config = tiny(data=shards_at(packed, lanes=3))
    with pytest.raises(ConfigError, match=r"data\.lanes is 3"):
        train(config)
    assert not Path(config.out).exists()
    with pytest.raises(ConfigError, match=r"data\.balance samples videos in any order"):
        train(tiny(data=shards_at(packed, balance=True)))
    with pytest.raises(ConfigError, match=r"data\.lanes is 0; it must be at least 1"):
        tiny(data={"lanes": 0})
