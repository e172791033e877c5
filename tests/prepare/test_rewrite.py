from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from t3d.errors import ConfigError, VideoError
from t3d.prepare import rewrite as module
from t3d.prepare.examine import examine
from t3d.prepare.rewrite import Rewritten, TranscodeSpec, rewrite, rewritten_shape
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.ticks import ticks_of
from t3d.video.video import Video
from t3d.video.writer import VideoWriter


def rewritten(source: Path, target: Path, **options: int) -> Rewritten:
    done = rewrite(source, target, TranscodeSpec(**options))
    assert sorted(target.parent.glob(".*")) == []
    return done


def assert_same_times(source: Path, target: Path) -> None:
    with Video(source) as one, Video(target) as two:
        assert len(one) == len(two)
        np.testing.assert_allclose(two.times, one.times, rtol=0, atol=1e-6)
        assert two.duration == pytest.approx(one.duration, abs=1e-6)


def numbers_in(path: Path, read_numbers) -> list[int]:
    with Video(path) as video:
        return read_numbers(video.frames_at(range(len(video))))


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_frames_and_times_are_the_sources(tmp_path, numbered_frames, read_numbers, codec):
    source = write_video(tmp_path / "a.avi", numbered_frames(100, height=96, width=160), fps=30)
    done = rewritten(source, tmp_path / "new" / "a.mp4", short_side=48, codec=codec)
    assert numbers_in(tmp_path / "new" / "a.mp4", read_numbers) == list(range(100))
    assert_same_times(source, tmp_path / "new" / "a.mp4")
    assert (done.row["height"], done.row["width"], done.row["codec"]) == (
        48,
        80,
        "mjpeg" if codec == "jpeg" else codec,
    )
    status = source.stat()
    assert (done.size, done.modified, done.damage) == (status.st_size, status.st_mtime_ns, None)
    new = (tmp_path / "new" / "a.mp4").stat()
    assert (done.row["size"], done.row["modified"]) == (new.st_size, new.st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "fps"), [("a.mkv", Fraction(30000, 1001)), ("a.avi", Fraction(24000, 1001)), ("a.mp4", 12.5)]
)
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_clocks_of_other_containers_are_kept(tmp_path, numbered_frames, name, fps, codec):
    source = write_video(tmp_path / name, numbered_frames(33), fps=fps)
    rewritten(source, tmp_path / "new" / "a.mp4", codec=codec)
    assert_same_times(source, tmp_path / "new" / "a.mp4")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_a_variable_rate_is_kept(tmp_path, numbered_frames, read_numbers, seed, codec):
    generator = np.random.default_rng(seed)
    steps = generator.choice([0.001, 0.01, 1 / 30, 0.04, 0.5, 7.0], size=59)
    times = np.concatenate([[3.0], 3.0 + np.cumsum(steps)])
    source = write_video(tmp_path / "a.mp4", numbered_frames(60), frame_times=times.tolist())
    rewritten(source, tmp_path / "new" / "a.mp4", codec=codec)
    assert numbers_in(tmp_path / "new" / "a.mp4", read_numbers) == list(range(60))
    assert_same_times(source, tmp_path / "new" / "a.mp4")
    with Video(tmp_path / "new" / "a.mp4") as video:
        np.testing.assert_allclose(video.times, times - 3.0, rtol=0, atol=1e-5)


def test_a_clock_too_fine_for_the_container_is_rounded_to_microseconds(tmp_path):
    table = module.FrameTable(
        pts=np.array([5, 1_000_005, 33_000_005], dtype=np.int64),
        time_base=Fraction(1, 1_000_000_000),
        last=40,
        key_pts=np.zeros(0, dtype=np.int64),
        key_seek=np.zeros(0, dtype=np.int64),
    )
    clock, ticks, durations = ticks_of(table, tmp_path)
    assert (clock, ticks.tolist(), durations) == (Fraction(1, 10**6), [0, 1000, 33000], [1000, 32000, 1])
    near = replace(table, pts=np.array([0, 1, 33], dtype=np.int64))
    with pytest.raises(VideoError, match="frames 0 and 1 are less than 1/1000000 s apart"):
        ticks_of(near, tmp_path)


@pytest.mark.parametrize("interval", [1, 5, 16])
def test_key_frames_are_never_further_apart(tmp_path, numbered_frames, interval):
    source = write_video(tmp_path / "a.mp4", numbered_frames(50), keyframe_interval=250)
    done = rewritten(source, tmp_path / "new" / "a.mp4", keyframe_interval=interval)
    table = VideoFacts.of_row(done.row).table
    keys = np.flatnonzero(np.isin(table.pts, table.key_pts))
    assert keys[0] == 0
    assert np.diff([*keys, 50]).max() <= interval


@pytest.mark.parametrize(
    ("height", "width", "short_side", "shape"),
    [
        (240, 320, 256, (240, 320)),  # none grows
        (1080, 1920, 256, (256, 456)),
        (1920, 1080, 256, (456, 256)),
        (257, 257, 256, (256, 256)),
        (33, 35, 256, (32, 34)),
        (2, 2, 256, (2, 2)),
        (1, 8, 256, (0, 8)),
    ],
)
def test_shapes(height, width, short_side, shape):
    assert rewritten_shape(height, width, short_side) == shape


def test_shapes_are_even_no_larger_and_of_the_same_ratio():
    for height in range(2, 400, 7):
        for width in range(2, 900, 13):
            new = rewritten_shape(height, width, 64)
            assert new[0] % 2 == new[1] % 2 == 0
            assert 2 <= new[0] <= height
            assert 2 <= new[1] <= width
            assert min(new) <= 64
            scale = min(64 / min(height, width), 1)
            assert abs(new[0] - height * scale) < 2
            assert abs(new[1] - width * scale) < 2


def test_odd_sides_lose_their_last_row_and_column_and_nothing_else(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 4, 4, generator=generator)  # gray: half of the colors' places are lost anyway
    images = F.resize(coarse, [33, 35], interpolation=InterpolationMode.BICUBIC).clamp(0, 1)
    frames = (images * 255).to(torch.uint8).repeat(5, 3, 1, 1)
    source = write_video(tmp_path / "a.mkv", frames, pixel_format="yuv444p", crf=1)
    rewritten(source, tmp_path / "new" / "a.mp4", crf=1)
    with Video(tmp_path / "new" / "a.mp4") as video:
        shown = video.frames_at(range(5))
    assert shown.shape == (5, 3, 32, 34)
    assert (shown.float() - frames[:, :, :32, :34]).abs().mean() < 3


def test_ten_bits_become_eight(tmp_path, numbered_frames, read_numbers):
    source = write_video(tmp_path / "a.mp4", numbered_frames(20), pixel_format="yuv420p10le")
    rewritten(source, tmp_path / "new" / "a.mp4")
    assert numbers_in(tmp_path / "new" / "a.mp4", read_numbers) == list(range(20))
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 6, 1)


ONE = 1 << 16
TURNS = {
    "clockwise 90": (0, ONE, -ONE, 0),
    "180": (-ONE, 0, 0, -ONE),
    "clockwise 270": (0, -ONE, ONE, 0),
    "left is right": (-ONE, 0, 0, ONE),
    "transposed": (0, ONE, ONE, 0),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_pixels_are_turned_and_no_turn_is_left_in_the_file(tmp_path, name, codec):
    a, b, c, d = TURNS[name]
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[0, :32, :64] = image[1, :32, 64:] = image[2, 32:, :64] = 255
    source = write_video(tmp_path / "a.mp4", image.repeat(3, 1, 1, 1))
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    source.write_bytes(data)
    with Video(source) as video:
        wanted = video.frames_at([1])
    for short_side in (64, 32):
        done = rewritten(
            source, tmp_path / "new" / "a.mp4", short_side=short_side, crf=1, codec=codec, jpeg_q=1
        )
        assert (done.row["rotation"], done.row["mirrored"]) == (0, False)
        with Video(tmp_path / "new" / "a.mp4") as video:
            shown = video.frames_at([1])
        assert shown.shape[2] * 64 == wanted.shape[2] * short_side
        small = F.resize(wanted, list(shown.shape[2:]), interpolation=InterpolationMode.BICUBIC)
        assert (shown.float() - small.float()).abs().mean() < 5


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_colors_survive_another_matrix_and_range(tmp_path, codec):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (180, 100, 50)]
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1"})
        video.height = video.width = 64
        video.pix_fmt = "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = 1, 2  # BT.709, full
        for i, color in enumerate(colors):
            image = np.full((64, 64, 3), color, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="itu709", dst_color_range="JPEG"
            )
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    for short_side in (64, 32):
        rewritten(path, tmp_path / "new" / "a.mp4", short_side=short_side, crf=1, codec=codec, jpeg_q=1)
        with Video(tmp_path / "new" / "a.mp4") as video:
            shown = video.frames_at(range(len(colors))).int()
        assert (shown - torch.tensor(colors)[:, :, None, None]).abs().max() <= 6


def test_frames_of_another_size_are_made_like_the_first(tmp_path, numbered_frames, read_numbers):
    small = write_video(tmp_path / "small.mp4", numbered_frames(20))
    large = write_video(tmp_path / "large.mp4", numbered_frames(20, height=96, width=160, first=20))
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(as_stream(path, tmp_path / "part.ts") for path in (small, large)))
    done = rewritten(both, tmp_path / "new" / "both.mp4")
    assert done.damage is not None
    assert "is 160 × 96, the first 80 × 48: all are scaled to the size of the first" in done.damage
    shown = numbers_in(tmp_path / "new" / "both.mp4", read_numbers)
    with Video(both) as video:
        assert len(shown) == len(video) == 40
    assert shown == list(range(40))


def as_stream(path: Path, part: Path) -> bytes:
    with av.open(str(path)) as source, av.open(str(part), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return part.read_bytes()


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_a_single_frame(tmp_path, numbered_frames, read_numbers, codec):
    source = write_video(tmp_path / "a.mp4", numbered_frames(1, first=5))
    rewritten(source, tmp_path / "new" / "a.mp4", codec=codec)
    assert numbers_in(tmp_path / "new" / "a.mp4", read_numbers) == [5]
    assert_same_times(source, tmp_path / "new" / "a.mp4")


def test_frames_missing_after_decoding_are_counted_again(tmp_path, numbered_frames, read_numbers):
    source = write_video(tmp_path / "a.mp4", numbered_frames(48), keyframe_interval=16)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for pos, size in packets[20:24]:
        data[pos + 4 : pos + size] = bytes(size - 4)
    source.write_bytes(data)
    done = rewritten(source, tmp_path / "new" / "a.mp4")
    assert done.damage
    index = module.examine(str(source))
    missing = sum(place < 0 for place in index["places"])
    assert (done.row["frames"], index["frames"]) == (48 - missing, 48)
    shown = numbers_in(tmp_path / "new" / "a.mp4", read_numbers)
    assert shown[:16] + shown[-16:] == [*range(16), *range(32, 48)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 255}, "short_side is 255; the codecs need an even number"),
        ({"short_side": 0}, "short_side is 0"),
        ({"keyframe_interval": 0}, "keyframe_interval is 0"),
        ({"crf": 52}, "crf is 52"),
        ({"jpeg_q": 32}, "jpeg_q is 32"),
        ({"codec": "jepg"}, "codec is 'jepg'; did you mean 'jpeg'"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        TranscodeSpec(**options)


def test_a_new_file_that_differs_never_takes_its_name(tmp_path, numbered_frames, monkeypatch):
    source = write_video(tmp_path / "a.mp4", numbered_frames(20))
    add = VideoWriter.add

    def late(self, image, tick, *, duration=None):
        add(self, image, tick + (tick > 0), duration=duration)

    monkeypatch.setattr(VideoWriter, "add", late)
    with pytest.raises(
        VideoError, match="the new file is wrong: its frames or their times differ from the source"
    ):
        rewritten(source, tmp_path / "new" / "a.mp4")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_source_that_changes_meanwhile_is_an_error(tmp_path, numbered_frames, monkeypatch):
    source = write_video(tmp_path / "a.mp4", numbered_frames(20))
    states = iter([(1, 1), (1, 2)])
    monkeypatch.setattr(module, "_state", lambda _: next(states))
    with pytest.raises(VideoError, match="was changed while it was read"):
        rewritten(source, tmp_path / "new" / "a.mp4")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"nonsense" * 99, "cannot be opened by FFmpeg: not a video")]
)
def test_a_file_that_is_not_a_video_is_an_error(tmp_path, data, message):
    source = tmp_path / "a.mp4"
    source.write_bytes(data)
    with pytest.raises(VideoError, match=message):
        rewritten(source, tmp_path / "new" / "a.mp4")


def test_a_dot_cannot_be_written(tmp_path):
    dot = torch.full((3, 3, 1, 1), 200, dtype=torch.uint8)
    source = write_video(tmp_path / "a.mp4", dot, pixel_format="yuv444p")
    with pytest.raises(VideoError, match=r"is 1 × 1; the codecs need two pixels each way"):
        rewritten(source, tmp_path / "new" / "a.mp4")


def test_the_processes_need_no_torch():
    code = "import sys, t3d.prepare.rewrite; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.real
@pytest.mark.parametrize("name", ["v_Basketball_g01_c01", "v_Punch_g01_c02", "v_SkyDiving_g01_c01"])
def test_real_frames_look_like_the_sources(real_data, tmp_path, name):
    source = real_data / "originals" / f"{name}.avi"
    rewritten(source, tmp_path / "new" / "a.mp4", short_side=120, crf=18)
    assert_same_times(source, tmp_path / "new" / "a.mp4")
    with Video(source) as one, Video(tmp_path / "new" / "a.mp4") as two:
        frames = one.frames_at(range(len(one)))
        wanted = F.resize(frames, [120, 160], interpolation=InterpolationMode.BICUBIC, antialias=True).float()
        shown = two.frames_at(range(len(two))).float()
    error = (wanted - shown).square().mean(dim=(1, 2, 3))
    # Half as many color samples each way, almost without loss otherwise (crf 1), leave 37 dB of Basketball;
    # crf 18 takes some 3 dB more. Neighboring frames, of a still camera even, are further away.
    assert 10 * torch.log10(255**2 / error.max()) > 33
    assert error[1:].mean() < (wanted[:-1] - shown[1:]).square().mean()


def test_damage_that_the_decoder_covers_up_is_noted_as_in_an_index(tmp_path):
    """Motion JPEG: the rest of a damaged picture would silently show the picture before."""
    path = tmp_path / "a.mov"
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 80, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuvj420p"
        for image in noise:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][5]
    data = bytearray(path.read_bytes())
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)
    done = rewrite(path, tmp_path / "b.mp4", TranscodeSpec(short_side=48))
    assert done.damage == examine(str(path))["damage"]
    assert done.damage is not None
