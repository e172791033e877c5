from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data import index as video_index
from t3d.data.catalog import open_index, open_manifest
from t3d.data.clips.check import readable
from t3d.data.clips.dataset import ClipItem, TrainClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.sampler import SampleKey
from t3d.data.config import AugmentConfig
from t3d.data.index import SCHEMA, VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError, VideoError
from t3d.prepare.examine import examine
from t3d.prepare.index import index_videos
from t3d.video import opening, reader
from t3d.video import video as video_module
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.stream import Stream
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")

SPEC = ClipSpec(num_frames=4, stride=2, size=32, resize=32)


def encode(path: Path, images: torch.Tensor, codec: str, *, gap=lambda i: i, **options: object) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        video.height, video.width, video.pix_fmt = images.shape[2], images.shape[3], "yuv420p"
        video.codec_context.gop_size = 12
        video.codec_context.max_b_frames = 2
        for i, image in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts = gap(i)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


FILES = {
    "plain.mp4": ("libx264", {}),
    "varied.mkv": ("libx264", {"gap": lambda i: i * i // 3 + i}),
    "late.ts": ("libx264", {"gap": lambda i: i + 100}),
    "counted.avi": ("mpeg4", {}),
    "raw.h264": ("libx264", {}),
    "one.mp4": ("libx264", {}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory, numbered_frames) -> Path:
    """Files of several kinds, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, (codec, options)) in enumerate(FILES.items()):
        images = numbered_frames(1 if name == "one.mp4" else 40, first=50 * seed)
        encode(folder / name, images, codec, **options)
    noise = torch.randint(
        0, 256, (40, 3, 48, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    whole = write_video(folder / "damaged.mp4", noise).read_bytes()  # its index is in front
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def index(films) -> Path:
    index_videos(Manifest.from_files(sorted(films.iterdir())), films / "index.parquet")
    return films / "index.parquet"


@pytest.mark.parametrize("name", FILES)
def test_facts_survive_the_table_and_give_the_same_frames(films, index, name) -> None:
    known = VideoIndex.read(index)
    facts = known.facts(films / name)
    with Video(films / name) as slow, Video(films / name, facts=facts) as fast:
        assert len(slow) == len(fast)
        assert (slow.height, slow.width, slow.duration) == (fast.height, fast.width, fast.duration)
        assert slow.times.tolist() == fast.times.tolist()
        rng = random.Random(0)
        for _ in range(5):
            wanted = [rng.randrange(len(slow)) for _ in range(5)]
            assert torch.equal(slow.frames_at(wanted), fast.frames_at(wanted))
        assert slow.damage is fast.damage is None
    (row,) = [row for row in pyarrow.parquet.read_table(index).to_pylist() if row["path"] == name]
    assert row["frames"] == len(slow)
    assert row["fps"] == pytest.approx(slow.metadata.average_fps)
    assert row["size"] == (films / name).stat().st_size
    assert row["counted"] == (name in ("counted.avi", "raw.h264") and slow._reader.table.order is not None)


def test_a_damaged_file_holds_what_decoding_gives(films, index) -> None:
    facts = VideoIndex.read(index).facts(films / "damaged.mp4")
    stream = Stream(films / "damaged.mp4")
    truth = [stream.rgb(frame) for frame in stream.frames()]
    stream.close()
    with Video(films / "damaged.mp4", facts=facts) as video:
        assert video.damage
        assert len(video) == len(truth)
        for number in (0, len(truth) - 1, len(truth) // 2):
            assert np.array_equal(video.frames_at([number])[0].permute(1, 2, 0).numpy(), truth[number])


def test_nothing_is_read_through_to_open_a_known_file(films, index, monkeypatch, read_numbers) -> None:
    known = VideoIndex.read(index)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the file was read through")

    monkeypatch.setattr(opening, "read_with", never)
    monkeypatch.setattr(opening, "scan_table", never)
    monkeypatch.setattr(reader, "scan_table", never)
    for seed, name in enumerate(FILES):
        video = Video(films / name, facts=known.facts(films / name))
        assert video._reader._stream is None  # not even opened
        last = len(video) - 1
        assert read_numbers(video.frames_at([last])) == [50 * seed + last]


def test_a_file_that_cannot_be_read_says_why_without_being_opened(films, index, monkeypatch) -> None:
    monkeypatch.setattr(video_module.Video, "__init__", None)
    store = FrameStore(SPEC, index=VideoIndex.read(index))
    for name, reason in (("empty.mp4", "is empty"), ("text.mp4", "cannot be opened by FFmpeg: not a video")):
        with pytest.raises(VideoError, match=reason):
            store.open(films / name)


def test_a_file_of_another_length_is_refused(tmp_path, numbered_frames) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    index_videos(Manifest.from_files([path]), tmp_path / "index.parquet")
    write_video(path, numbered_frames(24))
    with pytest.raises(VideoError, match=r"a\.mp4: has \d+ bytes, and had \d+ when it was indexed; run"):
        FrameStore(SPEC, index=VideoIndex.read(tmp_path / "index.parquet")).open(path)


def test_a_file_with_false_metadata_is_detected(tmp_path, numbered_frames, read_numbers) -> None:
    """A video of the same length with other key frames: frames are still checked one by one."""
    one = write_video(tmp_path / "one.mp4", numbered_frames(40), keyframe_interval=16)
    two = write_video(tmp_path / "two.mp4", numbered_frames(30, first=100), keyframe_interval=7)
    facts = VideoFacts.of_row({"error": None, **examine(str(one)), "damage": None})
    size = max(one.stat().st_size, two.stat().st_size)
    for path in (one, two):
        path.write_bytes(path.read_bytes() + bytes(size - path.stat().st_size))
    lying = Video(two, facts=VideoFacts(**{**facts.__dict__, "size": size}))
    assert read_numbers(lying.frames_at([20, 3])) == [120, 103]
    with pytest.raises((VideoError, IndexError)):
        lying.frames_at([39])


def test_files_missing_from_the_index_are_opened_normally(index, tmp_path, numbered_frames) -> None:
    store = FrameStore(SPEC, index=VideoIndex.read(index))
    path = write_video(tmp_path / "new.mp4", numbered_frames(20))
    assert store.index.facts(path) is None
    assert len(store.open(path).times) == 20


def test_paths_differ_even_if_their_hashes_collide(index, films, monkeypatch) -> None:
    truth = {name: VideoIndex.read(index).facts(films / name).digest for name in FILES}
    assert len(set(truth.values())) == len(FILES)
    monkeypatch.setattr(video_index, "_mark", lambda _: 7)
    poor = VideoIndex.read(index)
    for name in FILES:
        assert poor.facts(films / name).digest == truth[name]
    assert poor.facts(films / "unknown.mp4") is None


def test_an_index_is_a_manifest_and_moves_with_its_folder(tmp_path, numbered_frames) -> None:
    for name in ("Jump/1", "Jump/2", "Run/1", "Run/2"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "set" / f"{name}.mp4", numbered_frames(12))
    manifest = Manifest.from_folder(tmp_path / "set")
    index_videos(manifest, tmp_path / "set" / "index.parquet")
    assert open_manifest(str(tmp_path / "set" / "index.parquet")).table.equals(manifest.table)
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved" / "index.parquet")
    assert open_manifest(moved).table.equals(Manifest.from_folder(tmp_path / "moved").table)
    entry = open_manifest(moved)[3]
    assert open_index(None, moved, None).facts(entry.path).table.pts.size == 12
    assert open_index(None, str(tmp_path / "moved"), None) is None
    elsewhere = (tmp_path / "moved" / "index.parquet").rename(tmp_path / "index.parquet")
    (back,) = {
        entry.path.parent.parent for entry in open_manifest(str(elsewhere), root=str(tmp_path / "moved"))
    }
    assert back == tmp_path / "moved"


def test_clips_are_the_same_with_and_without(films, index) -> None:
    manifest = Manifest.from_files([films / name for name in FILES])
    stores = FrameStore(SPEC), FrameStore(SPEC, index=open_index(str(index)))
    sets = [TrainClips(manifest, SPEC, store=store, augment=AugmentConfig(), seed=0) for store in stores]
    for epoch in range(3):
        for row in range(len(manifest)):
            one, two = (clips[SampleKey(epoch, row)] for clips in sets)
            assert isinstance(one, ClipItem)
            assert isinstance(two, ClipItem)
            assert torch.equal(one.frames, two.frames)


def test_before_a_run_known_files_are_not_decoded(index, monkeypatch) -> None:
    monkeypatch.setattr(Stream, "__init__", None)
    manifest = open_manifest(str(index))
    kept, bad, _ = readable(manifest, FrameStore(SPEC, index=open_index(str(index))), max_bad=0.5)
    assert {Path(video.path).name for video in bad} == {"empty.mp4", "text.mp4"}
    assert len(kept) == len(manifest) - 2


def test_an_index_names_cached_frames_without_reading_the_files(films, index, tmp_path, monkeypatch) -> None:
    plain = FrameStore(SPEC, cache=str(tmp_path / "cache"))
    assert plain.prepare(films / "plain.mp4")
    monkeypatch.setattr("t3d.io.files.content_digest", None)
    store = FrameStore(SPEC, cache=str(tmp_path / "cache"), index=open_index(str(index)))
    assert store.open(films / "plain.mp4").get(np.array([3])).shape == (1, 3, 32, 53)


def test_an_index_can_be_pickled(films, index) -> None:
    again = pickle.loads(pickle.dumps(VideoIndex.read(index)))
    assert again.facts(films / "plain.mp4").digest == VideoIndex.read(index).facts(films / "plain.mp4").digest
    assert len(again) == len(list(films.iterdir())) - 1


@pytest.mark.parametrize("kind", ["absent", "text", "foreign"])
def test_a_file_that_is_not_an_index_is_an_error(tmp_path, kind) -> None:
    path = tmp_path / "a.parquet"
    if kind == "text":
        path.write_text("no table")
    if kind == "foreign":
        pyarrow.parquet.write_table(pa.table({"path": ["a.mp4"]}), path)
    reason = {
        "absent": "no such file; `t3d prepare index` writes",
        "text": "cannot be read",
        "foreign": "not an index of",
    }
    with pytest.raises(ManifestError, match=rf"a\.parquet: {reason[kind]}"):
        VideoIndex.read(path)


def test_an_index_starts_with_the_columns_of_a_list() -> None:
    assert SCHEMA.names[:5] == ["path", "label", "start", "end", "source"]
    assert VideoIndex(SCHEMA.empty_table()).facts(Path("/nowhere.mp4")) is None


@pytest.mark.parametrize("opens", [1000, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for memory and open files")
def test_opening_many_files_keeps_neither_memory_nor_files(films, index, indexed, opens) -> None:
    store = FrameStore(SPEC, index=VideoIndex.read(index) if indexed else None)
    paths = [films / "plain.mp4", films / "varied.mkv"]

    def used() -> tuple[int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))

    for number in range(opens + 300):
        store.open(paths[number % 2]).get(np.array([1, 3, 5, 7]))
        if number == 300:
            memory, files = used()
    after, left = used()
    assert left == files
    assert after - memory < 4e6


def test_an_older_index_is_read_and_its_files_are_checked_again(
    tmp_path, numbered_frames, read_numbers
) -> None:
    common = write_video(tmp_path / "a.mp4", numbered_frames(20))
    repeated = encode(tmp_path / "b.mkv", numbered_frames(20), "libx264")
    manifest = Manifest.from_files([common, repeated])
    path = tmp_path / "index.parquet"
    index_videos(manifest, path)
    table = pyarrow.parquet.read_table(path).drop_columns(["places", "checked"])
    counted = pa.array([name == "b.mkv" for name in table["path"].to_pylist()])
    wrong = [[10_000] if name == "b.mkv" else steps.as_py() for name, steps in zip(
        table["path"].to_pylist(), table["steps"], strict=True
    )]  # fmt: skip
    table = table.set_column(table.schema.get_field_index("counted"), "counted", counted)
    table = table.set_column(
        table.schema.get_field_index("steps"), "steps", pa.array(wrong, pa.list_(pa.int64()))
    )
    pyarrow.parquet.write_table(table, path)
    known = VideoIndex.read(path)
    with Video(common, facts=known.facts(common)) as video:
        assert video._reader._stream is None  # trusted
        assert read_numbers(video.frames_at([7])) == [7]
    with Video(repeated, facts=known.facts(repeated)) as video:
        assert video.times == pytest.approx(np.arange(20) / 25, abs=1e-3)
    assert index_videos(manifest, path).examined == 2
    assert index_videos(manifest, path).examined == 0
