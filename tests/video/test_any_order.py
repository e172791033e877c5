"""Frame i is the same picture whatever was read before, also where decoders keep something through a seek."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import VideoError
from t3d.prepare.examine import examine
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.frame_table import read_table, scan_table
from t3d.video.stream import Stream
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")

SEEDS = (*range(5), 19)


def plain(path: Path) -> list[np.ndarray]:
    """Every frame, decoded from start to end."""
    stream = Stream(path)
    frames = [stream.rgb(frame) for frame in stream.frames()]
    stream.close()
    return frames


def assert_any_order(path: Path, *, damage: bool = False) -> None:
    """Frames read on their own, in clips and in random order are those of decoding from start to end."""
    truth = plain(path)
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        for seed in range(6):
            rng = random.Random(seed)
            with Video(path, facts=facts) as video:
                assert len(video) == len(truth)
                for _ in range(5):
                    numbers = [rng.randrange(len(truth)) for _ in range(seed + 1)]
                    for number, frame in zip(numbers, video.frames_at(numbers), strict=True):
                        assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[number]), number
        assert (video.damage is not None) == damage


def write_palette(path: Path, codec: str, count: int = 24) -> Path:
    """Write pictures of 8 bits with a palette, each one different."""
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0] = 255
    palette[:, 1:] = np.arange(256)[:, None] // [1, 2, 3] + 40
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"g": "6"})
        video.height, video.width, video.pix_fmt = 48, 64, "pal8"
        for number in range(count):
            image = np.add.outer(np.arange(48), np.arange(64) + 3 * number).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray((image, palette), format="pal8")))
        container.mux(video.encode(None))
    return path


@pytest.mark.situation(
    "Video files",
    "8-bit raw video with a palette (microscopes, high-speed cameras) reads black",
    "Read with its palette, in order",
    ffmpeg="the same",
)
@pytest.mark.parametrize(
    ("name", "codec"),
    [("raw.avi", "rawvideo"), ("raw.mov", "rawvideo"), ("smc.mov", "smc"), ("zmbv.avi", "zmbv")],
)
def test_a_palette_of_the_first_packet_is_kept(tmp_path, name, codec):
    path = write_palette(tmp_path / name, codec)
    assert plain(path)[5].std() > 10
    assert_any_order(path)


@pytest.mark.real
def test_a_real_gray_palette(real_data):
    path = real_data / "reported/grey8.avi"
    assert_any_order(path)
    with Video(path) as video:
        frames = video.frames_at(range(len(video)))
        assert frames[0, 0, 0, :3].tolist() == [40, 43, 46]
        assert 137 < frames.float().mean() < 139


def parameter_sets(extradata: bytes) -> bytes:
    """Return the sequence and the picture parameter set of an MP4 or Matroska file as units of a packet."""
    units, at = b"", 6
    for _ in range(2):
        length = int.from_bytes(extradata[at : at + 2], "big")
        units += length.to_bytes(4, "big") + extradata[at + 2 : at + 2 + length]
        at += 2 + length + 1  # the number of picture parameter sets comes between
    return units


@pytest.mark.situation(
    "Video files",
    "Codec parameters change in the middle of a file",
    "Every frame as when decoding from the start",
    ffmpeg="the same",
)
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_parameters_that_change_within_the_file_are_kept(tmp_path, numbered_frames, ending):
    """Two recordings joined without encoding: the second one's parameters come with its first frame only."""
    for number, quantizer in enumerate((15, 40)):
        with av.open(str(tmp_path / f"{number}.mkv"), "w") as container:
            options = {"qp": str(quantizer), "x264-params": "bframes=0:keyint=6:scenecut=0:cabac=0"}
            video = container.add_stream("libx264", rate=25, options=options)
            video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
            for image in numbered_frames(24, first=24 * number).permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
    path = tmp_path / f"joined.{ending}"
    with (
        av.open(str(tmp_path / "0.mkv")) as first,
        av.open(str(tmp_path / "1.mkv")) as second,
        av.open(str(path), "w") as joined,
    ):
        video = joined.add_stream_from_template(first.streams.video[0])
        added = parameter_sets(second.streams.video[0].codec_context.extradata)
        packets = [packet for source in (first, second) for packet in source.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            copy = av.Packet((added if number == 24 else b"") + bytes(packet))
            copy.pts = copy.dts = number
            copy.time_base, copy.duration = Fraction(1, 25), 1
            copy.is_keyframe, copy.stream = packet.is_keyframe, video
            joined.mux(copy)
    assert_any_order(path)


def damaged(path: Path, seed: int) -> Path:
    """Flip some bits of the frames, or overwrite a part of one; each file is as long as before."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(3):
        position, size = rng.choice(packets)
        place = position + size // 4 + rng.randrange(size // 2)
        if seed % 3:
            data[place] ^= 1 << rng.randrange(8)
        else:
            data[place : position + size] = bytes(position + size - place)
    target = path.with_name(f"{seed}-{path.name}")
    target.write_bytes(data)
    return target


DAMAGED = {
    "a.mp4": ("libx264", "yuv420p", {"g": "8", "bf": "2"}),
    "refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}),
    "a.avi": ("mpeg4", "yuv420p", {"g": "8"}),
    "jpeg.mov": ("mjpeg", "yuvj420p", {}),
    "a.webm": ("libvpx", "yuv420p", {"g": "8"}),
    "a.ts": ("mpeg2video", "yuv420p", {"g": "8", "bf": "2"}),
    "a.mkv": ("ffv1", "yuv420p", {"g": "8"}),
}


@pytest.mark.situation(
    "Damaged files",
    "A damaged frame differs depending on what was read before",
    "The same picture in any order",
    ffmpeg="depends on the seek",
)
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_frames_are_the_same_in_any_order(tmp_path, name):
    codec, pixels, options = DAMAGED[name]
    scene = np.random.default_rng(0).integers(0, 256, (48, 200, 3), dtype=np.uint8)
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 80, pixels
        for number in range(30):
            image = np.ascontiguousarray(scene[:, 3 * number : 3 * number + 80] // 4 + 2 * number)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    for seed in SEEDS:
        mutant = damaged(path, seed)
        try:
            with Video(mutant) as video:
                truth = [picture(video, number) for number in range(len(video))]
        except VideoError:
            continue
        for facts in (None, VideoFacts.of_row(examine(str(mutant)))):
            for attempt in range(2):
                with Video(mutant, facts=facts) as video:
                    assert len(video) == len(truth)
                    for number in random.Random(f"{seed} {attempt}").sample(range(len(truth)), 8):
                        assert picture(video, number) == truth[number], (seed, number)
                    assert_same_clip(video, truth, random.Random(seed + attempt).randrange(len(truth) - 6))


@pytest.mark.situation(
    "Video files",
    "A seek into a gradual refresh shows gray frames",
    "The file is decoded in order",
    ffmpeg="seeking gives other frames",
)
def test_a_decoder_that_starts_within_a_refresh_is_not_trusted(tmp_path, numbered_frames):
    """It leaves out the key frame that was sought, since that depends on frames before it."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        options = {"x264-params": "intra-refresh=1:keyint=15:bframes=0:scenecut=0"}
        video = container.add_stream("libx264", rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        for image in numbered_frames(40).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    with Video(path) as video:
        assert len(video._reader.table.key_pts) > 1
        video.frames_at([28])
        assert video._reader.table.order is not None


def test_a_frame_lives_until_the_next_is_decoded(tmp_path, numbered_frames, monkeypatch):
    """Else the decoder would reuse its memory, and fill gaps of damaged frames with something else."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    held = []
    decode = Stream.decode
    for in_order in (False, True):
        with Video(path) as video:
            if in_order:
                video._reader._scan_again(None)
            reader = video._reader
            video.frames_at([3])
            with monkeypatch.context() as patch:
                patch.setattr(
                    Stream, "decode", lambda s, p, r=reader: (held.append(r._held), decode(s, p))[1]
                )
                video.frames_at([4])
    assert held
    assert None not in held


def assert_same_clip(video: Video, truth: list[bytes | None], first: int) -> None:
    try:
        clip = video.frames_at(range(first, first + 6, 2))
    except VideoError:
        assert None in truth[first : first + 6 : 2]
        return
    for number, frame in zip(range(first, first + 6, 2), clip, strict=True):
        assert bytes(frame[None].numpy().tobytes()) == truth[number], (first, number)


def picture(video: Video, number: int) -> bytes | None:
    try:
        return bytes(video.frames_at([number]).numpy().tobytes())
    except VideoError:
        return None


@pytest.mark.real
def test_a_real_file_with_flipped_bits(real_data):
    path = real_data / "reported/vp8_flipped_bits.webm"
    with Video(path) as video:
        first, _, again = (video.frames_at([number]) for number in (12, 29, 12))
        assert (first == again).all()
        assert "they are decoded in order" in video.damage
    facts = VideoFacts.of_row(examine(str(path)))
    with Video(path, facts=facts) as video:
        assert (video.frames_at([12]) == first).all()
        assert "they are decoded in order" in video.damage


@pytest.mark.situation(
    "Damaged files",
    "The index of the container is wrong",
    "The file is decoded in order",
    ffmpeg="seeking gives other frames",
)
def test_an_index_of_the_container_that_leads_astray_is_found(tmp_path, numbered_frames, read_numbers):
    """Motion JPEG in AVI with two lost frames: FFmpeg counts other frames after a seek."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuvj420p"
        for image in numbered_frames(40).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    data = bytearray(path.read_bytes())
    for number in (20, 12):
        place = -1
        for _ in range(number + 1):
            place = data.index(b"00dc", place + 1)
        data[place : place + 4] = b"JUNK"
    path.write_bytes(data)
    with Video(path) as video:
        truth = read_numbers(video.frames_at(range(len(video))))
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        for number in (24, 30, 5):
            with Video(path, facts=facts) as video:
                assert read_numbers(video.frames_at([number])) == [truth[number]]
                assert len(video) == len(truth)


# ---- frames that cannot be decoded ----


@pytest.fixture
def one_bad(tmp_path, numbered_frames) -> tuple[Path, int]:
    """A file of 50 frames with one that cannot be decoded, and the number of that frame."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(50), keyframe_interval=50)
    with av.open(str(path)) as container:
        packets = [
            (packet.pts, packet.pos, packet.size) for packet in container.demux(video=0) if packet.size
        ]
    data = bytearray(path.read_bytes())
    pts, position, size = packets[-1]
    data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path, sorted(pts for pts, _, _ in packets).index(pts)


@pytest.mark.situation(
    "Damaged files",
    "A frame that cannot be decoded",
    "Keeps its number with and without an index; the nearest frame is used",
    ffmpeg="the frame is left out",
)
def test_a_missing_frame_has_a_number_with_and_without_an_index(one_bad, tmp_path, read_numbers):
    path, bad = one_bad
    index_videos(Manifest.from_files([path]), tmp_path / "index.parquet")
    sound = bad - 1 if bad else 1
    for facts in (None, VideoIndex.read(tmp_path / "index.parquet").facts(path)):
        with Video(path, facts=facts) as video:
            assert len(video) == 50
            with pytest.raises(VideoError, match=f"frame {bad}, at .* s, cannot be decoded: 1 of 50 frames"):
                video.frames_at([bad])
            assert video.missing.tolist() == [bad]
            numbers = [bad, 3, sound, bad]
            assert read_numbers(video.frames_at(numbers, missing="nearest")) == [sound, 3, sound, sound]
            assert video.damage.startswith(f"1 of 50 frames cannot be decoded: {bad}; ")


def test_clips_of_a_file_with_a_missing_frame_are_the_same_with_an_index(one_bad, tmp_path):
    path, bad = one_bad
    index_videos(Manifest.from_files([path]), tmp_path / "index.parquet")
    spec = ClipSpec(num_frames=4, stride=2, size=32, resize=32)
    known = VideoIndex.read(tmp_path / "index.parquet")
    clips = [
        FrameStore(spec, index=index).open(path).get(np.array([bad - 4, bad])) for index in (None, known)
    ]
    assert (clips[0] == clips[1]).all()
    cached = FrameStore(spec, cache=str(tmp_path / "cache"))
    assert cached.prepare(path)
    assert (cached.open(path).get(np.array([bad - 4, bad])) == clips[0]).all()


@pytest.mark.situation(
    "Damaged files",
    "More than 10 % of the frames cannot be decoded",
    "Clips that need them are refused",
    ffmpeg="the frames are left out",
)
def test_a_file_with_many_missing_frames_is_refused_where_they_are_needed(tmp_path, numbered_frames):
    path = write_video(tmp_path / "a.mp4", numbered_frames(48), keyframe_interval=16)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[16:32]:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    for facts in (None, VideoFacts.of_row(examine(str(path)))):
        with Video(path, facts=facts) as video:
            assert video.frames_at([3, 40], missing="nearest").shape == (2, 3, 48, 80)
            with pytest.raises(VideoError, match=r"1\d of 48 frames cannot be decoded, more than 10 %: "):
                video.frames_at([3, 20], missing="nearest")


def test_a_decoder_that_returns_frames_in_another_order_changes_no_number(tmp_path, numbered_frames):
    """Readers that have not decoded the damaged part find frames by their time stamps, so all must."""
    path = write_video(tmp_path / "a.mp4", numbered_frames(10))
    stream = Stream(path)
    table = read_table(stream)
    frames = list(Stream(path).frames())
    frames[3], frames[4] = frames[4], frames[3]
    stream.frames = lambda: iter(frames)
    scanned = scan_table(stream, table.table, promised=True, trusted=False)
    assert scanned.table.pts.tolist() == table.table.pts.tolist()
    assert scanned.table.order.tolist() == [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]
    assert scanned.notes == ("the decoder returns frames in another order than their time stamps",)


@pytest.mark.parametrize("place", [12, 20])
def test_a_strict_decoder_reports_what_a_lenient_one_covers_up(tmp_path, place):
    """The lenient one fills the rest of a damaged JPEG picture with old contents of its memory."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 80, 3), dtype=np.uint8)
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuvj420p"
        for image in noise:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    position, size = packets[place]
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)
    for strict in (True, False):
        stream = Stream(path, strict=strict)
        count = len(list(stream.frames()))
        assert (count, bool(stream.errors)) == ((29, True) if strict else (30, False))
    seen = set()
    for before in ([], [place - 1], [place + 3], [0, 1, 2]):
        with Video(path) as video:
            video.frames_at(before)
            seen.add(picture(video, place))
            assert video.damage is not None
    assert len(seen) == 1
