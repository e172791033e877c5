from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD, ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, VideoError
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.transfer.features import FeatureStore
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.library import TorchTeacher
from t3d.video.encode import write_video
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")

SPEC = ClipSpec(num_frames=1, stride=1, size=32, resize=32)
Seen = Callable[[Teacher, Tensor], Tensor]


class Tiny(TorchTeacher):
    """A teacher of one layer that counts the frames it sees."""

    def __init__(self, *, seed: int = 0, size: int = 32, std: tuple[float, ...] = IMAGENET_STD) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            norm = nn.BatchNorm2d(6)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            net = nn.Sequential(nn.Conv2d(3, 6, 5, stride=3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        super().__init__("tiny", net, size=size, mean=IMAGENET_MEAN, std=std)  # type: ignore[arg-type]
        self.seen = 0

    def features(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().features(x)


def film(path: Path, count: int, *, seed: int = 0, every: int = 16) -> Path:
    """A video of frames of 40 × 48, each with its own two colors."""
    generator = torch.Generator().manual_seed(seed)
    colors = torch.randint(0, 256, (count, 3, 2, 1), generator=generator).byte()
    frames = colors.repeat_interleave(20, 2).expand(-1, -1, -1, 48)
    return write_video(path, frames, crf=5, keyframe_interval=every)


def table(*paths: Path) -> Manifest:
    names = [str(path) for path in paths]
    nothing = [None] * len(paths)
    columns = {"path": names, "label": nothing, "start": nothing, "end": nothing, "source": names}
    return Manifest((), pa.table(columns))


def of_each_frame(teacher: Tiny, path: Path, seen_by: Seen) -> Tensor:
    """The feature of every frame, each decoded, prepared and computed alone, [N, D]."""
    with Video(path) as video, torch.no_grad():
        alone = [teacher.net(seen_by(teacher, video.frames_at([i]))).flatten(1) for i in range(len(video))]
    return torch.cat(alone)


def made(folder: Path, *paths: Path, step: int = 1, workers: int = 0) -> tuple[FeatureStore, list[Failed]]:
    teacher = Tiny()
    features = FeatureStore(str(folder), digest=teacher.digest, step=step)
    return features, features.make(table(*paths), teacher, store=FrameStore(SPEC), workers=workers)


def entries(folder: Path) -> dict[str, bytes]:
    """Files with final names; names with a leading dot are temporary."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def zero_a_packet(path: Path, number: int) -> None:
    """Make one frame undecodable, without a trace in the container."""
    with av.open(str(path)) as container:
        packets = sorted((p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size)
    _, at, size = packets[number]
    content = bytearray(path.read_bytes())
    content[at : at + size] = bytes(size)
    path.write_bytes(content)


# --- what a mean is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "step"),
    [
        (1, 1),
        (1, 8),
        (5, 8),
        (9, 1),
        (16, 4),
        (17, 4),
        (22, 3),
        (23, 3),
        (24, 8),
        (29, 8),
        (32, 1),
        (67, 2),
        (127, 2),
    ],
)
def test_the_nearest_frame_with_features_is_used_for_each_requested_one(
    tmp_path: Path, seen_by: Seen, count: int, step: int
) -> None:
    path = film(tmp_path / "a.mp4", count)
    features, bad = made(tmp_path / "features", path, step=step)
    assert bad == []
    each = of_each_frame(Tiny(), path, seen_by)
    kept = list(range(0, count, step))
    assert len(kept) == 1 or torch.pdist(each[kept]).min() > 0.02  # no frame passes for another
    clear = {}
    for wanted in range(count):
        away = [abs(frame - wanted) for frame in kept]
        nearest = [frame for frame, far in zip(kept, away, strict=True) if far == min(away)]
        got = features.get(path, np.array([wanted]))[0]
        assert got.shape == (6,)
        assert got.dtype == torch.float32
        # Half precision is kept. In a tie, either neighbor may stand in.
        assert any(torch.allclose(got, each[frame], atol=2e-3) for frame in nearest), (wanted, nearest)
        if len(nearest) == 1:
            clear[wanted] = nearest[0]
    rng = np.random.default_rng(0)
    for number in (2, 3, 20):  # in any order, with repeats
        frames = rng.choice(list(clear), number)
        want = torch.stack([each[clear[int(frame)]] for frame in frames])
        torch.testing.assert_close(features.get(path, frames), want, rtol=0, atol=2e-3)


def test_workers_and_decoded_frames_change_nothing(tmp_path: Path) -> None:
    paths = [film(tmp_path / f"{i}.mp4", 3 + 11 * i, seed=i) for i in range(4)]
    made(tmp_path / "here", *paths, step=1)
    made(tmp_path / "there", *paths, step=1, workers=2)
    assert len(entries(tmp_path / "here")) == 4
    assert entries(tmp_path / "there") == entries(tmp_path / "here")

    decoded = FrameStore(SPEC, cache=str(tmp_path / "decoded"))
    assert all(decoded.prepare(path) for path in paths)
    teacher = Tiny()
    features = FeatureStore(str(tmp_path / "cached"), digest=teacher.digest, step=1)
    assert features.make(table(*paths), teacher, store=decoded, workers=0) == []
    assert entries(tmp_path / "cached") == entries(tmp_path / "here")


# --- what is computed, and when -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4])
def test_each_frame_is_computed_once_for_all_rows_and_runs(tmp_path: Path, step: int) -> None:
    one, two = film(tmp_path / "one.mp4", 10), film(tmp_path / "two.mp4", 35, seed=1)
    teacher, store = Tiny(), FrameStore(SPEC)

    def run(*paths: Path) -> int:
        before = teacher.seen
        features = FeatureStore(str(tmp_path / "features"), digest=teacher.digest, step=step)
        assert features.make(table(*paths), teacher, store=store, workers=0) == []
        return teacher.seen - before

    assert run(one, two, one, one) == len(range(0, 10, step)) + len(range(0, 35, step))
    assert run(one, two, one) == 0
    assert run(two, film(tmp_path / "three.mp4", 9, seed=2)) == len(range(0, 9, step))


def test_a_file_finds_its_entry_under_any_name(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 10)
    features, _ = made(tmp_path / "features", path, step=4)
    before = entries(tmp_path / "features")
    assert list(before) == [features.entry(path).name]
    first = features.get(path, np.arange(10))
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copyfile(path, tmp_path / "elsewhere" / "b.mp4"))
    os.utime(copy, (0, 0))
    moved = path.rename(tmp_path / "c.mp4")
    teacher = Tiny()
    again = FeatureStore(str(tmp_path / "features"), digest=teacher.digest, step=4)
    assert again.make(table(copy, moved), teacher, store=FrameStore(SPEC), workers=0) == []
    assert teacher.seen == 0
    for name in (copy, moved):
        assert torch.equal(again.get(name, np.arange(10)), first)
    assert entries(tmp_path / "features") == before


def test_another_video_teacher_or_step_is_another_entry(tmp_path: Path, seen_by: Seen) -> None:
    path = film(tmp_path / "a.mp4", 20)
    folder, frames = tmp_path / "features", np.array([3, 11])
    teachers = {
        "as it is": Tiny(),
        "other weights": Tiny(seed=1),
        "other size": Tiny(size=24),
        "other normalization": Tiny(std=(0.5, 0.5, 0.5)),
    }
    names, kept = set(), []
    for count, teacher in enumerate(teachers.values(), 1):
        features = FeatureStore(str(folder), digest=teacher.digest, step=1)
        spec = ClipSpec(num_frames=1, size=teacher.size, resize=teacher.size)
        assert features.make(table(path), teacher, store=FrameStore(spec), workers=0) == []
        names.add(features.entry(path))
        kept.append((features, path, of_each_frame(teacher, path, seen_by)[frames]))
        assert len(names) == len(entries(folder)) == count
    for step in (2, 20):
        names.add(made(folder, path, step=step)[0].entry(path))
    assert len(names) == len(entries(folder)) == 6
    for features, video, want in kept:  # none took another's place
        torch.testing.assert_close(features.get(video, frames), want, rtol=0, atol=3e-3)


def test_a_replaced_video_is_computed_again(tmp_path: Path, seen_by: Seen) -> None:
    path = film(tmp_path / "a.mp4", 12)
    features, _ = made(tmp_path / "features", path)
    old = features.get(path, np.arange(12))
    time = path.stat().st_mtime
    film(path, 12, seed=5)
    os.utime(path, (time + 10, time + 10))
    want = of_each_frame(Tiny(), path, seen_by)
    assert (want - old).abs().max() > 0.02
    made(tmp_path / "features", path)
    # The same object as before, as a long run has it.
    torch.testing.assert_close(features.get(path, np.arange(12)), want, rtol=0, atol=2e-3)
    assert len(entries(tmp_path / "features")) == 2


@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_a_killed_run_leaves_no_partial_entry_and_is_resumed(tmp_path: Path, moment: str) -> None:
    paths = [film(tmp_path / f"{i}.mp4", 35, seed=i) for i in range(3)]
    whole = tmp_path / "whole"
    made(whole, *paths)
    folder = tmp_path / "features"

    def killed() -> None:
        """Die within the second video."""
        write, see = safetensors.torch.save_file, Tiny.features
        written: list[Path] = []

        def writing(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
            write(tensors, path, metadata=metadata)
            written.append(path)
            if moment == "writing" and len(written) == 2:
                path.write_bytes(path.read_bytes()[:60])
                os.kill(os.getpid(), signal.SIGKILL)

        def seeing(self: Tiny, x: Tensor) -> Tensor:
            out = see(self, x)
            if moment == "computing" and self.seen > 35 + 32:
                os.kill(os.getpid(), signal.SIGKILL)
            return out

        safetensors.torch.save_file, Tiny.features = writing, seeing  # type: ignore[assignment, method-assign]
        made(folder, *paths)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = entries(folder)
    assert len(left) == 1
    assert left.items() <= entries(whole).items()

    teacher = Tiny()
    features = FeatureStore(str(folder), digest=teacher.digest, step=1)
    assert features.make(table(*paths), teacher, store=FrameStore(SPEC), workers=0) == []
    assert teacher.seen == 2 * 35
    assert entries(folder) == entries(whole)


# --- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_videos_are_reported_and_the_others_kept(tmp_path: Path, seen_by: Seen, workers: int) -> None:
    good = [film(tmp_path / f"good{i}.mp4", 5 + i, seed=i) for i in range(2)]
    broken = film(tmp_path / "broken.mp4", 40, every=4)
    for number in range(33, 38):  # more than a tenth of the frames; a single one would be replaced
        zero_a_packet(broken, number)
    with Video(broken) as video:  # so its first 32 frames have features before the others are read
        video.frames_at([*range(32), 39])
    text = tmp_path / "text.mp4"
    text.write_bytes(b"no video")
    absent = tmp_path / "absent.mp4"
    rows = [good[0], broken, absent, text, good[1], broken, text, good[0]]
    features, bad = made(tmp_path / "features", *rows, workers=workers)

    assert sorted((video.row, Path(video.path)) for video in bad) == [
        (row, path) for row, path in enumerate(rows) if path not in good
    ]
    reasons = {Path(video.path): video.reason for video in bad}
    assert "of 40 frames cannot be decoded, more than 10 %" in reasons[broken]
    assert "No such file" in reasons[absent]
    assert reasons[text]
    assert not any(str(path) in reason for path, reason in reasons.items())  # the path is reported separately
    assert set(entries(tmp_path / "features")) == {features.entry(path).name for path in good}
    for path in good:
        want = of_each_frame(Tiny(), path, seen_by)[2:4]
        torch.testing.assert_close(features.get(path, np.array([2, 3])), want, rtol=0, atol=2e-3)


def test_a_missing_video_is_a_bad_video(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 5)
    features, _ = made(tmp_path / "features", path)
    path.unlink()
    for ask in (lambda: features.entry(path), lambda: features.get(path, np.array([0]))):
        with pytest.raises(VideoError, match=r"a\.mp4: cannot be read: No such file"):
            ask()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "of something else"])
def test_a_damaged_entry_is_named_with_the_fix(tmp_path: Path, damage: str) -> None:
    path = film(tmp_path / "a.mp4", 10)
    features, _ = made(tmp_path / "features", path)
    entry = features.entry(path)
    whole = entry.read_bytes()
    if damage == "of something else":
        save_file({"weights": torch.zeros(2, 6)}, entry)
    else:
        entry.write_bytes({"cut": whole[:-20], "empty": b"", "text": b"features" * 9}[damage])
    with pytest.raises(ConfigError) as caught:
        features.get(path, np.array([1]))
    for message in ("teacher.cache", str(entry), str(path), "delete a damaged file"):
        assert message in str(caught.value)
    entry.unlink()  # as it says
    made(tmp_path / "features", path)
    assert entry.read_bytes() == whole


def test_features_that_were_never_made_are_named(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 10)
    features = FeatureStore(str(tmp_path / "features"), digest="x", step=1)
    with pytest.raises(ConfigError, match=r"teacher\.cache: the features .*a\.mp4 are missing.*start again"):
        features.get(path, np.array([1]))


def test_folders_are_made_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = FeatureStore(str(tmp_path / "a" / "b"), digest="x", step=1)
    assert deep.folder.is_dir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert FeatureStore("~/features", digest="x", step=1).folder == tmp_path / "home" / "features"
    assert (tmp_path / "home" / "features").is_dir()

    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(ConfigError, match=rf"teacher\.cache: the folder .*/{name} cannot be created"):
            FeatureStore(str(tmp_path / name), digest="x", step=1)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigError, match=r"teacher\.cache: the folder .*/b cannot be read and written"):
        FeatureStore(str(tmp_path / "a" / "b"), digest="x", step=1)


def test_an_entry_holds_every_nth_frame_in_half_precision(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 67)
    features, _ = made(tmp_path / "features", path, step=2)
    kept = load_file(features.entry(path))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in kept.items()} == {
        "features": (torch.float16, (34, 6))
    }


def test_videos_in_shards_have_the_features_of_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(3)]
    generator = torch.Generator().manual_seed(0)
    for path in paths:
        write_video(path, torch.randint(256, (6, 3, 40, 48), generator=generator, dtype=torch.uint8))
    index_videos(table(*paths), tmp_path / "index.parquet", workers=1)
    write_shards(table(*paths), VideoIndex.read(tmp_path / "index.parquet"), tmp_path / "shards", workers=1)
    index = VideoIndex.read(tmp_path / "shards" / "index.parquet")
    packed = Manifest.from_index(tmp_path / "shards" / "index.parquet")
    plain, _ = made(tmp_path / "plain", *paths)
    teacher = Tiny()
    features = FeatureStore(str(tmp_path / "packed"), digest=teacher.digest, step=1, index=index)
    assert features.make(packed, teacher, store=FrameStore(SPEC, index=index), workers=0) == []
    assert entries(tmp_path / "packed") == entries(tmp_path / "plain")
    one, two = packed[1].path, paths[int(packed[1].path.stem.partition("-")[2])]
    assert torch.equal(features.get(one, np.arange(6)), plain.get(two, np.arange(6)))
