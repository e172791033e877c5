"""The index of an AVI file gives the same table as its packets, or is not used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from t3d.errors import VideoError
from t3d.prepare.examine import examine
from t3d.video import packets
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.frame_table import read_table
from t3d.video.stream import Stream
from t3d.video.video import Video

Frames = Callable[..., torch.Tensor]


def write_avi(path: Path, images: torch.Tensor, *, sound: bool = False, b_frames: int = 0) -> Path:
    """Write frames T C H W as MPEG-4, a key frame every 6 frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25, options={"g": "6", "bf": str(b_frames)})
        video.height, video.width, video.pix_fmt = images.shape[2], images.shape[3], "yuv420p"
        # Without headers of time in each group, as Xvid writes them.
        video.codec_context.flags |= av.codec.context.Flags.global_header
        tone = container.add_stream("mp2", rate=44_100, layout="mono") if sound else None
        for number, image in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            if tone is not None:
                wave = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
                wave.sample_rate, wave.pts = 44_100, 1152 * number
                container.mux(tone.encode(wave))
        container.mux(video.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


def table_of(path: Path) -> object:
    """Everything that reading the packets tells, or the error."""
    try:
        stream = Stream(path, strict=True)
        reading = read_table(stream)
    except VideoError as error:
        return str(error)
    table = reading.table
    stream.close()
    return (
        table.pts.tolist(),
        (table.time_base, table.last, table.key_pts.tolist(), table.key_seek.tolist()),
        (reading.sure, reading.notes, reading.landings, reading.updated),
    )


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object, bool]:
    """The table by the index and the one by reading all packets, and whether the index was used."""
    used = []
    by_index = packets.indexed_packets

    def noted(stream: Stream, first: av.Packet) -> packets.IndexedPackets | None:
        used.append(by_index(stream, first))
        return used[-1]

    with monkeypatch.context() as patched:
        patched.setattr(packets, "indexed_packets", noted)
        first = table_of(path)
        patched.setattr(packets, "indexed_packets", lambda *_: None)
        second = table_of(path)
    return first, second, any(item is not None for item in used)


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory, numbered_frames: Frames) -> bytes:
    return write_avi(tmp_path_factory.mktemp("avi") / "a.avi", numbered_frames(20)).read_bytes()


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory, numbered_frames: Frames) -> bytes:
    images = numbered_frames(20)
    return write_avi(tmp_path_factory.mktemp("avi") / "a.avi", images, sound=True).read_bytes()


def chunks(data: bytes) -> list[int]:
    """Places of the video's chunks."""
    places, at = [], data.find(b"movi") + 4
    while data[at : at + 4] != b"idx1":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"00dc":
            places.append(at)
        at += 8 + size + size % 2
    return places


@pytest.mark.parametrize("kind", ["avi", "loud"])
def test_the_index_replaces_reading_all_packets(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(request.getfixturevalue(kind))
    first, second, used = both(path, monkeypatch)
    assert used
    assert first == second
    read = []
    original = Stream.packets

    def counted(stream: Stream) -> Iterable[av.Packet]:
        for packet in original(stream):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr(Stream, "packets", counted)
    with Video(path) as video:
        assert len(video) == 20
    assert read == [0]


def no_key(data: bytearray, place: int) -> None:
    entry = data.find(b"idx1") + 8
    del place
    data[entry + 16 * 6 + 4] ^= 0x10


def false_key(data: bytearray, place: int) -> None:
    entry = data.find(b"idx1") + 8
    del place
    data[entry + 16 * 7 + 4] |= 0x10


def b_picture(data: bytearray, place: int) -> None:
    data[place + 12] = data[place + 12] & 0x3F | 0x80


def other_name(data: bytearray, place: int) -> None:
    data[place : place + 4] = b"01dc"


def other_size(data: bytearray, place: int) -> None:
    data[place + 4] ^= 1


def hidden_chunk(data: bytearray, place: int) -> None:
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    data[place:place] = data[place : place + 8 + size + size % 2]


def wrong_place(data: bytearray, place: int) -> None:
    del place
    entry = data.find(b"idx1") + 8
    data[entry + 16 * 5 + 8] ^= 4


def more_headers(data: bytearray, place: int) -> None:
    data[place + 11] = 0xB3


def second_list(data: bytearray, place: int) -> None:
    del place
    data += data[data.find(b"movi") - 8 : data.find(b"idx1")]


def cut_off(data: bytearray, place: int) -> None:
    del data[place + 20 :]


@pytest.mark.parametrize(
    "change",
    [
        no_key,
        false_key,
        b_picture,
        other_name,
        other_size,
        hidden_chunk,
        wrong_place,
        more_headers,
        second_list,
        cut_off,
    ],
)
def test_an_unusual_file_is_read_packet_by_packet(
    change: Callable[[bytearray, int], None], avi: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(avi)
    change(data, chunks(avi)[9])
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    first, second, used = both(path, monkeypatch)
    assert not used
    assert first == second


def test_b_frames_and_other_codecs_are_read_packet_by_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbered_frames: Frames
) -> None:
    paths = [write_avi(tmp_path / "b.avi", numbered_frames(12), b_frames=2)]
    paths.append(write_video(tmp_path / "a.mp4", numbered_frames(12)))
    for path in paths:
        assert both(path, monkeypatch)[2] is False


@pytest.mark.parametrize("kind", ["avi", "loud"])
def test_damage_never_makes_the_index_differ_from_the_packets(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    data: bytes = request.getfixturevalue(kind)
    path, used = tmp_path / "a.avi", 0
    for seed in range(60):
        rng, changed = random.Random(seed), bytearray(data)
        places = [*chunks(data), data.find(b"idx1"), data.find(b"movi"), 0]
        for _ in range(rng.choice((1, 2))):
            # Heads of chunks and the index more often than pictures.
            at = rng.choice((rng.choice(places) + rng.randrange(16), rng.randrange(len(data) - 1)))
            if seed % 6:
                changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
            else:
                del changed[at : at + rng.choice((1, 2, 8))]
        path.write_bytes(changed)
        first, second, by_index = both(path, monkeypatch)
        assert first == second, seed
        used += by_index
    assert 5 < used < 60


@pytest.mark.parametrize("name", ["raw", "indexed"])
def test_frames_that_lead_to_nothing_are_not_decoded(
    name: str,
    avi: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_numbers: Callable[[torch.Tensor], list[int]],
) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(avi)
    facts = VideoFacts.of_row(examine(str(path))) if name == "indexed" else None
    decoded: list[int] = []
    original = Stream.decode

    def counted(stream: Stream, packet: av.Packet | None) -> list[av.VideoFrame]:
        decoded.extend([] if packet is None else [packet.pts])
        return original(stream, packet)

    with Video(path, facts=facts) as video:
        monkeypatch.setattr(Stream, "decode", counted)
        # Frames 3 to 5 and 9 to 11 are before the key frames 6 and 12.
        assert read_numbers(video.frames_at([2, 6, 8, 12])) == [2, 6, 8, 12]
        assert decoded == [0, 1, 2, 6, 7, 8, 12]
        assert read_numbers(video.frames_at([14, 15])) == [14, 15]
        assert read_numbers(video.frames_at([4, 10])) == [4, 10]


def test_a_wrong_key_frame_after_frames_passed_over_is_noticed(avi: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(avi)
    facts = VideoFacts.of_row(examine(str(path)))
    keys = np.array([0, 6, 9, 12, 18])
    wrong = replace(facts, table=replace(facts.table, key_pts=keys, key_seek=keys))
    with Video(path) as video, Video(path, facts=wrong) as misled:
        assert torch.equal(misled.frames_at([2, 10]), video.frames_at([2, 10]))
