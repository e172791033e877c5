"""Files whose packets change the decoder's parameters are decoded in order; the others are not."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t3d.prepare.examine import examine
from t3d.video.facts import VideoFacts
from t3d.video.parameter_sets import ParameterWatch
from t3d.video.stream import Stream
from t3d.video.video import Video

Packets = list[tuple[bytes, bool]]
X264 = "bframes=0:scenecut=0:cabac=0:keyint="


def encoded(path: Path, images, codec: str, pixels="yuv420p", **options: str) -> tuple[Packets, bytes]:
    """Return the packets of a new Matroska file, with whether each is a key frame, and its extradata."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = images.shape[2], images.shape[3], pixels
        for image in images.permute(0, 2, 3, 1).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        packets = [(bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]
        return packets, bytes(container.streams.video[0].codec_context.extradata or b"")


def joined(path: Path, template: Path, packets: Packets) -> Path:
    """Write packets as they are into a file with another file's header."""
    with av.open(str(template)) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        for number, (data, key) in enumerate(packets):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.duration = Fraction(1, 25), 1
            packet.is_keyframe, packet.stream = key, video
            container.mux(packet)
    return path


def avc_sets(extradata: bytes) -> bytes:
    """Return the parameter sets of an H.264 file as units of a packet."""
    units, at = b"", 6
    for _ in range(2):
        length = int.from_bytes(extradata[at : at + 2], "big")
        units += length.to_bytes(4, "big") + extradata[at + 2 : at + 2 + length]
        at += 2 + length + 1
    return units


def without(picture: bytes, markers: tuple[int, ...]) -> bytes:
    """Return a JPEG picture without some of its segments."""
    kept, at = [b"\xff\xd8"], 2
    while picture[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
        if picture[at + 1] not in markers:
            kept.append(picture[at:end])
        at = end
    return b"".join([*kept, picture[at:]])


def h264(folder: Path, images, ending: str, *, keyint: int, late: bool = False) -> Path:
    """Two recordings; the second one's parameters come with one packet, which may be no key frame."""
    first, _ = encoded(folder / "0.mkv", images, "libx264", qp="15", **{"x264-params": X264 + str(keyint)})
    second, extradata = encoded(
        folder / "1.mkv", images[:20], "libx264", qp="40", **{"x264-params": X264 + str(keyint)}
    )
    if late:  # a picture of the first recording that is decoded with the same result
        first[-1] = (avc_sets(extradata) + second[1][0], False)
        return joined(
            folder / f"a.{ending}", folder / "0.mkv", [*first[:-1], *second[:1], first[-1], *second]
        )
    second[0] = (avc_sets(extradata) + second[0][0], True)
    return joined(folder / f"a.{ending}", folder / "0.mkv", [*first, *second])


def mpeg4(folder: Path, images, ending: str) -> Path:
    """The second recording has another matrix of quantization, which its first packet brings."""
    first, _ = encoded(folder / "0.mkv", images, "mpeg4", g="6", qscale="3")
    second, extradata = encoded(folder / "1.mkv", images, "mpeg4", g="6", mpeg_quant="1", qscale="9")
    second[0] = (extradata + second[0][0], True)
    return joined(folder / f"a.{ending}", folder / "0.mkv", [*first, *second])


def mjpeg(folder: Path, images, ending: str, *, change: bool) -> Path:
    """Only the first picture of a recording brings its tables."""
    pictures: Packets = []
    for number, quantizer in enumerate(("3", "25") if change else ("3",)):
        part, _ = encoded(
            folder / f"{number}.mkv", images, "mjpeg", "yuvj420p", qmin=quantizer, qmax=quantizer, huffman="0"
        )
        pictures += [part[0], *((without(picture, (0xDB, 0xC4)), key) for picture, key in part[1:])]
    return joined(folder / f"a.{ending}", folder / "0.mkv", pictures)


def truth_of(path: Path) -> list[np.ndarray]:
    """Return every frame, decoded from start to end."""
    stream = Stream(path)
    frames = [stream.rgb(frame).copy() for frame in stream.frames()]
    stream.close()
    return frames


def assert_any_order(path: Path, *, threads: int = 1) -> None:
    """Frames in any order are those of decoding from start to end, with and without an index entry."""
    truth = truth_of(path)
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        for seed in range(4):
            with Video(path, facts=facts, threads=threads) as video:
                assert len(video) == len(truth)
                numbers = [len(truth) - 1] if seed == 0 else random.Random(seed).sample(range(len(truth)), 5)
                for number, frame in zip(numbers, video.frames_at(numbers), strict=True):
                    assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[number]), (seed, number)
                assert video.damage is None


@pytest.mark.situation(
    "Video files",
    "Recordings joined without encoding, with key frames only, or with parameters in a packet between them",
    "Every frame as when decoding from the start",
    ffmpeg="seeking gives other frames",
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("kind", ["late", "key frames only", "mpeg4"])
def test_parameters_are_kept(tmp_path, numbered_frames, kind, ending):
    if kind == "mpeg4":
        path = mpeg4(tmp_path, numbered_frames(24), ending)
    elif kind == "late":
        path = h264(tmp_path, numbered_frames(24), ending, keyint=6, late=True)
    else:
        path = h264(tmp_path, numbered_frames(120), ending, keyint=1)
    assert_any_order(path)


@pytest.mark.situation(
    "Video files",
    "Motion JPEG whose tables come with the first picture only",
    "Every frame as when decoding from the start",
    ffmpeg="seeking gives other frames",
)
@pytest.mark.parametrize("ending", ["avi", "mov"])
@pytest.mark.parametrize("change", [False, True])
def test_tables_of_motion_jpeg_are_kept(tmp_path, numbered_frames, ending, change):
    assert_any_order(mjpeg(tmp_path, numbered_frames(24), ending, change=change))


def test_several_decoding_threads_do_not_mix_up_parameters(tmp_path, numbered_frames):
    assert_any_order(mpeg4(tmp_path, numbered_frames(24), "avi"), threads=2)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "mjpeg"])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_common_files_are_not_decoded_in_order(tmp_path, numbered_frames, codec, ending):
    if ending == "avi" and codec in ("libx264", "libx265"):
        pytest.skip("always decoded in order")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = tmp_path / f"a.{ending}"
    encoded(path, numbered_frames(24), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", g="6", **options)
    with Video(path) as video:
        assert video._reader.table.order is None
        assert video._reader._signatures is None  # the file was not decoded to find that out


SPS, OTHER_SPS, PPS = b"\x67\1\2\3\4", b"\x67\1\2\3\5", b"\x68\xcc"
AVCC = b"\1\1\2\3\xff\xe1\0\5" + SPS + b"\1\0\2" + PPS


def avc(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


@pytest.mark.parametrize(
    ("packets", "changed"),
    [
        ([(b"\x65key", True), (b"\x41", False)], False),
        ([(SPS, PPS, b"\x65key", True), (b"\x65key", True)], False),  # as stored: nothing changes
        ([(b"\x65key", True), (PPS, b"\x41", False)], False),
        ([(b"\x06note", SPS, PPS, b"\x65key", True), (b"\x65key", True)], False),
        ([(b"\x65key", True), (OTHER_SPS, PPS, b"\x65key", True)], True),
        ([(b"\x65key", True), (b"\x06note", OTHER_SPS, b"\x41", False)], True),
        ([(SPS, PPS, b"\x65key", True), (OTHER_SPS, PPS, b"\x65key", True)], False),  # each brings its own
        ([(SPS, PPS, b"\x65key", True), (OTHER_SPS, b"\x65key", True)], True),
        ([(OTHER_SPS, PPS, b"\x65key", True), (OTHER_SPS, b"\x41", False)], False),
        ([(b"", True), (b"\x65", True)], False),
    ],
)
def test_h264_parameter_sets(packets, changed):
    watch = ParameterWatch("h264", AVCC)
    for *units, key in packets:
        watch.see(avc(*units), key=key)
    assert watch.changed == changed


def test_parameter_sets_of_damaged_bytes_do_no_harm():
    rng = random.Random(0)
    for codec in ("h264", "hevc", "mpeg4", "mjpeg"):
        for _ in range(300):
            extradata = rng.choice((b"", b"\1")) + rng.randbytes(rng.randrange(60))
            watch = ParameterWatch(codec, extradata)
            for _ in range(5):
                data = rng.choice((b"", b"\xff\xd8\xff\xdb", b"\0\0\1")) + rng.randbytes(rng.randrange(80))
                watch.see(data, key=rng.random() < 0.5)
            assert watch.changed in (False, True)
