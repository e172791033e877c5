"""The second decoder gives the frames of the first, or leaves the file to it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
import re
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data import torchcodec_reader
from t3d.data.clips import frames as frames_module
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.torchcodec_reader import TOLERANCE, UnfitError, is_fit, why_not
from t3d.errors import ConfigError
from t3d.prepare.examine import examine
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.video import Video

needs_torchcodec = pytest.mark.skipif(why_not() is not None, reason=f"torchcodec {why_not()}")


def facts_of(path: Path) -> VideoFacts:
    return VideoFacts.of_row(examine(str(path)))


def apart(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


@pytest.fixture(autouse=True)
def _forget_failures(monkeypatch):
    monkeypatch.setattr(torchcodec_reader, "_given_up", set())


@pytest.fixture(scope="module")
def clip(tmp_path_factory, numbered_frames):
    """100 numbered frames at 25 a second, a key frame every 16."""
    return write_video(tmp_path_factory.mktemp("videos") / "a:b clip.mp4", numbered_frames(100))


@pytest.fixture(scope="module")
def facts(clip):
    return facts_of(clip)


# ---- where torchcodec works ----


@needs_torchcodec
def test_any_order_and_repeats_are_the_frames_of_pyav(clip, facts, read_numbers):
    with Video(clip, facts=facts, decoder="torchcodec") as one, Video(clip, facts=facts) as other:
        for order in ([3, 3, 3], [99, 0, 50, 0], [10, 9, 8], np.array([7, 70]), range(0, 100, 33), [5]):
            got, expected = one.frames_at(order), other.frames_at(order)
            assert read_numbers(got) == list(order)
            assert apart(got, expected) <= TOLERANCE
            assert got.shape == expected.shape
            assert got.dtype == torch.uint8
            assert got.stride() == expected.stride()
        assert one.frames_at([]).shape == (0, 3, 48, 80)
        with pytest.raises(IndexError):
            one.frames_at([100])
        assert (one.decoder, other.decoder) == ("torchcodec", "pyav")


@needs_torchcodec
@pytest.mark.parametrize(("width", "space", "full"), [(64, 1, 1), (64, 9, 2), (72, 6, 2), (72, 9, 1)])
def test_colour_space_and_range_are_obeyed(tmp_path, width, space, full):
    path = torchcodec_reader._write_probe(tmp_path / "a.mp4", width, space, full)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (space, full)
    facts = facts_of(path)
    with Video(path, facts=facts, decoder="torchcodec") as one, Video(path, facts=facts) as other:
        assert apart(one.frames_at(range(12)), other.frames_at(range(12))) <= TOLERANCE
        assert one.decoder == "torchcodec"


WAYS = {
    # name: codec, options, whether the container then calls every frame a key frame
    "plain.mkv": ("libx264", {}, False),
    "open.mp4": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}, False),
    "open.ts": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}, False),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}, False),
    "h264.flv": ("libx264", {}, False),
    "h264.mp4": ("libx264", {"x264-params": "bframes=4:keyint=20"}, True),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:bframes=4:keyint=20:min-keyint=20"}, True),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "20"}, True),
    "straight.mp4": ("mpeg4", {"g": "20"}, True),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "lag-in-frames": "16"}, False),
}


@needs_torchcodec
@pytest.mark.parametrize("name", WAYS)
def test_ways_to_a_frame_that_mislead_end_at_the_frames_of_pyav(tmp_path, numbered_frames, name):
    codec, options, lies = WAYS[name]
    path = tmp_path / name
    noise = torch.randint(36, (50, 3, 48, 80), generator=torch.Generator().manual_seed(0))
    images = (numbered_frames(50) + noise.to(torch.uint8)).permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    if lies:  # an MP4 without its table of key frames
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    facts = facts_of(path)
    rng = np.random.default_rng(0)
    with Video(path, facts=facts) as other:
        truth = other.frames_at(range(50))
    for _ in range(12):
        order = rng.integers(50, size=rng.integers(1, 5))
        torchcodec_reader._given_up.clear()
        with Video(path, facts=facts, decoder="torchcodec") as one:
            assert apart(one.frames_at(order), truth[order]) <= TOLERANCE


@needs_torchcodec
def test_interlaced_colours_are_a_little_apart(tmp_path):
    """PyAV's FFmpeg takes them field by field, and nothing that torchcodec tells gives such a file away."""
    y, x = np.mgrid[:48, :80]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1:keyint=15"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for i in range(20):
            image = np.stack([3 * x + 4 * i, 5 * y + 4 * i, 2 * (x + y) + 4 * i], axis=2).clip(max=255)
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = facts_of(tmp_path / "a.mp4")
    with Video(tmp_path / "a.mp4", facts=facts, decoder="torchcodec") as one:
        with Video(tmp_path / "a.mp4", facts=facts) as other:
            assert apart(one.frames_at(range(20)), other.frames_at(range(20))) <= 20
        assert one.decoder == "torchcodec"


@needs_torchcodec
def test_variable_rate(tmp_path, numbered_frames, read_numbers):
    times = np.cumsum([0.0, 0.04, 0.1, 0.02, 0.5, 0.04, 0.3, 0.04])
    path = write_video(tmp_path / "a.mp4", numbered_frames(8), frame_times=times.tolist())
    with Video(path, facts=facts_of(path), decoder="torchcodec") as found:
        assert read_numbers(found.frames_at([6, 1, 4, 7])) == [6, 1, 4, 7]
        assert found.decoder == "torchcodec"


@needs_torchcodec
def test_pickling_threads_and_fork(clip, facts, read_numbers):
    with Video(clip, facts=facts, decoder="torchcodec", threads=2) as one:
        one.frames_at([40])
        again = pickle.loads(pickle.dumps(one))
        assert read_numbers(again.frames_at([41])) == [41]
        assert again.decoder == "torchcodec"

        seen: dict[int, list[int]] = {}

        def read(first: int) -> None:
            seen[first] = read_numbers(one.frames_at(range(first, first + 5)))

        workers = [threading.Thread(target=read, args=(first,)) for first in (0, 60, 30)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert seen == {first: list(range(first, first + 5)) for first in (0, 60, 30)}

        receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=lambda: sender.send((read_numbers(one.frames_at([42])), one.decoder))
        )
        child.start()
        assert receiver.poll(30)
        assert receiver.recv() == ([42], "torchcodec")
        child.join(30)
        assert child.exitcode == 0
        assert read_numbers(one.frames_at([43])) == [43]


@needs_torchcodec
@pytest.mark.real
@pytest.mark.parametrize(
    "pattern", ["originals/v_*_g01_c01.avi", "originals/*_1.mp4", "hockey_fights/train/fight/*.mp4"]
)
def test_real_clips(real_data, pattern):
    for path in sorted(real_data.glob(pattern))[:3]:
        facts = facts_of(path)
        with Video(path, facts=facts, decoder="torchcodec") as one, Video(path, facts=facts) as other:
            order = np.random.default_rng(0).integers(len(one), size=12)
            assert apart(one.frames_at(order), other.frames_at(order)) <= TOLERANCE
            assert one.decoder == "torchcodec" or not is_fit(facts)


@needs_torchcodec
@pytest.mark.real
def test_cached_frames_are_those_that_are_decoded_and_apart_from_pyavs(real_data, tmp_path):
    path = Path(shutil.copy(real_data / "originals" / "v_Surfing_g01_c01.avi", tmp_path))
    index_videos(Manifest.from_files([path]), tmp_path / "index.parquet", workers=1)
    index, spec = VideoIndex.read(tmp_path / "index.parquet"), ClipSpec(resize=64, size=56)
    cache = tmp_path / "c"
    stores = [FrameStore(spec, cache=str(cache), index=index, decoder=who) for who in ("pyav", "torchcodec")]
    for store in stores:
        assert store.prepare(path)
    assert len(list(cache.iterdir())) == 2
    for store in stores:
        decoded = FrameStore(spec, index=index, decoder=store.decoder).open(path)
        for order in (np.array([30, 2, 2]), np.arange(0, 60, 7)):
            assert torch.equal(store.open(path).get(order), decoded.get(order))


ODD = json.loads((Path(__file__).parents[1] / "video" / "odd_videos.json").read_text())
# torchcodec is asked for these and they go back to PyAV: by what only it knows of them (more than 8 bits,
# 4:4:4, RGB), or since it refuses a file that does not say how long it is.
SENT_BACK = re.compile(r"_10bit|_12bit|_hdr\.mp4|_444\.|bitmap|nclx_rgb|test_images/test\.webm")


def compared(path: Path) -> tuple[int, str, bool]:
    """How far pixels are apart, who gave them, and whether torchcodec was to be asked."""
    with Video(path) as plain:  # reading packets is enough here, and quicker than an index
        facts = VideoFacts(
            size=path.stat().st_size,
            modified=0,
            digest="",
            codec=plain._open().video.codec_context.codec.canonical_name,
            table=plain._table,
            stored_size=plain._stored_size,
            orientation=plain._orientation,
            damage=plain.damage,
        )
        numbers = sorted({0, len(plain) // 3, len(plain) // 2, len(plain) - 1})
        truth = plain.frames_at(numbers)
    with Video(path, facts=facts, decoder="torchcodec") as other:
        return apart(other.frames_at(numbers), truth), other.decoder, is_fit(facts)


@needs_torchcodec
@pytest.mark.real
@pytest.mark.parametrize(
    "name", [name for name, found in ODD.items() if not found.get("error") and not found["damage"]]
)
def test_real_oddities(real_data, name):
    """In a process of its own: a crash or a hang there is a plain failure."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(1)  # threads of this process are not in the child, which would wait for them
        sender.send(compared(real_data / "odd_videos" / name))

    child = context.Process(target=work)
    child.start()
    sender.close()
    try:
        assert receiver.poll(60), "no answer within 60 s"
        difference, decoder, fit = receiver.recv()
    finally:
        child.kill()
        child.join()
    assert difference <= TOLERANCE
    assert decoder == ("torchcodec" if fit and not SENT_BACK.search(name) else "pyav")


# ---- where it does not: a stand-in takes its place, so that these run everywhere ----


class StandIn:
    """A torchcodec that reads by PyAV; `change` spoils its answer."""

    def __init__(self, path: Path, change: Any = lambda batch: batch, **metadata: object) -> None:
        self.path, self.change, self.opened = path, change, 0
        self.metadata = SimpleNamespace(**{"pixel_format": "yuv420p", "rotation": None} | metadata)

    def __call__(self, source: str, **_: object) -> StandIn:
        assert source == f"file:{self.path}"
        self.opened += 1
        return self

    def get_frames_at(self, numbers: list[int]) -> Any:
        with Video(self.path) as found:
            times = torch.from_numpy(found.times[numbers])
            return self.change(SimpleNamespace(data=found.frames_at(numbers), pts_seconds=times))


@pytest.fixture
def stand_in(monkeypatch, clip):
    def put(change: Any = lambda batch: batch, **metadata: object) -> StandIn:
        decoder = StandIn(clip, change, **metadata)
        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=decoder))
        monkeypatch.setattr(torchcodec_reader, "require", lambda: None)
        monkeypatch.setattr(frames_module, "require", lambda: None)
        return decoder

    return put


def later(batch: Any) -> Any:
    batch.pts_seconds = batch.pts_seconds + 0.04
    return batch


def smaller(batch: Any) -> Any:
    batch.data = batch.data[..., 1:]
    return batch


def broken(_: Any) -> Any:
    raise RuntimeError("Could not receive frame\nand more")


@pytest.mark.parametrize(
    ("change", "metadata", "said"),
    [
        (later, {}, "another frame comes for frame 5"),
        (smaller, {}, "another size, 79 × 48"),
        (broken, {}, "(Could not receive frame); PyAV"),
        (None, {"pixel_format": "yuv420p10le"}, "of yuv420p10le it may"),
        (None, {"rotation": -90.0}, "turned another way"),
    ],
)
def test_what_is_wrong_goes_to_pyav_and_is_said_once(
    clip, facts, stand_in, read_numbers, caplog, change, metadata, said
):
    decoder = stand_in(change or (lambda batch: batch), **metadata)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        with Video(clip, facts=facts, decoder="torchcodec") as found:
            assert read_numbers(found.frames_at([5, 17])) == [5, 17]
            assert found.decoder == "pyav"
    assert decoder.opened == 1
    assert [record.getMessage().count(said) for record in caplog.records] == [1]
    assert str(clip) in caplog.text


def test_it_is_asked_only_for_what_an_index_knows_to_be_whole(clip, facts, stand_in, read_numbers):
    decoder = stand_in()
    table = facts.table
    unfit = [
        replace(facts, damage="2 frames are patched up"),
        replace(facts, table=replace(table, order=np.arange(100))),
        replace(facts, table=replace(table, key_pts=table.key_pts[1:], key_seek=table.key_seek[1:])),
        replace(facts, codec="hevc", table=replace(table, key_seek=table.key_seek - 1)),
    ]
    for known in (None, *unfit):
        with Video(clip, facts=known, decoder="torchcodec") as found:
            assert read_numbers(found.frames_at([20])) == [20]
    assert decoder.opened == 0
    assert not is_fit(replace(facts, stored_size=(47, 80)))
    assert is_fit(facts)
    with Video(clip, facts=facts, decoder="torchcodec") as found:
        assert read_numbers(found.frames_at([20])) == [20]
        assert found.decoder == "torchcodec"
    assert decoder.opened == 1


def test_no_cache_entry_is_half_of_one_half_of_the_other(clip, stand_in, tmp_path):
    def darker_until_it_breaks(batch: Any) -> Any:
        if batch.pts_seconds.max() > 2:
            raise RuntimeError("no more")
        batch.data = batch.data // 2
        return batch

    stand_in(darker_until_it_breaks)
    index_videos(Manifest.from_files([clip]), tmp_path / "index.parquet", workers=1)
    index, spec = VideoIndex.read(tmp_path / "index.parquet"), ClipSpec(resize=48, size=48)
    store = FrameStore(spec, cache=str(tmp_path / "c"), index=index, decoder="torchcodec")
    assert store.prepare(clip)
    whole = FrameStore(spec).open(clip).get(np.arange(100))
    assert torch.equal(store.open(clip).get(np.arange(100)), whole)


def test_without_an_index_or_without_torchcodec_it_is_refused(clip, facts, monkeypatch):
    with pytest.raises(ConfigError, match="knows to be whole; give the option index"):
        FrameStore(ClipSpec(), decoder="torchcodec")
    monkeypatch.setattr(torchcodec_reader, "why_not", lambda: "cannot be imported")
    with pytest.raises(ConfigError, match="torchcodec, which cannot be imported; or leave decoder out"):
        Video(clip, facts=facts, decoder="torchcodec")
    with pytest.raises(ValueError, match="decoder is 'auto'; it must be one of pyav, torchcodec"):
        Video(clip, decoder="auto")


def test_the_probe_sees_what_is_missing_broken_or_wrong(monkeypatch):
    probe = why_not.__wrapped__
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert "cannot be imported" in probe()
    assert "pip install 't3d[torchcodec]'" in probe()

    def brighter(batch: Any) -> Any:
        batch.data = (batch.data.int() + TOLERANCE + 1).clamp(max=255).to(torch.uint8)
        return batch

    for change, said in (
        (lambda batch: batch, None),
        (brighter, "gives other pixels than PyAV, up to 5 of 255"),
        (later, "another frame comes for frame 11"),
        (broken, "Could not receive frame"),
    ):

        def stand_in(source: str, change: Any = change, **_: object) -> StandIn:
            return StandIn(Path(source.removeprefix("file:")), change)

        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=stand_in))
        found = probe()
        assert found is None if said is None else said in found


def test_an_old_version_is_no_crash(clip, facts, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=lambda _: None))
    reader = torchcodec_reader.TorchcodecReader(clip, table=facts.table, shape=(48, 80))
    with pytest.raises(UnfitError, match="unexpected keyword"):
        reader.frames_at(np.array([3]))
