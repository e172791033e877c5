"""Bad time stamps are repaired one by one; good ones keep their values."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t3d.prepare.examine import examine
from t3d.video.facts import VideoFacts
from t3d.video.time_stamps import repair
from t3d.video.video import Video


@pytest.mark.parametrize(
    ("stamps", "wanted", "notes"),
    [
        ([0, 10, 20], [0, 10, 20], ()),
        ([0, 10, 10, 30], [0, 10, 20, 30], ("1 of 4 time stamps repaired",)),
        ([0, 10, 5, 30], [0, 10, 20, 30], ("1 of 4 time stamps repaired",)),
        ([0, 10, 900, 30, 40], [0, 10, 20, 30, 40], ("1 of 5 time stamps repaired",)),
        ([None, 10, None, None, 40, None], [0, 10, 20, 30, 40, 50], ("4 of 6 time stamps repaired",)),
        ([7, 7, 7, 7, 47], [7, 17, 27, 37, 47], ("3 of 5 time stamps repaired",)),
        ([None, None, None], [0, 10, 20], ("3 of 3 time stamps repaired",)),
        ([5], [5], ()),
        (
            [100, 110, 120, 130, 0, 20, 40, 60],
            [100, 110, 120, 130, 140, 160, 180, 200],
            ("time stamps start again at frame 4",),
        ),
        ([0, 10, 1 << 62, 30], [0, 10, 20, 30], ("1 of 4 time stamps repaired",)),
    ],
)
def test_good_time_stamps_stay(stamps, wanted, notes):
    repaired = repair(stamps, step=10)
    assert (repaired.pts.tolist(), repaired.finer, repaired.notes) == (wanted, 1, notes)


def test_ticks_become_finer_where_a_gap_has_too_few():
    repaired = repair([0, 1, 1, 1, 2, 3], step=1)
    assert (repaired.pts.tolist(), repaired.finer) == ([0, 3, 4, 5, 6, 9], 3)


def test_any_time_stamps_become_ascending():
    rng = random.Random(0)
    for _ in range(300):
        count = rng.randrange(1, 40)
        stamps = [
            rng.choice((None, rng.randrange(-50, 50), 40 * i, 1 << rng.randrange(63))) for i in range(count)
        ]
        repaired = repair(stamps, step=rng.randrange(1, 50))
        assert len(repaired.pts) == count
        assert (np.diff(repaired.pts) > 0).all(), stamps
        assert repair(stamps, step=7).pts.tolist() == repair(stamps, step=7).pts.tolist()


def write(path: Path, images, stamps, *, codec="libx264", **options: str) -> Path:
    """Write frames without B-frames at given time stamps, in milliseconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"bf": "0", "g": "12", **options})
        video.height, video.width, video.pix_fmt = images.shape[2], images.shape[3], "yuv420p"
        packets = []
        for image in images.permute(0, 2, 3, 1).contiguous().numpy():
            packets += video.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        for number, packet in enumerate([*packets, *video.encode(None)]):
            packet.time_base, packet.stream = Fraction(1, 1000), video
            packet.pts = packet.dts = stamps[number]
            container.mux(packet)
    return path


def patched(path: Path, old: int, new: int) -> Path:
    """Change the time stamp of a Matroska file's frame, in milliseconds: muxers refuse such stamps."""
    data = bytearray(path.read_bytes())
    block = b"\x81" + struct.pack(">h", old)  # number of the track, time from the start of the cluster
    (place,) = [i for i in range(len(data)) if data[i : i + 3] == block and data[i + 3] in (0, 0x80)]
    data[place + 1 : place + 3] = struct.pack(">h", new)
    path.write_bytes(data)
    return path


EVEN = [40 * i for i in range(40)]
UNEVEN = [0, *np.cumsum(np.random.default_rng(0).integers(5, 200, 39)).tolist()]


def files(folder: Path, images) -> dict[str, tuple[Path, list[float]]]:
    """Files with one bad time stamp, and the times that their frames should have, in milliseconds."""

    def plain(name: str) -> Path:
        return write(folder / name, images, EVEN)

    uneven = [*UNEVEN[:30], UNEVEN[29], *UNEVEN[31:]]
    return {
        "repeated": (write(folder / "a.mkv", images, [*EVEN[:20], 760, *EVEN[21:]]), EVEN),
        "repeated in FLV": (
            write(folder / "a.flv", images, [*EVEN[:20], 760, *EVEN[21:]], codec="flv"),
            EVEN,
        ),
        "frozen": (write(folder / "frozen.mkv", images, [*EVEN[:20], *[800] * 5, *EVEN[25:]]), EVEN),
        "backward": (patched(plain("back.mkv"), 800, 300), EVEN),
        "far ahead": (patched(plain("ahead.mkv"), 800, 30000), EVEN),
        "repeated, of varying rate": (
            write(folder / "uneven.mkv", images, uneven),
            [*UNEVEN[:30], (UNEVEN[29] + UNEVEN[31]) / 2, *UNEVEN[31:]],
        ),
    }


@pytest.mark.situation(
    "Video files",
    "One repeated time stamp",
    "That time stamp is repaired, the others stay; noted as damage",
    ffmpeg="keeps the repeated time stamp",
)
def test_one_bad_time_stamp_leaves_the_others(tmp_path, numbered_frames, read_numbers):
    for kind, (path, wanted) in files(tmp_path, numbered_frames(40)).items():
        facts = VideoFacts.of_row(examine(str(path)))
        for known in (None, facts):
            for numbers in ([33, 4, 20], [21, 19, 39, 10]):
                with Video(path, facts=known) as video:
                    assert read_numbers(video.frames_at(numbers)) == numbers, kind
            with Video(path, facts=known) as video:
                assert video.times * 1000 == pytest.approx(wanted, abs=1), kind
                count = 4 if kind == "frozen" else 1
                assert video.damage == f"{count} of 40 time stamps repaired", kind


@pytest.mark.parametrize("keyint", [40, 12])
@pytest.mark.parametrize("number", [10, 15, 20, 30])
def test_a_bad_time_stamp_among_b_frames_is_found_by_every_reader(
    tmp_path, numbered_frames, read_numbers, number, keyint
):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=25, options={"x264-params": f"bframes=2:b-adapt=0:keyint={keyint}"}
        )
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        for image in numbered_frames(40).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    patched(path, 800, 390)
    with Video(path) as video:
        assert read_numbers(video.frames_at([number])) == [number]


@pytest.mark.situation(
    "Video files",
    "Recordings joined with `cat`: time stamps start again",
    "The second part continues the first; noted",
    ffmpeg="a time stamp that runs backward",
)
def test_joined_recordings_follow_each_other(tmp_path, numbered_frames, read_numbers):
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        for image in numbered_frames(30).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    path.write_bytes(path.read_bytes() * 2)
    with Video(path) as joined:
        assert joined.times == pytest.approx(np.arange(60) / 25)
        assert read_numbers(joined.frames_at([45, 5])) == [15, 5]
        assert joined.damage is not None
        assert joined.damage.endswith("time stamps start again at frame 30")


@pytest.mark.real
def test_a_real_camera_in_the_dark(real_data):
    with Video(real_data / "reported/webcam.mkv") as video:
        assert video.damage == "1 of 120 time stamps repaired"
        assert video.times[[80, 110]] == pytest.approx([4, 7], abs=0.002)
        assert video.duration == pytest.approx(7.93, abs=0.01)
        with Video(real_data / "reported/webcam_sound.mkv") as sound:
            assert video.times == pytest.approx(sound.times, abs=0.02)
            assert sound.damage is None


@pytest.mark.situation(
    "Video files",
    "ASF (WMV) and MXF files with B-frames: only the times of decoding are stored",
    "Frames have these times in the order of display",
    ffmpeg="time stamps that run backward",
)
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.asf", "libx264"), ("a.asf", "mpeg2video"), ("a.mxf", "libx264"), ("a.m1v", "mpeg1video")],
)
def test_times_of_decoding_are_not_times_of_display(tmp_path, numbered_frames, name, codec):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        options = {"x264-params": "bframes=2:b-adapt=0"} if codec == "libx264" else {"bf": "2"}
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        for image in numbered_frames(30).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        with Video(path, facts=facts) as video:
            assert video.times == pytest.approx(np.arange(30) / 25, abs=0.001)
            assert video.damage is None


def test_frames_without_any_good_time_stamp_have_the_usual_rate(tmp_path, numbered_frames):
    """FFmpeg takes the smallest tick for their distance, which would be 1000 frames per second."""
    path = write(tmp_path / "a.webm", numbered_frames(20), [0] * 20, codec="libvpx")
    with Video(path) as video:
        assert np.diff(video.times) == pytest.approx(0.04, abs=0.001)
        assert video.damage == "19 of 20 time stamps repaired"
