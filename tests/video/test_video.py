from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace

from t3d.errors import VideoError
from t3d.prepare.examine import examine
from t3d.video import frame_table, stream, tonemap
from t3d.video import video as video_module
from t3d.video.batch import VideoMetadata
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.orientation import Orientation
from t3d.video.video import Video


def oracle(path: Path) -> list[np.ndarray]:
    """Every frame, by one plain loop from start to end; what cannot be decoded is left out."""
    frames = []
    with av.open(str(path)) as container:
        video = container.streams.best("video")
        packets = container.demux(video)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            try:
                decoded = video.codec_context.decode(packet)
            except av.FFmpegError:
                decoded = []
            for frame in decoded:
                turns = round(frame.rotation / 90) if abs(frame.rotation) <= 180 else 0
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), turns))
            if packet is None or packet.size == 0:
                return frames


def assert_like_oracle(path: Path, *, seed: int = 0, rounds: int = 4) -> None:
    truth = oracle(path)
    rng = random.Random(seed)
    with Video(path) as video:
        assert len(video) == video.metadata.num_frames == len(truth)
        count = len(truth)
        orders = [[rng.randrange(count) for _ in range(6)] for _ in range(rounds)]
        start = rng.randrange(count)
        orders += [[count - 1], [0], [count // 2] * 3, [(start + 2 * i) % count for i in range(8)]]
        for order in orders:
            frames = video.frames_at(order)
            assert frames.dtype == torch.uint8
            assert frames.shape == (len(order), 3, video.height, video.width)
            for i, frame in zip(order, frames, strict=True):
                assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[i]), f"frame {i} of order {order}"
        assert_sequence(video, truth, start)


def assert_sequence(video: Video, truth: list[np.ndarray], start: int) -> None:
    """Brackets, ranges and a loop give what full decoding gave."""
    count = len(truth)
    numbers = list(range(count))

    def assert_same(frames: torch.Tensor, wanted: list[int]) -> None:
        assert frames.shape == (len(wanted), 3, video.height, video.width)
        for frame, i in zip(frames, wanted, strict=True):
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[i])

    for key in (start, np.int32(start), start - count, -1):
        assert_same(video[key][None], [numbers[key]])
    for part in (slice(start, start + 5), slice(-4, None), slice(None, None, -7), slice(start, start)):
        assert_same(video[part], numbers[part])
    batch = video.frames_in(start, count, step=3)
    assert_same(batch.data, numbers[start::3])
    assert np.array_equal(batch.times, video.times[start::3])
    looped = 0
    for i, frame in enumerate(video):
        assert_same(frame[None], [i])
        looped += 1
    assert looped == count


def encode(path, images, codec, *, pixel_format="yuv420p", gop=12, b_frames=None, first=0, **options):
    """Write T C H W by PyAV alone, so that what write_video would not write can be made, too."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        video.height, video.width = images.shape[2:]
        video.pix_fmt = pixel_format
        video.codec_context.gop_size = gop
        if b_frames is not None:
            video.codec_context.max_b_frames = b_frames
        for i, image in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
            frame.pts = first + i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def write_audio(path: Path, codec: str = "aac", container_format: str | None = None) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        audio = container.add_stream(codec, rate=44100)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="stereo")
            frame.sample_rate, frame.pts = 44100, i * 1024
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def clip(folder, numbered_frames):
    """100 numbered frames at 25 per second, with a key frame every 16."""
    return write_video(folder / "clip.mp4", numbered_frames(100))


# ---- which frame comes back ----

KINDS = {
    "b-frames.mp4": ("libx264", {"x264-params": "bframes=5:b-pyramid=normal"}),
    "one-group.mp4": ("libx264", {"gop": 1000}),
    "open-gop.mp4": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}),
    "open-gop.ts": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}),
    "intra-refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    "interlaced.mp4": ("libx264", {"x264-params": "tff=1:keyint=15"}),
    "h264.avi": ("libx264", {}),
    "h264.mkv": ("libx264", {}),
    "h264.flv": ("libx264", {}),
    "h264.ts": ("libx264", {}),
    "raw.h264": ("libx264", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "mpeg4-b.avi": ("mpeg4", {"b_frames": 2}),
    "mpeg4-b.mp4": ("mpeg4", {"b_frames": 2}),
    "raw.m4v": ("mpeg4", {"b_frames": 2}),
    "mjpeg.avi": ("mjpeg", {"pixel_format": "yuvj420p"}),
    "mpeg2.ts": ("mpeg2video", {"b_frames": 2}),
    "mpeg2.mpg": ("mpeg2video", {"b_frames": 2}),
    "vp8.webm": ("libvpx", {"auto-alt-ref": 1, "lag-in-frames": 16, "b": "100k"}),
    "vp9.webm": ("libvpx-vp9", {"auto-alt-ref": 1, "lag-in-frames": 16, "b": "100k"}),
    "lossless.mkv": ("ffv1", {"pixel_format": "bgr0"}),
    "gray.mkv": ("ffv1", {"pixel_format": "gray"}),
    "alpha.mov": ("png", {"pixel_format": "rgba"}),
    "palette.gif": ("gif", {"pixel_format": "rgb8"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_file_is_exact(tmp_path, numbered_frames, read_numbers, name):
    codec, options = KINDS[name]
    path = encode(tmp_path / name, numbered_frames(50), codec, **options)
    assert_like_oracle(path)
    with Video(path) as video:
        assert read_numbers(video.frames_at(range(49, -1, -7))) == list(range(49, -1, -7))
        assert video.damage is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": Fraction(30000, 1001)},
        {"keyframe_interval": 1},
        {"keyframe_interval": 250},
        {"pixel_format": "yuv444p"},
        {"pixel_format": "yuv420p10le"},
        {"codec": "libx264rgb", "pixel_format": "rgb24"},
    ],
)
def test_files_of_write_video_read_back_exactly(tmp_path, numbered_frames, read_numbers, options):
    path = write_video(tmp_path / "a.mp4", numbered_frames(60), **options)
    assert_like_oracle(path)
    with Video(path) as video:
        assert read_numbers(video.frames_at(range(60))) == list(range(60))


def test_false_key_frame_flags_are_detected(tmp_path, numbered_frames, read_numbers):
    for codec in ("libx264", "mpeg4"):
        path = encode(tmp_path / f"{codec}.mp4", numbered_frames(50), codec, gop=20, b_frames=0)
        # Without its table of key frames, an MP4 says that every frame is one.
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
        assert_like_oracle(path)
        with Video(path) as video:
            assert read_numbers(video.frames_at([33, 7])) == [33, 7]


def test_a_stream_that_starts_within_a_group(tmp_path, numbered_frames, read_numbers):
    path = encode(tmp_path / "a.ts", numbered_frames(60), "libx264")
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])
    assert_like_oracle(path)
    with Video(path) as video:
        numbers = read_numbers(video.frames_at(range(len(video))))
        assert numbers == list(range(60 - len(video), 60))


def test_time_stamps_that_start_again_fall_back_to_counting(tmp_path, numbered_frames, read_numbers):
    path = encode(tmp_path / "a.ts", numbered_frames(30), "mpeg2video")
    path.write_bytes(path.read_bytes() * 2)
    assert_like_oracle(path)
    with Video(path) as video:
        assert read_numbers(video.frames_at([5, 35, 59])) == [5, 5, 29]
        assert (np.diff(video.times) > 0).all()


def test_any_order_and_repeats(clip, read_numbers):
    with Video(clip) as video:
        for order in ([3, 3, 3], [99, 0, 50, 0], [10, 9, 8], np.array([7, 70]), range(0, 100, 33), [5]):
            assert read_numbers(video.frames_at(order)) == list(order)


def test_no_frames_are_an_empty_tensor(clip):
    with Video(clip) as video:
        assert video.frames_at([]).shape == (0, 3, 48, 80)


def test_outside_is_an_index_error(clip, read_numbers):
    with Video(clip) as video:
        for order in ([100], [-1], [5, 1000]):
            with pytest.raises(IndexError, match="outside 0 … 99"):
                video.frames_at(order)
        with pytest.raises(TypeError, match="integers"):
            video.frames_at([1.5])
        assert read_numbers(video.frames_at([4])) == [4]


def test_brackets_take_numbers_and_slices(clip, read_numbers):
    with Video(clip) as video:
        assert video[7].shape == (3, 48, 80)
        assert read_numbers(torch.stack([video[0], video[-100], video[99], video[np.int64(-1)]])) == [
            0,
            0,
            99,
            99,
        ]
        assert read_numbers(video[96:1000]) == [96, 97, 98, 99]
        assert read_numbers(video[5::-2]) == [5, 3, 1]
        assert video[100:].shape == (0, 3, 48, 80)
        for number in (100, -101):
            with pytest.raises(IndexError, match=rf"clip\.mp4: frame {number} is outside -100 … 99"):
                video[number]
        for key in ([1, 2], 1.0, "1"):
            with pytest.raises(TypeError, match=f"integer or a slice in brackets, got {type(key).__name__}"):
                video[key]


def test_a_range_of_frames_comes_with_times(clip, read_numbers):
    with Video(clip) as video:
        batch = video.frames_in(90, 100, step=4)
        assert read_numbers(batch.data) == [90, 94, 98]
        assert batch.times == pytest.approx([3.6, 3.76, 3.92])
        assert batch.durations == pytest.approx([0.04] * 3)
        assert len(video.frames_in(0, 0)) == len(video.frames_in(100, 100)) == 0
        for start, stop in ((-1, 5), (5, 4), (90, 101)):
            with pytest.raises(IndexError, match=f"frames {start} to {stop} are not a range within 0 … 100"):
                video.frames_in(start, stop)
        with pytest.raises(ValueError, match="step is 0"):
            video.frames_in(0, 5, step=0)


def test_metadata_matches_decoded_frames(tmp_path, clip, numbered_frames):
    with Video(clip) as video:
        assert video.metadata == VideoMetadata(
            num_frames=100,
            duration=4.0,
            average_fps=25.0,
            height=48,
            width=80,
            codec="h264",
            orientation=Orientation(),
            damage=None,
        )
    cut = tmp_path / "cut.mp4"
    whole = clip.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with Video(cut) as video:
        assert 0 < video.metadata.num_frames == len(video) < 100
        assert video.metadata.damage == video.damage
        assert video.damage is not None
    with Video(encode(tmp_path / "a.avi", numbered_frames(4), "mpeg4")) as video:
        assert (video.metadata.num_frames, video.metadata.codec) == (4, "mpeg4")


# ---- how much work it is ----


@pytest.fixture
def decoded_packets(monkeypatch):
    counted = []
    plain = stream.Stream.decode

    def counting(self, packet):
        counted.append(packet)
        return plain(self, packet)

    monkeypatch.setattr(stream.Stream, "decode", counting)
    return counted


def test_only_needed_frames_are_decoded(clip, decoded_packets):
    with Video(clip) as video:
        decoded_packets.clear()
        video.frames_at([3, 1, 3, 2, 3])
        assert len(decoded_packets) < 16  # four frames and the decoder's delay
        decoded_packets.clear()
        video.frames_at([90])
        assert len(decoded_packets) < 28  # from the key frame before it


@pytest.fixture
def decoded_frames(monkeypatch):
    """Counts the frames that decoders give."""
    counted = []
    plain = stream.Stream.decode

    def counting(self, packet):
        frames = plain(self, packet)
        counted.extend(frame.pts for frame in frames)
        return frames

    monkeypatch.setattr(stream.Stream, "decode", counting)
    return counted


LEAVES = {
    "h264.mp4": ("libx264", {"x264-params": "bframes=3:b-adapt=0:b-pyramid=none:scenecut=0"}, 1 / 4),
    "pyramid.mkv": ("libx264", {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}, 1 / 2),
    "mpeg4.mp4": ("mpeg4", {"b_frames": 3, "b_strategy": 0}, 1 / 4),
    "mpeg2.ts": ("mpeg2video", {"b_frames": 3, "b_strategy": 0, "sc_threshold": 1000000000}, 1 / 4),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", LEAVES)
def test_unneeded_frames_are_not_decoded(tmp_path, numbered_frames, decoded_frames, name, threads):
    codec, options, share = LEAVES[name]
    count = 160
    path = encode(tmp_path / name, numbered_frames(count), codec, gop=1000, **options)
    truth = oracle(path)
    with Video(path, threads=threads) as video:
        video.frames_at([0])
        for wanted in ([150], range(32, 96, 2), range(30, 150, 8), [140, 9, 9, 77]):
            decoded_frames.clear()
            got = video.frames_at(list(wanted))
            for frame, number in zip(got, wanted, strict=True):
                assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[number])
            # Reference frames, the requested frames, and the frames of the decoder's delay after them.
            assert len(decoded_frames) <= max(wanted) * share + len(wanted) + 8
            assert video.damage is None


def test_frames_after_a_clip_are_kept_for_the_next_one(tmp_path, numbered_frames, decoded_packets):
    path = encode(tmp_path / "a.mp4", numbered_frames(160), "libx264", gop=1000)
    truth = oracle(path)
    with Video(path) as video:
        decoded_packets.clear()
        for first in range(0, 150, 5):
            for number, frame in zip((first, first + 3), video.frames_at([first, first + 3]), strict=True):
                assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[number])
        assert len(decoded_packets) < 170  # no going back, no second look at a packet


def test_consecutive_clips_continue_decoding(clip, decoded_packets, read_numbers):
    with Video(clip) as video:
        video.frames_at([0])
        decoded_packets.clear()
        for i in range(1, 80):
            assert read_numbers(video.frames_at([i])) == [i]
        assert len(decoded_packets) < 100


@pytest.mark.parametrize("kind", ["b-frames.mp4", "one-group.mp4", "mpeg2.mpg", "mpeg4-b.avi"])
def test_a_loop_decodes_each_packet_once(tmp_path, numbered_frames, decoded_packets, monkeypatch, kind):
    codec, options = KINDS[kind]
    path = encode(tmp_path / kind, numbered_frames(100), codec, **options)
    with Video(path) as video:
        opened = []
        monkeypatch.setattr(stream.Stream, "__init__", _counted(stream.Stream.__init__, opened))
        seeks = []
        monkeypatch.setattr(stream.Stream, "seek", _counted(stream.Stream.seek, seeks))
        decoded_packets.clear()
        kept = [frame[:, :1, :1].clone() for frame in video]
        assert len(kept) == 100
        assert len(decoded_packets) <= 102  # the packets, and the decoder's flush
        assert len(opened) + len(seeks) <= 2


def test_a_loop_holds_one_frame_at_a_time(clip, monkeypatch):
    sizes = []
    plain = Video.frames_at
    monkeypatch.setattr(Video, "frames_at", lambda video, i: (sizes.append(len(i)), plain(video, i))[1])
    with Video(clip) as video:
        assert sum(1 for _ in video) == 100
    assert set(sizes) == {1}


def test_a_loop_may_read_other_frames_meanwhile(clip, read_numbers):
    with Video(clip) as video:
        seen = []
        for frame in video:
            assert read_numbers(video[10:12]) == [10, 11]
            seen.append(frame)
        assert read_numbers(torch.stack(seen)) == list(range(100))


def _counted(plain, calls):
    def counting(*args, **kwargs):
        calls.append(args)
        return plain(*args, **kwargs)

    return counting


def test_scan_is_skipped_if_packets_are_sufficient(folder, clip, numbered_frames, monkeypatch):
    avi = encode(folder / "plain.avi", numbered_frames(30), "mpeg4")
    packed = encode(folder / "b.avi", numbered_frames(30), "mpeg4", b_frames=2)
    scans = []
    plain = frame_table.scan_table

    def counting(opened, table, **options):
        scans.append(opened.path)
        return plain(opened, table, **options)

    for module in ("opening", "reader"):
        monkeypatch.setattr(f"t3d.video.{module}.scan_table", counting)
    for path in (clip, avi, packed):
        with Video(path) as video:
            video.frames_at([20, 3])
    assert scans == [packed]


# ---- time ----


def on_screen(video: Video, start: float, stop: float) -> list[int]:
    """Frames whose time on screen overlaps a span, one by one."""
    bounds = [*video.times, video.duration]
    return [i for i in range(len(video)) if bounds[i] < stop and bounds[i + 1] > start]


def test_frames_played_in_a_span(tmp_path, numbered_frames, read_numbers):
    times = np.cumsum(np.random.default_rng(1).uniform(0.005, 0.3, 40))
    path = write_video(tmp_path / "a.mp4", numbered_frames(40), frame_times=times.tolist())
    rng = np.random.default_rng(2)
    with Video(path) as video:
        spans = np.sort(rng.uniform(0, video.duration, (30, 2)), axis=1).tolist()
        spans += [[0.0, video.duration], [video.times[3], video.times[5]], [0.0, video.times[1]]]
        for start, stop in spans:
            batch = video.frames_played_in(start, stop)
            assert read_numbers(batch.data) == on_screen(video, start, stop)
            for number, (_, time, duration) in zip(on_screen(video, start, stop), batch, strict=True):
                assert time == video.times[number]
                assert time + duration == pytest.approx([*video.times, video.duration][number + 1])


def test_edges_of_a_span(clip, read_numbers):
    with Video(clip) as video:
        assert read_numbers(video.frames_played_in(3 / 25, 6 / 25).data) == [3, 4, 5]
        assert read_numbers(video.frames_played_in(0.13, 0.14).data) == [3]
        assert read_numbers(video.frames_played_in(3.96, 4.0).data) == [99]
        assert len(video.frames_played_in(0.13, 0.13)) == len(video.frames_played_in(4.0, 4.0)) == 0
        for start, stop in ((-0.1, 1), (2, 1), (0, 4.1), (float("nan"), 1)):
            with pytest.raises(IndexError, match=r"s is not a span within 0 … 4\.000000 s"):
                video.frames_played_in(start, stop)


def test_times_of_an_odd_rate(tmp_path, numbered_frames):
    with Video(write_video(tmp_path / "a.mp4", numbered_frames(61), fps=Fraction(30000, 1001))) as video:
        assert video.times == pytest.approx(np.arange(61) * 1001 / 30000, abs=1e-9)
        assert video.duration == pytest.approx(61 * 1001 / 30000)
        assert video.metadata.average_fps == pytest.approx(30000 / 1001)
        assert [video.index_at(i / 29.97002997) for i in range(61)] == list(range(61))


def test_variable_rate(tmp_path, numbered_frames, read_numbers):
    times = np.cumsum(np.random.default_rng(0).uniform(0.005, 0.3, 60))
    path = write_video(tmp_path / "a.mp4", numbered_frames(60), frame_times=times.tolist())
    assert_like_oracle(path)
    with Video(path) as video:
        assert video.times == pytest.approx(times - times[0], abs=1e-5)
        asked = np.random.default_rng(1).uniform(0, video.times[-1], 50)
        slow = [max(i for i in range(60) if video.times[i] <= second) for second in asked]
        assert [video.index_at(second) for second in asked] == slow
        assert read_numbers(video.frames_at_times(asked[:9])) == slow[:9]


def test_edges_of_time(clip):
    with Video(clip) as video:
        assert video.duration == pytest.approx(4)
        assert [video.index_at(t) for t in (0, 0.039, 0.04, 0.041, 3.959, 3.96, 3.999, 4)] == [
            0, 0, 1, 1, 98, 99, 99, 99,
        ]  # fmt: skip
        assert [video.index_at(second) for second in video.times] == list(range(100))
        for outside in (-0.001, 4.001, float("nan"), float("inf")):
            with pytest.raises(IndexError, match="outside"):
                video.index_at(outside)


def test_a_late_first_frame_is_time_zero(tmp_path, numbered_frames):
    path = encode(tmp_path / "a.mkv", numbered_frames(20), "libx264", first=50)
    with Video(path) as video:
        assert video.times[0] == 0
        assert video.index_at(0.4) == 10


def test_one_frame_and_one_pixel(tmp_path, numbered_frames):
    for codec, name in (("libx264", "a.mp4"), ("mpeg4", "a.avi"), ("mpeg2video", "a.mpg")):
        with Video(encode(tmp_path / name, numbered_frames(1), codec)) as video:
            assert len(video) == 1
            assert video.frames_at([0, 0]).shape == (2, 3, 48, 80)
            assert video.duration > 0
            assert video.metadata.average_fps > 0
            assert video.index_at(0) == video.index_at(video.duration) == 0
    dot = torch.full((3, 3, 1, 1), 200, dtype=torch.uint8)
    with Video(write_video(tmp_path / "dot.mp4", dot, pixel_format="yuv444p")) as video:
        assert (video.height, video.width) == (1, 1)
        assert (video.frames_at([2]).int() - 200).abs().max() <= 3


# ---- how it looks ----

ONE = 1 << 16
TURNS = {
    "clockwise 90": ((0, ONE, -ONE, 0), lambda image: np.rot90(image, -1)),
    "180": ((-ONE, 0, 0, -ONE), lambda image: np.rot90(image, 2)),
    "clockwise 270": ((0, -ONE, ONE, 0), lambda image: np.rot90(image, 1)),
    "left is right": ((-ONE, 0, 0, ONE), np.fliplr),
    "top is bottom": ((ONE, 0, 0, -ONE), np.flipud),
    "transposed": ((0, ONE, ONE, 0), lambda image: image.transpose(1, 0, 2)),
    "7 degrees": ((65047, 7987, -7987, 65047), lambda image: image),
    "no matrix at all": ((0, 0, 0, 0), lambda image: image),
}


@pytest.mark.parametrize("name", TURNS)
def test_rotation_metadata(tmp_path, name):
    (a, b, c, d), turn = TURNS[name]
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32] = 255, 0, 0
    image[:16, 32:] = 0, 255, 0
    image[16:, :32] = 0, 0, 255
    frames = torch.from_numpy(image).permute(2, 0, 1).repeat(3, 1, 1, 1)
    path = write_video(tmp_path / "a.mp4", frames, codec="libx264rgb", pixel_format="rgb24", crf=0)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # name, version, four times and numbers, layer, volume; then the matrix
    assert struct.unpack(">5i", data[at : at + 20]) == (ONE, 0, 0, 0, ONE)
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    path.write_bytes(data)
    expected = turn(image)
    with Video(path) as video:
        assert (video.height, video.width) == expected.shape[:2]
        shown = video.frames_at([1])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(shown, expected)


@pytest.mark.parametrize("space", [("ITU709", 1), ("ITU601", 6), ("BT2020", 9)])
@pytest.mark.parametrize("full", [False, True])
def test_color_space_and_range_of_the_stream_are_used(tmp_path, space, full):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (180, 100, 50)]
    name, number = space
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1"})
        video.height = video.width = 32
        video.pix_fmt = "yuv420p"
        video.codec_context.colorspace = number
        video.codec_context.color_range = 2 if full else 1
        for i, color in enumerate(colors):
            image = np.broadcast_to(np.array(color, np.uint8), (32, 32, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace[name],
                dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            )
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with Video(path) as video:
        shown = video.frames_at(range(len(colors))).int()
    wanted = torch.tensor(colors)[:, :, None, None]
    assert (shown - wanted).abs().max() <= 5


@pytest.mark.situation(
    "Video files",
    "The size of frames changes in the middle",
    "Scaled to the first size; noted as damage",
    ffmpeg="the same",
)
def test_frames_of_another_size_are_scaled_to_the_first(tmp_path, numbered_frames, read_numbers):
    small = encode(tmp_path / "small.ts", numbered_frames(20), "libx264")
    large = encode(tmp_path / "large.ts", numbered_frames(20, height=96, width=160), "libx264", first=20)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with Video(path) as video:
        assert len(video) == 40
        assert read_numbers(video.frames_at([2, 19])) == [2, 19]
        assert "scaled" not in video.damage
        last = video.frames_at([30, 2])
        assert read_numbers(last) == [10, 2]
        assert video.damage.endswith(
            "frame 30 is 160 × 96, the first 80 × 48: all are scaled to the size of the first"
        )
    facts = VideoFacts.of_row(examine(str(path)))
    with Video(path, facts=facts) as video:
        assert torch.equal(video.frames_at([30, 2]), last)
        assert video.damage == facts.damage
        assert video.damage.endswith(
            "frame 20 is 160 × 96, the first 80 × 48: all are scaled to the size of the first"
        )


@pytest.mark.real
def test_a_reported_file_that_changes_its_size(real_data):
    with Video(real_data / "reported" / "reschange.webm") as video:
        frames = video.frames_at([0, 24, 25, 49])
        assert frames.shape == (4, 3, 120, 160)
        assert "all are scaled to the size of the first" in video.damage


@pytest.mark.situation(
    "Video files",
    "HDR video looks gray",
    "Noted; `clip.tonemap` converts it",
    ffmpeg="no tone mapping",
)
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_a_high_dynamic_range_is_noted(tmp_path, numbered_frames, transfer, name):
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width = 48, 80
        video.pix_fmt = "yuv420p10le"
        video.codec_context.color_trc = transfer
        for image in numbered_frames(2).permute(0, 2, 3, 1).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p10le")
            frame.color_trc = transfer  # reformatting to it takes seconds, and the pixels do not matter here
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    remark = f"HDR ({name}): read without tone mapping, unless clip.tonemap is on"
    assert examine(str(path))["damage"] == remark
    with Video(path) as video:
        assert video.damage == remark


@pytest.mark.situation(
    "Video files",
    "One bit per pixel is inverted",
    "Not inverted",
    ffmpeg="the same",
)
@pytest.mark.parametrize("form", ["monob", "monow"])
@pytest.mark.parametrize("ending", ["avi", "mov", "nut"])
def test_black_and_white_videos_are_not_inverted(tmp_path, form, ending):
    """One bit per pixel; AVI and MOV hold a palette of two colors, which decoders forget by a seek."""
    image = np.zeros((48, 80), np.uint8)
    image[:, :20] = 255
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("rawvideo", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, form
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(image, format="gray").reformat(format=form)
            container.mux(video.encode(frame))
    with av.open(str(path)) as container:  # as FFmpeg reads it from start to end
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    facts = VideoFacts.of_row(examine(str(path)))
    for known in (None, facts):
        with Video(path, facts=known) as video:
            for number in (2, 0, 1):
                assert np.array_equal(video[number].permute(1, 2, 0).numpy(), truth[number])
    if ending != "avi" or form == "monob":
        assert truth[0][:, :20].min() > 200 > 50 > truth[0][:, 20:].max()


def test_tone_mapping_converts_to_a_standard_range(tmp_path, monkeypatch):
    path = tmp_path / "pq.mkv"
    codes = np.arange(0, 1024, 16, dtype="<u2")
    image = np.repeat(np.repeat(codes[None, :, None], 2, 0), 3, 2)  # H W C, gray
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = 2, len(codes), "gbrp10le"
        video.codec_context.color_trc, video.codec_context.color_primaries = 16, 9
        container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="gbrp10le")))
        container.mux(video.encode(None))
    # Brightness of each code by the standard (SMPTE ST 2084), in cd/m²
    value = (codes / 1023) ** (32 / 2523)
    nits = 1e4 * (np.maximum(value - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * value)) ** (16384 / 2610)
    with Video(path) as video:
        plain = video[0][0, 0].double().numpy()
    with Video(path, tonemap=True) as video:
        mapped = video[0][0, 0].double().numpy()
        assert (video[0].double() - video[0].double().mean(0)).abs().max() <= 2  # gray stays gray
    monkeypatch.setattr(tonemap, "_graph", None)  # it takes seconds: the next file must not need another
    with Video(path, tonemap=True) as video:
        assert np.array_equal(video[0][0, 0].double().numpy(), mapped)
    assert np.allclose(plain, codes / 1023 * 255, atol=2)
    assert (np.diff(mapped) >= 0).all()
    assert mapped[-1] > 240
    assert mapped[nits < 0.01].max() < 10
    assert (mapped < plain)[(nits > 1) & (nits < 50)].all()  # dark parts are not lifted to gray


@pytest.mark.situation(
    "Video files",
    "Pixels that are not square (DV, broadcast)",
    "Ignored by default; `clip.pixel_aspect` square corrects it",
    ffmpeg="ignored in raw frames",
)
def test_the_shape_of_pixels_is_known_with_and_without_an_index(tmp_path, numbered_frames):
    path = tmp_path / "dv.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for image in numbered_frames(4).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    row = examine(str(path))
    assert row["pixel_aspect"] == "64/45"
    older = VideoFacts.of_row(row | {"pixel_aspect": None})  # of an index that did not have the column
    for facts in (None, VideoFacts.of_row(row), older):
        with Video(path, facts=facts) as video:
            assert video.metadata.pixel_aspect == video.pixel_aspect == Fraction(64, 45)
            assert video[0].shape == (3, 48, 80)


@pytest.mark.parametrize(("together", "expected"), [(0, [1, 1, 1]), (4 * 48 * 80, [4])])
def test_large_frames_are_transformed_as_they_are_decoded(clip, monkeypatch, together, expected):
    shapes = []
    monkeypatch.setattr(video_module, "_TOGETHER", together)

    def half(frame):
        shapes.append(tuple(frame.shape))
        return frame[..., ::2, ::2]

    with Video(clip) as video:
        whole = video.frames_at([5, 3, 5, 40])
        assert torch.equal(video.frames_at([5, 3, 5, 40], transform=half), whole[..., ::2, ::2])
        assert shapes == [(count, 3, 48, 80) for count in expected]


def test_a_cover_picture_is_not_a_video(tmp_path, numbered_frames, read_numbers):
    def add_cover(container):
        cover = container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 640, 640, "rgb24"
        cover.disposition = Disposition.attached_pic
        return cover

    picture = av.VideoFrame.from_ndarray(np.zeros((640, 640, 3), np.uint8), format="rgb24")
    plain = encode(tmp_path / "plain.mp4", numbered_frames(10), "libx264")
    path = tmp_path / "both.mp4"
    with av.open(str(path), "w") as container, av.open(str(plain)) as source:
        cover = add_cover(container)
        video = container.add_stream_from_template(source.streams.video[0])
        container.mux(cover.encode(picture))
        container.mux(cover.encode(None))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    with Video(path) as opened:
        assert read_numbers(opened.frames_at([0, 9])) == [0, 9]


# ---- what cannot be read ----


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 50)
    (folder / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    (folder / "folder.mp4").mkdir(exist_ok=True)
    return {
        "missing": (folder / "missing.mp4", "no such file"),
        "zero bytes": (folder / "zero.mp4", "empty"),
        "text": (folder / "text.mp4", "not a video, or its header is truncated"),
        "playlist": (folder / "list.mp4", "not a video, or its header is truncated"),
        "script": (folder / "concat.mp4", "is not a video container"),
        "folder": (folder / "folder.mp4", "folder"),
        "audio": (write_audio(folder / "audio.mp4"), "no video stream, only audio"),
        "mp3": (write_audio(folder / "a.mp3", "mp3"), "is an audio file, not a video .MP2/3"),
        "wav": (write_audio(folder / "a.wav", "pcm_s16le"), "is an audio file, not a video .WAV"),
        "flac": (write_audio(folder / "a.flac", "flac"), "is an audio file, not a video .raw FLAC"),
        "mp3 named as a video": (
            write_audio(folder / "b.mp4", "mp3", "mp3"),
            "is an audio file, not a video",
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("missing", "zero bytes", "text", "playlist", "script", "folder"),
        *("audio", "mp3", "wav", "flac", "mp3 named as a video"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_video_is_one_error_with_path_and_reason(folder, clip, capfd, name):
    assert clip.exists()
    path, reason = unreadable(folder)[name]
    with pytest.raises(VideoError, match=reason) as caught:
        Video(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason) == (caught.value.path, caught.value.reason)
    assert capfd.readouterr() == ("", "")


def test_encrypted_videos_are_reported_as_such(tmp_path, numbered_frames):
    path = encode(tmp_path / "a.mp4", numbered_frames(10), "libx264")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = random.Random(0).randbytes(end - start)
    path.write_bytes(data.replace(b"avc1", b"encv"))
    with pytest.raises(VideoError, match="encrypted"):
        Video(path)


def test_an_index_beyond_all_bounds_is_refused(clip, monkeypatch):
    monkeypatch.setattr(stream, "size_of", lambda _: -950)
    with pytest.raises(VideoError, match="over 50 frames"):
        Video(clip)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_cut_off_anywhere(tmp_path, numbered_frames, read_numbers, capfd, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        for image in numbered_frames(60).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    whole = path.read_bytes()
    readable = 0
    for share in (0.01, 0.2, 0.4, 0.6, 0.8, 0.97, 1):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            video = Video(path)
        except VideoError:
            continue
        readable += 1
        assert_like_oracle(path)
        sound = list(range(len(video) - 4))
        assert read_numbers(video.frames_at(sound)) == sound
    assert readable >= (1 if name.endswith("avi") else 3)
    assert capfd.readouterr().err == ""


def test_cut_off_is_noted(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    data = clip.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with Video(path) as video:
        assert 20 < len(video) < 100
        assert video.damage is not None


def test_cut_off_between_two_frames_is_noted(clip, tmp_path):
    with av.open(str(clip)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: ends[59]])
    with Video(path) as video:
        assert len(video) == 60
        assert "cut off: 40 of the frames" in video.damage
    path.write_bytes(clip.read_bytes()[: ends[0] - 100])
    with pytest.raises(VideoError, match="is cut off: 100 of the frames"):
        Video(path)


def test_only_the_undecodable_frame_is_an_error(clip, tmp_path, read_numbers):
    with av.open(str(clip)) as container:
        packets = [(p.pts, p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    shown = sorted(pts for pts, _, _, _ in packets)
    data = bytearray(clip.read_bytes())
    # A frame in the second group of which its successors in decoding make no use: the last one decoded there.
    keys = [i for i, packet in enumerate(packets) if packet[3]]
    pts, position, size, _ = packets[keys[2] - 1]
    bad = shown.index(pts)
    data[position : position + size] = b"\xff" * size
    path = tmp_path / "rotten.mp4"
    path.write_bytes(data)
    with Video(path) as video:
        assert len(video) == 100
        for _ in range(2):
            with pytest.raises(VideoError, match=f"frame {bad}, at {bad / 25:.3f} s, cannot be decoded"):
                video.frames_at([3, bad, 50])
        assert read_numbers(video.frames_at([3, bad + 1, 50, 99])) == [3, bad + 1, 50, 99]
        assert video.damage is not None
    with Video(path) as video:
        assert read_numbers(video.frames_at([99, 50, 3])) == [99, 50, 3]


def test_a_number_of_frames_once_reported_stays(tmp_path, numbered_frames):
    quiet = {"x265-params": "log-level=none"}
    path = encode(tmp_path / "a.mp4", numbered_frames(30), "libx265", gop=30, **quiet)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    # FFmpeg's HEVC decoder leaves out frames that it cannot decode without an error.
    sound, missing = path.read_bytes(), 0
    for seed in range(20):
        rng = random.Random(seed)
        data = bytearray(sound)
        position, size = packets[rng.randrange(1, len(packets))]
        for _ in range(3):
            data[position + 6 + rng.randrange(size - 6)] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        reasons = []
        with Video(path) as video:
            count = len(video)
            for number in range(count):
                try:
                    assert video.frames_at([number]).shape == (1, 3, 48, 80)
                except VideoError as error:
                    reasons.append(error.reason)
            assert len(video) == count
            assert (video.damage is not None) >= bool(reasons)
        assert all("cannot be decoded" in reason for reason in reasons)
        missing += len(reasons)
    assert missing


def test_damage_that_hevc_decoders_pass_over_is_noted(tmp_path, numbered_frames):
    quiet = {"x265-params": "log-level=none"}
    path = encode(tmp_path / "a.mp4", numbered_frames(30), "libx265", gop=30, **quiet)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data, (position, size) = bytearray(path.read_bytes()), packets[9]
    data[position + size // 2 : position + size] = b"\xff" * (size - size // 2)
    path.write_bytes(data)
    with Video(path) as video:
        for number in range(len(video)):
            with contextlib.suppress(VideoError):
                video.frames_at([number])
        assert video.damage is not None


def test_damage_never_escapes(folder, tmp_path, clip, numbered_frames, capfd):
    sources = [
        clip,
        encode(folder / "fuzz.avi", numbered_frames(30), "mpeg4", b_frames=2),
        encode(folder / "fuzz.ts", numbered_frames(30), "libx264"),
        encode(folder / "fuzz.mkv", numbered_frames(30), "libx264"),
    ]
    read = 0
    for seed in range(120):
        rng = random.Random(seed)
        source = rng.choice(sources)
        data = bytearray(source.read_bytes())
        reach = len(data) if seed % 2 else 1500
        for _ in range(rng.choice((1, 5, 50))):
            data[rng.randrange(reach)] = rng.randrange(256)
        path = tmp_path / f"rotten{source.suffix}"
        path.write_bytes(data)
        try:
            with Video(path) as video:
                order = [rng.randrange(len(video)) for _ in range(4)]
                assert video.times.shape == (len(video),)
                assert video.duration > 0
                assert video.frames_at(order).shape == (4, 3, video.height, video.width)
                read += 1
        except VideoError:
            continue
    assert read > 20
    assert capfd.readouterr().err == ""


# ---- life ----


def test_a_closed_video_is_an_error(clip):
    video = Video(clip)
    video.close()
    video.close()
    assert len(video) == 100
    for read in (lambda: video.frames_at([0]), lambda: video[0], lambda: list(video), lambda: video[:2]):
        with pytest.raises(VideoError, match="closed"):
            read()


def test_a_file_that_goes_away(clip, tmp_path):
    path = tmp_path / "gone.mp4"
    path.write_bytes(clip.read_bytes())
    copy = pickle.loads(pickle.dumps(Video(path)))
    path.unlink()
    with pytest.raises(VideoError, match="no such file"):
        copy.frames_at([1])
    path.write_bytes(clip.read_bytes())
    assert copy.frames_at([1]).shape == (1, 3, 48, 80)


def test_odd_names(tmp_path, clip, read_numbers):
    for name in ("a:b.mp4", "50% off %03d.mp4", "ünï 動画.mp4", " spaced .mp4", "no_ending"):
        path = tmp_path / name
        path.write_bytes(clip.read_bytes())
        with Video(str(path)) as video:
            assert read_numbers(video.frames_at([42])) == [42]


def test_pickling_keeps_the_table_and_reopens_the_file(clip, read_numbers, monkeypatch):
    video = Video(clip)
    video.frames_at([30])
    data = pickle.dumps(video)
    monkeypatch.setattr("t3d.video.opening.read_with", None)  # the copy must not need it
    copy = pickle.loads(data)
    assert (len(copy), copy.height, copy.width) == (100, 48, 80)
    assert read_numbers(copy.frames_at([31, 2])) == [31, 2]
    assert read_numbers(video.frames_at([31])) == [31]


@pytest.mark.parametrize("threads", [1, 2])
def test_fork(clip, read_numbers, threads):
    video = Video(clip, threads=threads)
    assert read_numbers(video.frames_at([20])) == [20]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def child(order: list[int]) -> None:
        results.put(read_numbers(video.frames_at(order)))

    orders = [[21, 22], [70, 3]]
    children = [context.Process(target=child, args=(order,)) for order in orders]
    for process in children:
        process.start()
    got = [results.get() for _ in orders]
    for process in children:
        process.join(300)
        assert process.exitcode == 0
    assert sorted(got) == sorted(orders)
    assert read_numbers(video.frames_at([21])) == [21]


def test_threads_share_a_video(clip, read_numbers):
    video = Video(clip)
    wrong = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(8):
            order = [rng.randrange(100) for _ in range(3)]
            if read_numbers(video.frames_at(order)) != order:
                wrong.append(order)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_decoding_threads_change_nothing(clip):
    order = [80, 3, 4, 5, 41]
    with Video(clip) as one, Video(clip, threads=3) as three:
        assert torch.equal(one.frames_at(order), three.frames_at(order))
    with pytest.raises(ValueError, match="threads"):
        Video(clip, threads=0)


# ---- real files ----


@pytest.mark.real
@pytest.mark.parametrize(
    "pattern",
    ["originals/v_S*.avi", "originals/fi*.avi", "originals/T*.mp4", "ucf101_11/videos/*/*_g01_c01.mp4"],
)
def test_real_clips(real_data, pattern):
    paths = sorted(real_data.glob(pattern))
    assert paths
    for path in paths[:3]:
        assert_like_oracle(path, rounds=1)


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "torchcodec/test/resources/nasa_13013_rotated.mp4",
        "decord/tests/test_data/video_180.mov",
        "mp4parse-rust/mp4parse_capi/tests/video_rotation_90.mp4",
        "moviepy/media/bitmap.mp4",
        "torchcodec/test/resources/discard_first_keyframe.mp4",
        "torchcodec/test/resources/testsrc2_12bit_hdr.mp4",
        "torchcodec/test/resources/testsrc2_444_10bit_hevc.mp4",
        "torchcodec/test/resources/testsrc2_av1_10bit.mp4",
        "streamio-ffmpeg/spec/fixtures/movies/weird_aspect.small.mpg",
        "streamio-ffmpeg/spec/fixtures/movies/awesome_widescreen.mov",
        "decord/tests/test_data/unordered.mov",
    ],
)
def test_real_oddities(real_data, name):
    assert_like_oracle(real_data / "odd_videos" / name, rounds=2)


@pytest.mark.situation(
    "Video files",
    "Recordings of astronomy cameras (SER), video conferences (H.261), network cameras (MPJPEG), old games",
    "Read, in any order",
    ffmpeg="the same",
)
@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.ser", "", ""),
        ("a.h261", "h261", "h261"),
        ("a.mpjpeg", "mpjpeg", "mjpeg"),
        ("a.cpk", "film_cpk", "cinepak"),
    ],
)
def test_rare_containers(tmp_path, numbered_frames, read_numbers, name, container, codec):
    path = tmp_path / name
    frames = numbered_frames(12, height=144, width=176)
    if codec:
        with av.open(str(path), "w", format=container) as file:
            video = file.add_stream(codec, rate=25)
            video.height, video.width = 144, 176
            video.pix_fmt = {"mjpeg": "yuvj420p", "cinepak": "rgb24"}.get(codec, "yuv420p")
            for image in frames.permute(0, 2, 3, 1).contiguous().numpy():
                file.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(video.encode(None))
    else:
        header = b"LUCAM-RECORDER" + struct.pack("<7i", 0, 0, 1, 176, 144, 8, 12) + bytes(120 + 16)
        path.write_bytes(header + frames[:, 0].contiguous().numpy().tobytes())
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        with Video(path, facts=facts) as video:
            assert len(video) == 12
            assert read_numbers(video.frames_at([9, 2, 11])) == [9, 2, 11]
