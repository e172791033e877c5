from __future__ import annotations

import pickle
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from t3d.clip import ClipSpec
from t3d.data.clips import dataset as dataset_module
from t3d.data.clips.dataset import (
    ClipBatches,
    ClipItem,
    FrameOrder,
    TrainClips,
    VideoClips,
    collate,
    reorder,
)
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import ResumableBatchSampler, SampleKey
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.spans import frame_range
from t3d.data.clips.transforms import crop_views
from t3d.data.clips.views import Views
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import ConfigError, Failed, VideoError
from t3d.video.encode import write_video

SPEC = ClipSpec(num_frames=4, stride=2, size=16, resize=20)
ALL = AugmentConfig(crop="random_resized", color=0.3)
PLAIN = AugmentConfig(flip=0.0)


def table(
    paths: list[Path],
    labels: list[int | None],
    *,
    spans: list[tuple[float | None, float | None]] | None = None,
) -> Manifest:
    starts, ends = zip(*(spans or [(None, None)] * len(paths)), strict=True)
    names = [str(path) for path in paths]
    columns = {"path": names, "label": labels, "start": list(starts), "end": list(ends), "source": names}
    types = [pa.string(), pa.int32(), pa.float64(), pa.float64(), pa.string()]
    arrays = {key: pa.array(values, kind) for (key, values), kind in zip(columns.items(), types, strict=True)}
    return Manifest(("a", "b"), pa.table(arrays))


class Numbered:
    """Frames whose every pixel is their own number; counts the clips in memory at the same time."""

    def __init__(self, times: npt.NDArray[np.float64]) -> None:
        self.times = times
        self.asked: list[int] = []
        self.alive = self.most = 0

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        assert 0 <= indices.min() <= indices.max() < len(self.times)
        clip = torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 20, 20)
        self.asked.append(len(clip))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(clip, self._gone)
        return clip

    def _gone(self) -> None:
        self.alive -= 1


class Films:
    """A store without files: `films` maps a name to its frames, or to the reason why it is bad."""

    def __init__(self, films: dict[str, Numbered | str]) -> None:
        self.films = films

    def open(self, path: Path) -> Numbered:
        film = self.films[path.name]
        if isinstance(film, str):
            raise VideoError(path, film)
        return film


def films_of(**lengths: int | str) -> FrameStore:
    films = {n: Numbered(np.arange(x) / 25) if isinstance(x, int) else x for n, x in lengths.items()}
    return Films(films)  # type: ignore[return-value]


def numbers(item: ClipItem | Failed) -> list[int]:
    assert isinstance(item, ClipItem)
    return item.frames[:, 0, 0, 0].tolist()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Nine films of noise, one of them bad."""
    folder = tmp_path_factory.mktemp("films")
    paths = []
    for i in range(9):
        frames = torch.randint(0, 256, (10 + 3 * i, 3, 24, 32), generator=torch.Generator().manual_seed(i))
        paths.append(write_video(folder / f"{i}.mp4", frames.to(torch.uint8)))
    paths[4].write_bytes(b"broken")
    return table(paths, [i % 2 for i in range(9)])


# --- training clips -----------------------------------------------------------------------------------------


def test_each_visit_in_an_epoch_is_another_clip_and_the_first_is_unchanged(real: Manifest) -> None:
    clips = TrainClips(real, SPEC, store=FrameStore(SPEC), augment=ALL, seed=0)
    items = [clips[SampleKey(2, 1, visit)] for visit in (0, 1, 2, 1)]
    shown = [item.frames.numpy().tobytes() for item in items if isinstance(item, ClipItem)]
    assert len(set(shown)) == 3
    assert shown[1] == shown[3]
    assert torch.equal(items[0].frames, clips[SampleKey(2, 1)].frames)


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_row_number_gives_the_clip_of_the_epoch(real: Manifest, epoch: int) -> None:
    clips = TrainClips(real, SPEC, store=FrameStore(SPEC), augment=ALL, seed=5)
    clips.set_epoch(epoch)
    for row in (0, 8, np.int64(2)):
        want = clips[SampleKey(epoch, int(row))]
        assert isinstance(want, ClipItem)
        assert torch.equal(clips[row].frames, want.frames)
        assert clips[row].video == row
    assert torch.equal(clips[-1].frames, clips[8].frames)
    for row in (9, -10):
        with pytest.raises(IndexError, match=f"row {row} does not exist; there are 9 videos"):
            clips[row]
    with pytest.raises(VideoError, match=r"4\.mp4"):
        clips[4]
    with pytest.raises(TypeError):
        clips["4"]  # type: ignore[call-overload]


def test_torchs_own_loader_shuffles_and_collates_clips(real: Manifest) -> None:
    videos = real.select([row for row in range(9) if row != 4])
    clips = TrainClips(videos, SPEC, store=FrameStore(SPEC), augment=ALL, seed=5)
    shown = []
    for epoch in range(2):
        clips.set_epoch(epoch)
        batches = list(DataLoader(clips, batch_size=4, shuffle=True, num_workers=2 * epoch))
        assert [batch.frames.shape for batch in batches] == [(4, 4, 3, 16, 16)] * 2
        rows = torch.cat([batch.video for batch in batches]).tolist()
        assert sorted(rows) == list(range(8))
        frames = torch.cat([batch.frames for batch in batches])
        for row, one in zip(rows, frames, strict=True):
            assert torch.equal(one, clips[row].frames)
        assert torch.cat([batch.label for batch in batches]).tolist() == videos.labels[rows].tolist()
        shown.append(frames[rows.index(7)])
    assert not torch.equal(*shown)


def visits(
    manifest: Manifest, store: FrameStore, *, workers: int, epochs: int = 2, seed: int = 3, batch: int = 3
) -> dict[SampleKey, bytes | str]:
    """Return the items of a loader for every key of some epochs."""
    sampler = ResumableBatchSampler(len(manifest), batch_size=batch, seed=seed)
    loader = Loader(
        TrainClips(manifest, SPEC, store=store, augment=ALL, seed=seed),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
    )
    clips_read: dict[SampleKey, bytes | str] = {}
    for epoch in range(epochs):
        sampler.set_state(epoch=epoch, step=0)
        for batch_of in loader:
            for k, row in enumerate(batch_of.videos.tolist()):
                assert batch_of.labels[k] == row % 2
                clips_read[SampleKey(epoch, row)] = batch_of.frames[k].numpy().tobytes()
            clips_read |= {SampleKey(epoch, video.row): video.path for video in batch_of.bad}
    return clips_read


def test_the_same_seed_epoch_and_row_give_the_same_pixels_however_they_are_read(
    tmp_path: Path, real: Manifest
) -> None:
    reference = visits(real, FrameStore(SPEC), workers=0)
    assert len(reference) == 18
    torch.manual_seed(99)  # the global generator must not matter
    assert visits(real, FrameStore(SPEC), workers=2) == reference
    cached = FrameStore(SPEC, cache=str(tmp_path))
    assert sum(cached.prepare(real[row].path) for row in range(9) if row != 4) == 8
    assert visits(real, cached, workers=0) == reference
    assert visits(real, cached, workers=0, batch=9) == reference
    clips = TrainClips(real, SPEC, store=cached, augment=ALL, seed=3)
    for key in sorted(reference, reverse=True):
        item = clips[key]
        assert reference[key] == (item.frames.numpy().tobytes() if isinstance(item, ClipItem) else item.path)


def test_other_epochs_rows_and_seeds_give_other_clips(real: Manifest) -> None:
    store = FrameStore(SPEC)
    first = visits(real, store, workers=0)
    second = visits(real, store, workers=0, seed=4)
    assert all(first[key] != second[key] for key in first if key.row != 4)
    assert all(first[SampleKey(0, row)] != first[SampleKey(1, row)] for row in range(9) if row != 4)


def test_a_clip_starts_anywhere_over_the_epochs() -> None:
    clips = TrainClips(table([Path("x")], [1]), SPEC, store=films_of(x=12), augment=PLAIN, seed=0)
    starts = Counter()
    for epoch in range(300):
        clip = numbers(clips[SampleKey(epoch, 0)])
        assert clip == [clip[0] + 2 * k for k in range(4)]
        starts[clip[0]] += 1
    assert set(starts) == set(range(6))
    assert min(starts.values()) > 25


def test_a_training_clip_has_the_shape_and_label_it_should(real: Manifest) -> None:
    item = TrainClips(real, SPEC, store=FrameStore(SPEC), augment=ALL, seed=0)[SampleKey(0, 1)]
    assert isinstance(item, ClipItem)
    assert item.frames.shape == (4, 3, 16, 16)
    assert item.frames.dtype == torch.uint8
    assert item.frames.is_contiguous(memory_format=torch.channels_last)
    assert (item.video, item.clip, item.label) == (1, 0, 1)
    unlabeled = TrainClips(table([Path("x")], [None]), SPEC, store=films_of(x=9), augment=PLAIN, seed=0)
    item = unlabeled[SampleKey(0, 0)]
    assert isinstance(item, ClipItem)
    assert item.label == -1


def test_a_bad_video_is_returned_and_not_raised() -> None:
    manifest = table([Path("good"), Path("bad")], [0, 1])
    clips = TrainClips(manifest, SPEC, store=films_of(good=9, bad="is broken"), augment=PLAIN, seed=0)
    assert isinstance(clips[SampleKey(0, 0)], ClipItem)
    path = manifest[1].path
    assert clips[SampleKey(0, 1)] == Failed(str(path), "is broken", 1)


def test_a_span_or_a_length_that_gives_no_clip_is_a_bad_video() -> None:
    manifest = table([Path("x"), Path("x")], [0, 0], spans=[(60.0, 70.0), (None, 0.2)])
    strict = replace(SPEC, short="error")
    train = TrainClips(manifest, strict, store=films_of(x=50), augment=PLAIN, seed=0)
    outcomes = [[train[SampleKey(0, row)] for row in range(2)]]
    outcomes.append(list(VideoClips(manifest, strict, store=films_of(x=50))))
    for first, second in outcomes:
        assert isinstance(first, Failed)
        assert "from 60.0 to 70.0 s holds no frame; the video has 50 frames from 0 to 1.960 s" in first.reason
        assert isinstance(second, Failed)
        assert "has 5 frames" in second.reason
        assert "needs 7" in second.reason


def test_training_clips_stay_within_their_span() -> None:
    manifest = table([Path("x")], [0], spans=[(1.0, 2.0)])
    clips = TrainClips(manifest, SPEC, store=films_of(x=100), augment=PLAIN, seed=0)
    seen = {number for epoch in range(400) for number in numbers(clips[SampleKey(epoch, 0)])}
    assert seen == set(range(25, 50))


# --- spans --------------------------------------------------------------------------------------------------


def slow_span(times: npt.NDArray[np.float64], start: float | None, end: float | None) -> list[int]:
    """The frames that are shown at some moment of [start, end); the last is shown forever."""
    shown = []
    for i, begins in enumerate(times):
        ends = times[i + 1] if i + 1 < len(times) else np.inf
        if (start is None or ends > start) and (end is None or begins < end):
            shown.append(i)
    return shown


def entry_of(start: float | None, end: float | None) -> Entry:
    return Entry(Path("film.mp4"), None, start, end, "film")


def test_a_span_holds_the_frames_shown_in_it() -> None:
    rng = np.random.default_rng(0)
    for trial in range(300):
        times = np.concatenate([[0], np.cumsum(rng.uniform(0.02, 0.2, size=rng.integers(1, 30)))])
        # Away from frame borders, where rounding is forgiven.
        edges = [t for t in rng.uniform(0, times[-1] * 1.1, size=40) if np.abs(times - t).min() > 2e-3]
        start, end = sorted(edges[:2])
        for a, b in ((start, end), (None, end), (start, None), (None, None)):
            low, high = frame_range(Numbered(times), entry_of(a, b))
            assert list(range(low, high)) == slow_span(times, a, b), (trial, a, b)


@pytest.mark.parametrize("fps", [25, 30, 30000 / 1001, 10])
def test_times_rounded_in_a_table_name_the_frames_they_mean(fps: float) -> None:
    frames = Numbered(np.arange(200) / fps)
    for first in (0, 1, 7, 50, 133):
        for last in (first + 1, first + 20, 199):
            span = entry_of(round(first / fps, 3), round(last / fps, 3))
            assert frame_range(frames, span) == (first, last)


@pytest.mark.parametrize(("start", "end"), [(3.0, 4.0), (10.0, None), (10.0, 20.0)])
def test_a_span_after_the_end_of_the_video_is_refused(start: float, end: float | None) -> None:
    with pytest.raises(
        VideoError, match=r"film\.mp4: the span from .* holds no frame; the video has 50 frames"
    ):
        frame_range(Numbered(np.arange(50) / 25), entry_of(start, end))


# --- all clips of all videos --------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["drop", "pad", "shift"])
def test_every_video_is_cut_as_clips_of_says(tail: str) -> None:
    spec = replace(SPEC, tail=tail)
    lengths = {f"v{n}": n for n in (1, 3, 7, 8, 15, 16, 17, 100)}
    manifest = table([Path(name) for name in lengths], [0] * len(lengths))
    items = list(VideoClips(manifest, spec, store=films_of(**lengths)))
    expected = [
        (row, k, clip.tolist())
        for row, total in enumerate(lengths.values())
        for k, clip in enumerate(clips_of(total, spec))
    ]
    assert [
        (item.video, item.clip, numbers(item)) for item in items if isinstance(item, ClipItem)
    ] == expected


def test_spans_of_one_file_are_cut_each_for_itself() -> None:
    manifest = table([Path("x"), Path("x")], [0, 1], spans=[(0.4, 0.8), (1.0, None)])
    items = list(VideoClips(manifest, SPEC, store=films_of(x=40)))
    assert [(item.video, numbers(item)) for item in items] == [
        (0, [10, 12, 14, 16]),
        (1, [25, 27, 29, 31]),
        (1, [33, 35, 37, 39]),
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_processes_and_workers_share_the_videos_out_and_lose_none(
    monkeypatch: pytest.MonkeyPatch, world: int, workers: int
) -> None:
    lengths = {f"v{i}": 5 + 4 * i for i in range(13)}
    manifest = table([Path(name) for name in lengths], [0] * 13)
    store = films_of(**lengths)
    whole = [(item.video, item.clip) for item in VideoClips(manifest, SPEC, store=store)]
    batches: list[list[tuple[int, int]]] = []
    for rank in range(world):
        for worker in range(max(workers, 1)):
            info = SimpleNamespace(num_workers=workers, id=worker) if workers else None
            monkeypatch.setattr(dataset_module, "get_worker_info", lambda info=info: info)
            clips = VideoClips(manifest, SPEC, store=store)
            for batch in ClipBatches(clips, batch_size=3, rank=rank, world_size=world):
                batches.append(list(zip(batch.videos.tolist(), batch.clips.tolist(), strict=True)))
    shared = [key for batch in batches for key in batch]
    assert sorted(shared) == sorted(whole)
    assert len(set(whole)) == len(whole)
    want = []  # three videos at a time, three of their clips at a time, whoever reads them
    for first in range(0, 13, 3):
        part = [key for key in whole if first <= key[0] < first + 3]
        want += [part[at : at + 3] for at in range(0, len(part), 3)]
    assert sorted(batches) == want


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_loader_with_workers_gives_the_same_clips(real: Manifest, batch_size: int) -> None:
    def read(workers: int) -> dict[tuple[int, int], bytes]:
        clips = VideoClips(real, SPEC, store=FrameStore(SPEC), order="shuffled")
        batches = ClipBatches(clips, batch_size=batch_size)
        loader = Loader(batches, batch_size=None, num_workers=workers)
        clips_read: dict[tuple[int, int], bytes] = {}
        bad = []
        for batch in loader:
            keys = zip(batch.videos.tolist(), batch.clips.tolist(), strict=True)
            for k, key in enumerate(keys):
                assert key not in clips_read
                clips_read[key] = batch.frames[k].numpy().tobytes()
            bad += [video.row for video in batch.bad]
        assert bad == [4]
        return clips_read

    assert read(2) == read(0)


def test_a_video_that_breaks_in_the_middle_fails_after_its_good_clips() -> None:
    store = films_of(x=40, y=9)
    film = store.films["x"]  # type: ignore[attr-defined]
    true: Callable[[npt.NDArray[np.int64]], torch.Tensor] = film.get

    def get(indices: npt.NDArray[np.int64]) -> torch.Tensor:
        if indices.max() > 20:
            raise VideoError("x", "damaged at frame 21")
        return true(indices)

    film.get = get
    items = list(VideoClips(table([Path("x"), Path("y")], [0, 0]), SPEC, store=store))
    assert [type(item) for item in items] == [ClipItem, ClipItem, Failed, ClipItem]
    assert items[2].reason == "damaged at frame 21"  # type: ignore[union-attr]
    assert [item.row if isinstance(item, Failed) else item.video for item in items] == [0, 0, 0, 1]


def test_a_long_video_costs_the_memory_of_a_clip() -> None:
    store = films_of(x=250)
    film = store.films["x"]  # type: ignore[attr-defined]
    count = 0
    for item in VideoClips(table([Path("x")], [0]), SPEC, store=store):
        assert isinstance(item, ClipItem)
        count += 1
    assert count == 31
    assert film.most <= 2  # the one that is handed over and the one that is being made
    assert max(film.asked) == 4


# --- several views of a video -------------------------------------------------------------------------------


def test_crops_of_a_clip_follow_one_another_under_its_number(real: Manifest) -> None:
    store = FrameStore(SPEC)
    items = list(VideoClips(real, SPEC, store=store, views=Views(clips=3, crops=10)))
    rows = [row for row in range(9) if row != 4]
    keys = [(item.video, item.clip) for item in items if isinstance(item, ClipItem)]
    assert keys == [(row, clip) for row in rows for clip in range(3) for _ in range(10)]
    of_last = [item.frames for item in items if isinstance(item, ClipItem) and item.video == 8]
    frames = store.open(real[8].path)
    for clip, start in enumerate((0, 13, 27)):  # of 34 frames, 7 per clip
        expected = crop_views(frames.get(start + np.arange(0, 8, 2)), SPEC, crops=10)
        assert all(map(torch.equal, expected, of_last[10 * clip : 10 * clip + 10]))


def test_a_video_shorter_than_a_clip_gives_as_many_views_as_any() -> None:
    views = Views(clips=3, crops=5)
    items = list(VideoClips(table([Path("x")], [0]), SPEC, store=films_of(x=5), views=views))
    assert [numbers(item) for item in items] == [[0, 2, 4, 1]] * 15


def test_spread_clips_stay_within_their_span() -> None:
    manifest = table([Path("x")], [0], spans=[(1.0, 2.0)])
    items = VideoClips(manifest, SPEC, store=films_of(x=100), views=Views(clips=2))
    assert [numbers(item) for item in items] == [[25, 27, 29, 31], [43, 45, 47, 49]]


def test_many_crops_cost_the_memory_of_a_clip_and_no_decoding() -> None:
    store = films_of(x=250)
    film = store.films["x"]  # type: ignore[attr-defined]
    views = Views(clips=40, crops=10)
    count = sum(1 for _ in VideoClips(table([Path("x")], [0]), SPEC, store=store, views=views))
    assert count == 400
    assert film.most <= 2
    assert film.asked == [4] * 40


def test_all_crops_of_a_clip_share_one_order_and_clips_have_different_ones() -> None:
    spec = replace(SPEC, num_frames=8, stride=1)
    views = Views(clips=4, crops=3)
    clips = VideoClips(
        table([Path("x")], [0]), spec, store=films_of(x=32), order="shuffled", seed=5, views=views
    )
    shown = [numbers(item) for item in clips]
    orders = [[number - 8 * clip for number in shown[3 * clip]] for clip in range(4)]
    assert shown == [frames for frames in shown[::3] for _ in range(3)]
    assert len(set(map(tuple, orders))) == 4


def test_views_that_do_not_go_with_the_spec_are_refused() -> None:
    with pytest.raises(ConfigError, match="segments"):
        VideoClips(
            table([Path("x")], [0]), replace(SPEC, segments=2), store=films_of(x=40), views=Views(clips=2)
        )


# --- other orders of frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", get_args(FrameOrder))
def test_orders_change_nothing_but_the_order(order: FrameOrder) -> None:
    clip = np.arange(10, 40, 3)
    before = clip.copy()
    got = reorder(clip, order, np.random.default_rng(0))
    assert np.array_equal(clip, before)
    assert got.shape == clip.shape
    if order == "normal":
        assert got.tolist() == clip.tolist()
    if order == "reversed":
        assert got.tolist() == list(reversed(clip.tolist()))
    if order == "static":
        assert got.tolist() == [25] * 10
    if order == "shuffled":
        assert sorted(got) == sorted(clip)
        assert got.tolist() != clip.tolist()


@pytest.mark.parametrize("order", get_args(FrameOrder))
def test_each_segment_keeps_its_frames_in_any_order(order: FrameOrder) -> None:
    """Two clips of 4 frames at stride 2, in the middle of the halves of 40 frames."""
    spec = replace(SPEC, segments=2)
    clips = VideoClips(table([Path("x")], [0]), spec, store=films_of(x=40), order=order)
    (item,) = clips
    first, second = numbers(item)[:4], numbers(item)[4:]
    expected = {"static": [10] * 4, "reversed": [12, 10, 8, 6]}.get(order, [6, 8, 10, 12])
    if order == "shuffled":
        first, second = sorted(first), sorted(second)
    assert first == expected
    assert second == [frame + 20 for frame in expected]


def test_shuffling_follows_from_seed_video_and_clip() -> None:
    manifest = table([Path("x"), Path("y")], [0, 0])
    spec = replace(SPEC, num_frames=8, stride=1)

    def read(seed: int) -> dict[tuple[int, int], list[int]]:
        clips = VideoClips(manifest, spec, store=films_of(x=80, y=80), order="shuffled", seed=seed)
        return {(item.video, item.clip): numbers(item) for item in clips}

    first = read(0)
    assert read(0) == first
    orders = [tuple(number - 8 * clip for number in frames) for (_, clip), frames in first.items()]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == 20  # every clip has its own order
    other = read(1)
    assert all(first[key] != other[key] for key in first)
    # A video alone is shuffled as it is in the whole.
    part = VideoClips(manifest, spec, store=films_of(x=80, y=80), order="shuffled").of(1)
    assert {(item.video, item.clip): numbers(item) for item in part} == {
        key: frames for key, frames in first.items() if key[0] == 1
    }


# --- batches ------------------------------------------------------------------------------------------------


def test_a_batch_sets_bad_videos_apart() -> None:
    frames = [torch.full((4, 3, 8, 8), value, dtype=torch.uint8) for value in (1, 2)]
    bad = Failed("film", "broken", 7)
    batch = collate([ClipItem(3, 0, frames[0], 1), bad, ClipItem(5, 2, frames[1], -1)])
    assert batch.frames is not None
    assert torch.equal(batch.frames, torch.stack(frames))
    assert batch.labels.tolist() == [1, -1]
    assert batch.videos.tolist() == [3, 5]
    assert batch.clips.tolist() == [0, 2]
    assert batch.bad == (bad,)
    assert batch.labels.dtype == batch.videos.dtype == batch.clips.dtype == torch.int64


def test_a_batch_of_bad_videos_only_has_no_frames() -> None:
    batch = collate([Failed("a", "x", 1), Failed("b", "y", 2)])
    assert batch.frames is None
    assert len(batch.labels) == len(batch.videos) == 0
    assert [video.row for video in batch.bad] == [1, 2]


def test_data_sets_travel_to_workers(real: Manifest) -> None:
    store = FrameStore(SPEC)
    train = TrainClips(real, SPEC, store=store, augment=ALL, seed=0)
    sent = pickle.loads(pickle.dumps(train))
    first, second = (clips[SampleKey(1, 2)] for clips in (train, sent))
    assert isinstance(first, ClipItem)
    assert torch.equal(first.frames, second.frames)
    scoring = pickle.loads(pickle.dumps(VideoClips(real, SPEC, store=store)))
    assert len([item for item in scoring if isinstance(item, Failed)]) == 1
