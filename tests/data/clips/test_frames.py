from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from t3d.clip import ClipSpec
from t3d.data.clips import frames as frames_module
from t3d.data.clips import pixels
from t3d.data.clips.frames import DecodedFrames, FrameStore, _CachedFrames
from t3d.data.clips.transforms import resize_frames
from t3d.errors import ConfigError, VideoError, WriteError
from t3d.io.files import ABANDONED
from t3d.video.encode import write_video
from t3d.video.orientation import Orientation
from t3d.video.video import Video
from t3d.video.writer import video_writer

SPEC = ClipSpec(num_frames=8, stride=2, size=24, resize=32)
FORK = multiprocessing.get_context("fork")


def noise(frames: int, height: int = 48, width: int = 80, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight short films of noise, no two alike."""
    folder = tmp_path_factory.mktemp("films")
    return [write_video(folder / f"{i}.mp4", noise(20, 32, 32, seed=i)) for i in range(8)]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def store_at(folder: Path, *, spec: ClipSpec = SPEC, gb: float = 1.0) -> FrameStore:
    return FrameStore(spec, cache=str(folder), cache_gb=gb)


# --- cached or decoded: the same ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "spec"),
    [
        (48, 80, SPEC),
        (80, 48, SPEC),
        (48, 80, ClipSpec(size=24, resize=24, resize_mode="square")),
        (32, 48, SPEC),  # nothing to resize
        (20, 64, SPEC),  # to be made larger
    ],
)
def test_cached_frames_are_the_decoded_ones_bit_for_bit(
    tmp_path: Path, height: int, width: int, spec: ClipSpec
) -> None:
    count = 2 * frames_module._CHUNK + 5
    film = write_video(tmp_path / "film.mp4", noise(count, height, width))
    store = store_at(tmp_path / "cache", spec=spec)
    assert store.prepare(film)
    cached, decoded = store.open(film), FrameStore(spec).open(film)
    assert isinstance(cached, _CachedFrames)
    assert isinstance(decoded, DecodedFrames)
    np.testing.assert_array_equal(cached.times, decoded.times)
    with Video(film) as video:
        whole = torch.stack([resize_frames(video.frames_at([i]), spec)[0] for i in range(count)])
        np.testing.assert_array_equal(cached.times, video.times)
    rng = np.random.default_rng(0)
    wanted = [
        [0],
        [count - 1],
        [4, 4, 4],
        list(range(count)),
        list(range(1, count, 2)),
        [3, 5, 7, 0, 2, 4],  # wrapped
        list(range(count))[::-1],
        *(rng.integers(count, size=9).tolist() for _ in range(5)),
    ]
    for indices in wanted:
        index = np.array(indices)
        for source in (cached, decoded):
            got = source.get(index)
            assert got.dtype == torch.uint8
            assert got.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(got, whole[index])


def test_an_entry_is_a_plain_safetensors_file(tmp_path: Path, films: list[Path]) -> None:
    store_at(tmp_path).prepare(films[0])
    (entry,) = entries(tmp_path)
    held = load_file(entry)
    assert held["frames"].shape == (20, 32, 32, 3)
    with Video(films[0]) as video:
        np.testing.assert_array_equal(held["times"], video.times)


def test_a_film_that_is_not_prepared_is_decoded_and_nothing_is_written(
    tmp_path: Path, films: list[Path]
) -> None:
    store = store_at(tmp_path)
    assert isinstance(store.open(films[0]), DecodedFrames)
    assert entries(tmp_path) == []
    assert FrameStore(SPEC).prepare(films[0]) is False


def test_a_prepared_film_is_not_decoded_again(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_at(tmp_path).prepare(films[0])

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(frames_module, "Video", refuse)
    store = store_at(tmp_path)
    assert store.prepare(films[0])
    assert store.open(films[0]).get(np.array([1, 2])).shape == (2, 3, 32, 32)


# --- what an entry is known by ------------------------------------------------------------------------------


def test_the_same_content_elsewhere_is_the_same_entry(tmp_path: Path, films: list[Path]) -> None:
    store = store_at(tmp_path / "cache")
    assert store.prepare(films[0])
    copy = tmp_path / "ein anderer Name é.mkv"
    shutil.copyfile(films[0], copy)
    assert isinstance(store.open(copy), _CachedFrames)
    assert store.prepare(copy)
    assert len(entries(tmp_path / "cache")) == 1


def test_other_content_under_the_same_name_is_another_entry(tmp_path: Path, films: list[Path]) -> None:
    film = tmp_path / "film.mp4"
    store = store_at(tmp_path / "cache")
    shutil.copyfile(films[0], film)
    store.prepare(film)
    shutil.copyfile(films[1], film)
    for asked in (store, store_at(tmp_path / "cache")):
        got = asked.open(film)
        assert isinstance(got, DecodedFrames)
        index = np.arange(20)
        assert torch.equal(got.get(index), FrameStore(SPEC).open(films[1]).get(index))


def test_settings_that_change_pixels_miss_and_others_hit(tmp_path: Path, films: list[Path]) -> None:
    store_at(tmp_path).prepare(films[0])
    larger = ClipSpec(num_frames=8, size=24, resize=40)
    square = ClipSpec(num_frames=8, size=24, resize=32, resize_mode="square")
    for other in (larger, square):
        assert isinstance(store_at(tmp_path, spec=other).open(films[0]), DecodedFrames)
    clip = ClipSpec(num_frames=16, stride=4, size=16, resize=32, mean=(0.5, 0.5, 0.5), tail="shift")
    assert isinstance(store_at(tmp_path, spec=clip).open(films[0]), _CachedFrames)


def test_a_new_format_never_reads_old_entries(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_at(tmp_path).prepare(films[0])
    monkeypatch.setattr(frames_module, "_FORMAT", frames_module._FORMAT + 1)
    assert isinstance(store_at(tmp_path).open(films[0]), DecodedFrames)


# --- the bound ----------------------------------------------------------------------------------------------

ENTRY = 20 * 3 * 32 * 32  # bytes of pixels of one film
THREE = 3.2 * ENTRY / 1e9


def test_the_bound_is_kept_and_what_this_run_uses_stays(tmp_path: Path, films: list[Path]) -> None:
    store = store_at(tmp_path, gb=THREE)
    held = []
    for film in films:
        held.append(store.prepare(film))
        assert size_of(tmp_path) <= 3.2 * ENTRY
    assert held == [True] * 3 + [False] * 5
    kinds = [isinstance(store.open(film), _CachedFrames) for film in films]
    assert kinds == held
    assert [store.prepare(film) for film in films] == held


def test_the_entries_of_earlier_runs_make_room_the_oldest_first(tmp_path: Path, films: list[Path]) -> None:
    before = store_at(tmp_path, gb=THREE)
    for age, film in ((100, films[0]), (300, films[1]), (200, films[2])):
        assert before.prepare(film)
        (new,) = (path for path in entries(tmp_path) if path.stat().st_mtime > time.time() - 50)
        os.utime(new, (time.time() - age,) * 2)
    run = store_at(tmp_path, gb=THREE)
    assert run.prepare(films[2])  # this run uses it: it now counts as new
    assert run.prepare(films[3])  # film 1 goes
    cached = [isinstance(run.open(film), _CachedFrames) for film in films[:4]]
    assert cached == [True, False, True, True]
    assert run.prepare(films[4])  # film 0 goes
    assert not run.prepare(films[5])
    cached = [isinstance(run.open(film), _CachedFrames) for film in films[:6]]
    assert cached == [False, False, True, True, True, False]


def test_nothing_is_evicted_for_a_film_that_would_not_fit_even_so(tmp_path: Path, films: list[Path]) -> None:
    store_at(tmp_path / "cache", gb=THREE).prepare(films[0])
    (entry,) = entries(tmp_path / "cache")
    os.utime(entry, (0, 0))
    long = write_video(tmp_path / "long.mp4", noise(100, 32, 32))
    assert not store_at(tmp_path / "cache", gb=THREE).prepare(long)
    assert entries(tmp_path / "cache") == [entry]


def test_a_bound_of_nothing_caches_nothing(tmp_path: Path, films: list[Path]) -> None:
    store = store_at(tmp_path, gb=0)
    assert not store.prepare(films[0])
    assert entries(tmp_path) == []


def test_unrelated_files_are_neither_counted_nor_deleted(tmp_path: Path, films: list[Path]) -> None:
    weights, hidden = tmp_path / "model.safetensors", tmp_path / ".hidden"
    for foreign in (weights, hidden):
        foreign.write_bytes(bytes(10 * ENTRY))
        os.utime(foreign, (0, 0))
    store = store_at(tmp_path, gb=THREE)
    assert [store.prepare(film) for film in films[:4]] == [True, True, True, False]
    assert weights.exists()
    assert hidden.exists()


def test_an_entry_that_another_run_evicts_is_decoded_again(tmp_path: Path, films: list[Path]) -> None:
    store = store_at(tmp_path)
    assert store.prepare(films[0])
    opened = store.open(films[0])
    (entry,) = entries(tmp_path)
    entry.unlink()
    index = np.arange(20)
    again = store.open(films[0])
    assert isinstance(again, DecodedFrames)
    assert torch.equal(opened.get(index), again.get(index))  # what is open stays whole


def _fill(folder: Path, films: list[Path], gate: Any) -> None:
    store = store_at(folder, gb=THREE)
    gate.wait(300)
    for film in films:
        store.prepare(film)


def test_concurrent_processes_exceed_the_bound_of_a_cache_by_one_film_each_at_most(
    tmp_path: Path, films: list[Path]
) -> None:
    gate = FORK.Barrier(2)
    turned = films[4:] + films[:4]
    children = [FORK.Process(target=_fill, args=(tmp_path, part, gate)) for part in (films, turned)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0]
    assert size_of(tmp_path) <= (3.2 + 2) * ENTRY
    assert all(not path.name.startswith(".") for path in entries(tmp_path))


# --- nothing half-written -----------------------------------------------------------------------------------


def _prepare_at_once(folder: Path, film: Path, gate: Any) -> None:
    store = store_at(folder)
    gate.wait(300)
    assert store.prepare(film)
    assert isinstance(store.open(film), _CachedFrames)


def test_two_processes_may_prepare_the_same_film_concurrently(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", noise(60))
    cache = tmp_path / "cache"
    gate = FORK.Barrier(3)
    children = [FORK.Process(target=_prepare_at_once, args=(cache, film, gate)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0, 0]
    (entry,) = entries(cache)
    index = np.arange(60)
    got = store_at(cache).open(film).get(index)
    assert torch.equal(got, FrameStore(SPEC).open(film).get(index))
    assert not entry.name.startswith(".")


def _write_and_hang(folder: Path, film: Path, ready: Any) -> None:
    def hang(*_: object, **__: object) -> None:
        ready.set()
        time.sleep(600)

    pixels.resize_images = hang  # type: ignore[assignment]
    store_at(folder).prepare(film)


def test_temporary_files_of_killed_processes_are_not_read_and_are_deleted_later(
    tmp_path: Path, films: list[Path]
) -> None:
    ready = FORK.Event()
    child = FORK.Process(target=_write_and_hang, args=(tmp_path, films[0], ready))
    child.start()
    assert ready.wait(300)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(300)
    (left,) = entries(tmp_path)
    assert left.name.startswith(".")
    store = store_at(tmp_path)
    assert isinstance(store.open(films[0]), DecodedFrames)
    assert store.prepare(films[0])
    assert left.exists()  # somebody may still be writing it

    left.write_bytes(bytes(3 * ENTRY))
    full = store_at(tmp_path, gb=THREE + ENTRY / 1e9)
    assert not full.prepare(films[1])  # it counts, though
    os.utime(left, (time.time() - 2 * ABANDONED,) * 2)
    assert full.prepare(films[1])
    assert not left.exists()


def test_a_broken_film_leaves_no_entry(tmp_path: Path, films: list[Path]) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(films[0].read_bytes()[:200])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "folder.mp4").mkdir()
    store = store_at(tmp_path / "cache")
    for name in ("cut", "empty", "text", "folder", "absent"):
        film = tmp_path / f"{name}.mp4"
        with pytest.raises(VideoError) as caught:
            store.prepare(film)
        assert caught.value.path == str(film)
        with pytest.raises(VideoError):
            store.open(film)
    assert entries(tmp_path / "cache") == []


def test_a_film_that_breaks_in_the_middle_leaves_no_entry(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Video.images_at

    def breaks(self: Video, indices: Any, **options: Any) -> np.ndarray:
        if max(indices) > 17:
            raise VideoError(self.path, "damaged at frame 18")
        return true(self, indices, **options)

    monkeypatch.setattr(Video, "images_at", breaks)
    store = store_at(tmp_path)
    with pytest.raises(VideoError, match="frame 18"):
        store.prepare(films[0])
    assert entries(tmp_path) == []


def test_a_film_that_turns_out_shorter_than_it_seemed_is_refused(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Video, "images_at", lambda _, indices, **__: np.zeros((len(indices), 32, 32, 3), np.uint8)
    )
    lengths = iter([20] * 5)
    monkeypatch.setattr(Video, "__len__", lambda _: next(lengths, 12))
    with pytest.raises(VideoError, match="seemed to hold 20 frames, but 12"):
        store_at(tmp_path).prepare(films[0])
    assert entries(tmp_path) == []


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _without_times(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["times"]
    size = header["frames"]["data_offsets"][1] - header["frames"]["data_offsets"][0]
    header["frames"]["data_offsets"] = [0, size]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    "damage",
    [_cut, _without_times, lambda _: b"", lambda _: b"not safetensors at all", lambda d: d + b"more"],
)
def test_a_damaged_entry_is_named(
    tmp_path: Path, films: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    store = store_at(tmp_path)
    store.prepare(films[0])
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))
    with pytest.raises(ConfigError, match=f"{entry} is damaged.*delete it"):
        store.open(films[0])


# --- folders that cannot serve ------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for nonsense in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"data.cache: the folder {nonsense} cannot be created"):
            store_at(nonsense)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o555)
    if os.geteuid() == 0:  # whom no mode stops; a read-only file system does
        monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be read and written"):
        store_at(tmp_path)
    tmp_path.chmod(0o755)


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = store_at(tmp_path)
    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(WriteError, match=r"safetensors: cannot be written: No space left"):
        store.prepare(films[0])
    assert entries(tmp_path) == []


def test_a_store_travels_to_workers(tmp_path: Path, films: list[Path]) -> None:
    store = store_at(tmp_path)
    store.prepare(films[0])
    sent = pickle.loads(pickle.dumps(store))
    assert isinstance(sent.open(films[0]), _CachedFrames)
    assert sent.prepare(films[1])


# --- memory -------------------------------------------------------------------------------------------------


def test_a_long_film_is_prepared_a_chunk_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4", noise(5 * frames_module._CHUNK, 32, 32))
    asked: list[int] = []
    true = Video.images_at
    monkeypatch.setattr(Video, "images_at", lambda v, i, **k: (asked.append(len(i)), true(v, i, **k))[1])
    store_at(tmp_path / "cache").prepare(film)
    assert sum(asked) == 5 * frames_module._CHUNK
    assert max(asked) == frames_module._CHUNK


def test_a_film_with_no_room_is_not_decoded(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Video, "images_at", refuse)
    assert not store_at(tmp_path, gb=1e-6).prepare(films[0])


def test_a_clip_that_repeats_frames_decodes_each_once(
    films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    true = Video.images_at
    monkeypatch.setattr(Video, "images_at", lambda v, i, **k: (asked.append(len(i)), true(v, i, **k))[1])
    clip = FrameStore(SPEC).open(films[0]).get(np.array([4, 6, 4, 4, 6]))
    assert asked == [2]
    assert torch.equal(clip[[0, 1]], clip[[2, 4]])


# --- pixels that are not square -----------------------------------------------------------------------------


@pytest.fixture
def anamorphic(tmp_path: Path) -> Path:
    """A film of 48 × 80 pixels that are shown 64:45 as wide as high."""
    path = tmp_path / "dv.mkv"
    with video_writer(
        path, height=48, width=80, time_base=Fraction(1, 25), rate=Fraction(25), pixel_aspect=Fraction(64, 45)
    ) as writer:
        for tick, image in enumerate(noise(8).permute(0, 2, 3, 1).numpy()):
            writer.add(image, tick)
    return path


def test_frames_have_the_shape_that_a_player_shows(tmp_path: Path, anamorphic: Path) -> None:
    index = np.arange(4)
    stored = FrameStore(SPEC).open(anamorphic).get(index)
    assert stored.shape == (4, 3, 32, 53)
    square = replace(SPEC, pixel_aspect="square")
    shown = FrameStore(square).open(anamorphic).get(index)
    assert shown.shape == (4, 3, 32, 76)  # 80 · 64/45 · 32/48
    with Video(anamorphic) as video:
        assert torch.equal(shown, pixels.resize(video.frames_at(index), 32, 76))
    for spec, frames in ((SPEC, stored), (square, shown)):  # a cache keeps both, apart
        store = store_at(tmp_path / "cache", spec=spec)
        assert store.prepare(anamorphic)
        opened = store.open(anamorphic)
        assert isinstance(opened, _CachedFrames)
        assert torch.equal(opened.get(index), frames)
    assert len(entries(tmp_path / "cache")) == 2


def test_a_turned_film_is_shown_higher(anamorphic: Path) -> None:
    with Video(anamorphic) as video:
        video._reader.orientation = Orientation(90)
        video._reader._pixel_aspect = None
        assert video.pixel_aspect == Fraction(45, 64)
