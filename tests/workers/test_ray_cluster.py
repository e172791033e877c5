"""A cluster of this one machine: what is true of its processes is true of those of many.

`.ci/run` also runs the slow ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, Failed, T3DError
from t3d.evaluation.bulk import predictions
from t3d.evaluation.config import PredictConfig
from t3d.evaluation.predictor import Predictor
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.prepare.index import index_videos
from t3d.prepare.rewrite import TranscodeSpec
from t3d.prepare.shards import write_shards
from t3d.prepare.transcode import transcode_videos
from t3d.video.encode import write_video
from t3d.video.video import Video
from t3d.workers.cluster import Cluster, outcomes
from t3d.workers.pool import Lost
from t3d.workers.ray_cluster import Block, blocks_of, joined, spread
from t3d.workers.ray_pools import Actors

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.long  # starting Ray takes seconds

RAY = Cluster("ray")
PARENT = "__import__('os').getppid()"  # of a watched process: the process of Ray's that watches it


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def films(tmp_path: Path, numbered_frames: Callable[..., torch.Tensor]) -> Path:
    for at, name in enumerate(("a/1", "a/2", "b/1", "b/2", "b/3")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "set" / f"{name}.mp4", numbered_frames(12 + at, first=20 * at))
    (tmp_path / "set" / "b" / "empty.mp4").touch()
    return tmp_path / "set"


def done(function: Callable[[Any], Any], items: list[Any], **options: Any) -> list[tuple[Any, Any]]:
    options = {"workers": 1, "timeout": 60.0} | options
    return list(outcomes(function, items, cluster=RAY, title="working", **options))


def rows(path: Path) -> list[dict[str, object]]:
    return pyarrow.parquet.read_table(path).to_pylist()


# --- outcomes -------------------------------------------------------------------------------------------


def test_every_item_of_every_block_comes_once() -> None:
    items = list(range(-35, 35))  # three blocks
    assert sorted(done(abs, items)) == [(item, abs(item)) for item in items]
    assert done(abs, []) == []


@pytest.mark.slow
def test_crashes_and_hangs_are_facts_about_a_file() -> None:
    crash, hang = "__import__('os')._exit(3)", "__import__('time').sleep(60)"
    results = dict(done(eval, [crash, "1 + 1", hang, "2 + 2"], workers=2, timeout=3.0))
    assert results == {
        crash: Lost(
            "the process that read it ended with exit status 3, so a library crashed, perhaps on a damaged "
            "video"
        ),
        hang: Lost("timeout: not finished within 3 s"),
        "1 + 1": 2,
        "2 + 2": 4,
    }


def test_a_block_of_a_killed_process_continues_in_another(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    closed = f"iter(lambda: __import__('pathlib').Path({str(gate)!r}).exists(), True)"
    wait = f"[__import__('time').sleep(0.01) for _ in {closed}]"
    items = [PARENT, *(f"{wait} and False or {number}" for number in range(12))]
    coming = outcomes(eval, items, cluster=RAY, workers=1, timeout=60, title="working")
    first, killed = next(coming)
    assert first == PARENT
    os.kill(killed, signal.SIGKILL)
    gate.touch()
    assert dict(coming) == {item: number for number, item in enumerate(items[1:])}


@pytest.mark.slow
def test_only_the_item_that_kills_every_process_is_lost() -> None:
    deadly = f"__import__('os').kill({PARENT}, 9)"
    results = done(eval, ["1", deadly, "2", "3"])
    assert Counter(item for item, _ in results) == Counter(["1", deadly, "2", "3"])
    lost = dict(results).pop(deadly)
    assert lost == Lost(
        "each of 3 processes that worked on it alone died, or its machine did. The file may be damaged, or "
        "need more memory than the machine has"
    )
    assert [dict(results)[item] for item in "123"] == [1, 2, 3]


@pytest.mark.slow
def test_a_programming_error_is_not_reported_as_a_bad_file() -> None:
    with pytest.raises(TypeError, match="bad operand type"):
        done(abs, ["text"])


@pytest.mark.slow
def test_watched_processes_import_neither_torch_nor_ray() -> None:
    heavy = "sorted({'torch', 'ray'} & set(__import__('sys').modules))"
    assert done(eval, [heavy]) == [(heavy, [])]


def test_requests_larger_than_every_machine_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"no machine of the Ray cluster has 99 CPU.* the largest has 2 CPU"
    ):
        done(abs, [1], workers=99)


def test_a_client_of_a_cluster_is_sent_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ConfigError, match="ray_address is ray://there:1; run this on a machine of the clus"),
        joined("ray://there:1"),
    ):
        pass


# --- actors ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_actors_hold_what_they_made_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    def make() -> Callable[[list[int]], list[tuple[int, int]]]:
        with (tmp_path / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")

        def work(items: list[int]) -> list[tuple[int, int]]:
            if 5 in items and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return [(item, os.getpid()) for item in items]

        return work

    results = list(spread(Actors(make, cpus=1, gpus=0, most=1), blocks_of(range(20), 2)))
    assert sorted(item for item, _ in results) == list(range(20))
    assert all(outcome[0] == item for item, outcome in results)
    made = (tmp_path / "made").read_text().split()
    assert len(made) == 2  # one that died and another, for ten blocks
    assert {str(outcome[1]) for _, outcome in results} == set(made)


def test_an_error_in_making_is_the_users_to_see() -> None:
    def make() -> Callable[[list[int]], list[int]]:
        raise CheckpointError("net.safetensors: no such weights file")

    with pytest.raises(CheckpointError, match="no such weights file"):
        list(spread(Actors(make, cpus=1, gpus=0, most=1), deque([Block({0: 7})])))


@pytest.mark.slow
def test_machines_without_the_needed_packages_stop_the_run() -> None:
    class Missing:
        def __reduce__(self) -> tuple[Any, ...]:
            return __import__, ("not_there",)

    with pytest.raises(T3DError, match=r"(?s)cannot start its part.*No module named 'not_there'"):
        list(spread(Actors(Missing(), cpus=1, gpus=0, most=2), blocks_of([1, 2], 1)))  # type: ignore[arg-type]
    with pytest.raises(T3DError, match=r"(?s)cannot start its part.*No module named 'not_there'"):
        done(Missing(), [1, 2])  # type: ignore[arg-type]


# --- the commands ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_index_is_the_local_one(films: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(films)
    local = index_videos(manifest, tmp_path / "local.parquet")
    spread_out = index_videos(manifest, tmp_path / "ray.parquet", cluster=RAY, workers=1)
    assert spread_out == local
    assert local.bad == (Failed(str(films / "b" / "empty.mp4"), "is empty (0 bytes)"),)
    assert rows(tmp_path / "ray.parquet") == rows(tmp_path / "local.parquet")


@pytest.mark.slow
def test_transcoded_videos_hold_the_same_frames(
    films: Path, tmp_path: Path, read_numbers: Callable[[torch.Tensor], list[int]]
) -> None:
    manifest, out = Manifest.from_folder(films), tmp_path / "out"
    report = transcode_videos(manifest, out, spec=TranscodeSpec(48), root=films, cluster=RAY, workers=1)
    assert (report.transcoded, report.bad) == (
        5,
        (Failed(str(films / "b" / "empty.mp4"), "is empty (0 bytes)"),),
    )
    for at, name in enumerate(("a/1", "a/2", "b/1", "b/2", "b/3")):
        with Video(out / f"{name}.mp4") as video:
            assert read_numbers(video.frames_at(range(len(video)))) == list(range(20 * at, 21 * at + 12))
    again = transcode_videos(manifest, out, spec=TranscodeSpec(48), root=films)  # here, after there
    assert (again.transcoded, again.files) == (0, 5)


def test_shards_are_the_local_ones_to_the_byte(films: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(films)
    index_videos(manifest, tmp_path / "set.parquet", workers=1)
    index = VideoIndex.read(tmp_path / "set.parquet")
    local = write_shards(manifest, index, tmp_path / "local", shard_mb=0.004, workers=1)
    spread_out = write_shards(manifest, index, tmp_path / "ray", shard_mb=0.004, workers=1, cluster=RAY)
    assert (spread_out.shards, spread_out.bad) == (local.shards, local.bad)
    assert local.shards > 1
    for path in (tmp_path / "local").glob("*.tar"):
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()
    assert rows(tmp_path / "ray" / "index.parquet") == rows(tmp_path / "local" / "index.parquet")


_KILLED = """
import os, signal, sys
from t3d.cli.main import main
from t3d.io.journal import Journal

add, added = Journal.add, []

def killing(*arguments):
    add(*arguments)
    added.append(arguments)
    if len(added) == 3:  # in the journal, but without its final name
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = killing
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path: Path, numbered_frames: Callable[..., torch.Tensor]) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    for at in range(6):
        frames = numbered_frames(20, height=96, width=160, first=at)
        write_video(tmp_path / "set" / "a" / f"{at}.mp4", frames)
    out = tmp_path / "out"
    words = ["prepare", "transcode", str(tmp_path / "set"), "--out", str(out), "--short-side", "48"]
    address = ray.get_runtime_context().gcs_address
    words += ["--workers", "1", "--cluster", "ray", "--ray-address", address]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("a/[0-9]*.mp4")}
    assert len(before) == 2
    manifest = Manifest.from_folder(tmp_path / "set")
    report = transcode_videos(
        manifest, out, spec=TranscodeSpec(48), root=tmp_path / "set", cluster=RAY, workers=1
    )
    assert (report.files, report.transcoded, report.bad) == (6, 4, ())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [row["frames"] for row in rows(out / "index.parquet")] == [20] * 6
    lines = filter(None, (out / ".transcode.journal").read_text().splitlines())
    assert {json.loads(line)["path"] for line in lines} == {f"a/{at}.mp4" for at in range(6)}


@pytest.mark.usefixtures("one_thread")
def test_predictions_are_the_local_ones_to_the_last_digit(films: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = create_model("densenet3d_tiny", num_classes=3)
    torch.nn.init.normal_(net.get_classifier().weight, std=1.0)
    spec = ClipSpec(num_frames=8, stride=1, size=32, resize=32, tail="pad")
    weights = tmp_path / "net.safetensors"
    save_model(net, weights, card=ModelCard("densenet3d_tiny", classes=("a", "b", "c"), clip=spec))
    paths = [str(path) for path in sorted(films.rglob("*.mp4"))]
    compute = Compute(precision="fp32", workers=1)
    local = list(Predictor(weights, compute=compute).many(paths))
    assert len({prediction.probs for prediction in local}) == 6
    far = predictions(PredictConfig(str(weights), cluster=RAY, compute=compute), paths)
    assert sorted(far, key=lambda prediction: prediction.path) == local
