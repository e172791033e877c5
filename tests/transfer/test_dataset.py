from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import SampleKey
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, VideoError
from t3d.transfer.dataset import CollatePairs, PairBatch, PairItem, TeacherView, TransferClips
from t3d.transfer.features import FeatureStore
from t3d.transfer.teachers.library import TorchTeacher
from t3d.video.encode import write_video

SPEC = ClipSpec(num_frames=4, stride=2, size=20, resize=24)  # a span of 7 frames
SEEN = ClipSpec(num_frames=2, stride=1, size=16, resize=24)  # of the teacher
WHOLE = ClipSpec(num_frames=4, stride=3, size=40, resize=40)  # a span of 10 frames, shown from edge to edge
VARIED = AugmentConfig(crop="five", flip=0.5)
Indices = npt.NDArray[np.int64]


def table(*paths: Path | str, spans: list[tuple[float | None, float | None]] | None = None) -> Manifest:
    starts, ends = zip(*(spans or [(None, None)] * len(paths)), strict=True)
    names = [str(path) for path in paths]
    columns = {"path": names, "label": [None] * len(names), "start": starts, "end": ends, "source": names}
    return Manifest((), pa.table({name: list(values) for name, values in columns.items()}))


class Film:
    """Frames of 24 × 24 that say where they come from: red is the frame's number, green column, blue row."""

    def __init__(self, count: int, breaks_at: int) -> None:
        self.times = np.arange(count) / 25
        self.breaks_at = breaks_at

    def get(self, indices: Indices) -> Tensor:
        assert 0 <= indices.min() <= indices.max() < len(self.times)
        if indices.max() >= self.breaks_at:
            raise VideoError("film", f"breaks at frame {self.breaks_at}")
        frames = torch.zeros(len(indices), 3, 24, 24, dtype=torch.uint8)
        frames[:, 0] = torch.from_numpy(indices).view(-1, 1, 1)
        frames[:, 1] = torch.arange(24)
        frames[:, 2] = torch.arange(24).view(-1, 1)
        return frames


class Films:
    """A store without files; `lengths` maps a name to its number of frames, or to why it cannot be opened."""

    def __init__(self, spec: ClipSpec, lengths: dict[str, int | str], breaks_at: int = 1000) -> None:
        self.spec = spec
        self.lengths = lengths
        self.breaks_at = breaks_at

    def open(self, path: Path) -> Film:
        length = self.lengths[path.name]
        if isinstance(length, str):
            raise VideoError(path, length)
        return Film(length, self.breaks_at)


class Asked:
    """Kept features that are the numbers of the frames asked for."""

    def get(self, path: Path, frames: Indices) -> Tensor:
        return torch.tensor([[int(path.name), frame] for frame in frames.tolist()])


def clips(manifest: Manifest, lengths: dict[str, int | str], **changes: Any) -> TransferClips:
    options: dict[str, Any] = {
        "store": Films(SPEC, lengths),
        "teacher": Films(SEEN, lengths),
        "augment": None,
        "seed": 0,
        "count": 2,
    }
    return transfer_clips(manifest, changes.pop("spec", SPEC), **(options | changes))


def transfer_clips(manifest: Manifest, spec: ClipSpec, **options: Any) -> TransferClips:
    view = TeacherView(
        options.pop("teacher"),
        options.pop("count"),
        options.pop("features", None),
        options.pop("teacher_augment", None),
    )
    return TransferClips(manifest, spec, teacher=view, **options)


def item_of(dataset: TransferClips, epoch: int = 0, row: int = 0) -> PairItem:
    item = dataset[SampleKey(epoch, row)]
    assert isinstance(item, PairItem), item
    return item


def numbers(frames: Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def view_of(frames: Tensor) -> tuple[int, int, bool]:
    """Top, left and whether it is flipped, the same for all frames."""
    size = frames.shape[-1]
    rows, columns = frames[:, 2, :, 0], frames[:, 1, 0]
    flipped = bool(columns[0, 0] > columns[0, -1])
    top, left = int(rows[0, 0]), int(columns[0].min())
    want = torch.arange(left, left + size).flip(0) if flipped else torch.arange(left, left + size)
    assert (columns == want).all()
    assert (rows == torch.arange(top, top + size)).all()
    return top, left, flipped


def middles(first: int, last: int, count: int) -> list[int]:
    """The middles of `count` equal parts of the frames from `first` to `last`, in whole numbers."""
    return [first + (2 * part + 1) * (last - first + 1) // (2 * count) for part in range(count)]


def same(one: Any, two: Any) -> bool:
    """Equality to the bit of items."""
    pairs = ((one.frames, two.frames), (one.teacher, two.teacher), (one.other, two.other))
    return one.video == two.video and all(
        a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs
    )


# --- which frames -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory, numbered_frames: Callable[..., Tensor]) -> Path:
    """A video of 48 frames of 40 × 40 that show their numbers."""
    return write_video(tmp_path_factory.mktemp("films") / "a.mp4", numbered_frames(48, height=40, width=40))


@pytest.mark.parametrize("count", [1, 3, 8, 16])
def test_pixels_show_frames_of_the_clips_own_time_and_of_another(
    numbered: Path, read_numbers: Callable[[Tensor], list[int]], count: int
) -> None:
    store = FrameStore(WHOLE)
    dataset = TransferClips(
        table(numbered),
        WHOLE,
        store=store,
        augment=None,
        seed=1,
        teacher=TeacherView(store, count),
        other_time=True,
    )
    starts, sides = set(), set()
    for epoch in range(8):
        item = item_of(dataset, epoch)
        assert item.frames.shape == (4, 3, 40, 40)
        assert item.teacher.shape == (count, 3, 40, 40)
        assert {item.frames.dtype, item.teacher.dtype} == {torch.uint8}
        clip = read_numbers(item.frames)
        start = clip[0]
        assert clip == [start, start + 3, start + 6, start + 9]
        assert read_numbers(item.teacher) == middles(start, start + 9, count)
        starts.add(start)
        if item.other is not None:
            other = read_numbers(item.other)
            begins = other[0] - middles(0, 9, count)[0]
            assert other == middles(begins, begins + 9, count)
            assert begins + 9 < start or begins > start + 9
            assert 0 <= begins <= 48 - 10
            sides.add(begins < start)
    assert len(starts) > 3
    assert sides == {True, False}


def test_rows_stay_within_their_spans() -> None:
    lengths: dict[str, int | str] = {"x": 100}
    spans = [(0.4, 1.2), (2.0, None), (None, 0.8)]
    dataset = clips(table("x", "x", "x", spans=spans), lengths, count=3, other_time=True)
    for row, (low, high) in enumerate([(10, 30), (50, 100), (0, 20)]):
        mine, theirs, others = set(), set(), set()
        for epoch in range(300):
            item = item_of(dataset, epoch, row)
            clip = numbers(item.frames)
            mine |= set(clip)
            theirs |= set(numbers(item.teacher))
            assert numbers(item.teacher) == middles(clip[0], clip[-1], 3)
            if item.other is not None:
                others |= set(numbers(item.other))
        assert mine == set(range(low, high))
        edge = middles(0, 6, 3)
        inner = set(range(low + edge[0], high - 7 + edge[-1] + 1))
        assert theirs == inner
        assert others <= inner
        assert min(others) == min(inner)
        assert max(others) == max(inner)


def test_there_is_another_time_only_where_one_is_asked_for_and_fits() -> None:
    lengths: dict[str, int | str] = {"short": 13, "long": 14}
    rows = table("short", "long")
    assert all(item_of(clips(rows, lengths), epoch, 1).other is None for epoch in range(20))
    dataset = clips(rows, lengths, other_time=True)
    assert all(item_of(dataset, epoch, 0).other is None for epoch in range(50))
    fits = 0
    for epoch in range(100):
        item = item_of(dataset, epoch, 1)
        start = numbers(item.frames)[0]
        assert (item.other is not None) == (start in (0, 7))  # two clips of 7 fill 14 frames in one way
        if item.other is not None:
            assert numbers(item.other) == middles(7 - start, 13 - start, 2)
            fits += 1
    assert fits > 10


@pytest.mark.parametrize(("policy", "clip"), [("wrap", [0, 2, 4, 1]), ("repeat_last", [0, 2, 4, 4])])
@pytest.mark.parametrize("low", [0, 20])
def test_a_video_shorter_than_a_clip_is_filled_up(policy: str, clip: list[int], low: int) -> None:
    spec = replace(SPEC, short=policy)
    rows = table("x", spans=[(None, None)] if low == 0 else [(0.8, 1.0)])
    dataset = clips(rows, {"x": low + 5}, spec=spec, count=5, other_time=True)
    for epoch in range(5):
        item = item_of(dataset, epoch)
        assert numbers(item.frames) == [low + number for number in clip]
        assert numbers(item.teacher) == [low + number for number in range(5)]
        assert item.other is None


def test_a_video_shorter_than_a_clip_is_a_bad_one_where_that_is_asked_for() -> None:
    strict = replace(SPEC, short="error")
    dataset = clips(table("short", "long"), {"short": 6, "long": 7}, spec=strict)
    item = dataset[SampleKey(0, 0)]
    assert isinstance(item, Failed)
    assert (item.row, item.path) == (0, "short")
    for message in ("has 6 frames", "needs 7", "clip.short = wrap or repeat_last"):
        assert message in item.reason
    assert numbers(item_of(dataset, 0, 1).frames) == [0, 2, 4, 6]


# --- how they are varied ------------------------------------------------------------------------------------


def test_without_augmentation_both_see_the_center() -> None:
    dataset = clips(table("x"), {"x": 40}, other_time=True)
    for epoch in range(10):
        item = item_of(dataset, epoch)
        assert view_of(item.frames) == (2, 2, False)
        assert view_of(item.teacher) == (4, 4, False)
        if item.other is not None:
            assert view_of(item.other) == (4, 4, False)


def test_the_clip_alone_is_varied_where_the_teacher_is_not() -> None:
    dataset = clips(table("x"), {"x": 40}, augment=VARIED)
    views = set()
    for epoch in range(100):
        item = item_of(dataset, epoch)
        assert view_of(item.teacher) == (4, 4, False)
        views.add(view_of(item.frames))
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    assert views == {(*corner, flip) for corner in corners for flip in (False, True)}


def test_views_of_clip_and_frames_tell_nothing_of_each_other() -> None:
    dataset = clips(table("x"), {"x": 40}, augment=VARIED, teacher_augment=VARIED, other_time=True)
    clip_and_own, own_and_other = Counter(), Counter()
    for epoch in range(1500):
        item = item_of(dataset, epoch)
        clip, own = view_of(item.frames), view_of(item.teacher)
        # The teacher's crops lie twice as far from the center as the clip's.
        clip_and_own[(clip[0] * 2, clip[1] * 2, clip[2]), own] += 1
        if item.other is not None:
            own_and_other[own, view_of(item.other)] += 1
    for seen in (clip_and_own, own_and_other):
        assert len(seen) == 100  # 5 crops and a flip on either side
        total = sum(seen.values())
        aligned = sum(times for (one, two), times in seen.items() if one == two) / total
        assert aligned == pytest.approx(0.1, abs=0.03)
        for side in (0, 1):
            flips = sum(times for views, times in seen.items() if views[side][2]) / total
            assert flips == pytest.approx(0.5, abs=0.05)


def test_views_tell_nothing_of_the_time() -> None:
    dataset = clips(table("x"), {"x": 16}, augment=VARIED, teacher_augment=VARIED)
    seen: dict[str, Counter[Any]] = {"clip": Counter(), "teacher": Counter()}
    for epoch in range(2000):
        item = item_of(dataset, epoch)
        start = numbers(item.frames)[0]
        seen["clip"][start, view_of(item.frames)] += 1
        seen["teacher"][start, view_of(item.teacher)] += 1
    for counts in seen.values():
        assert len(counts) == 100  # 10 starts, 5 crops and a flip
        assert max(counts.values()) < 45  # of 20 to be expected


# --- what an item depends on --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six films of noise, 12 to 32 frames of 24 × 32; the third is broken."""
    folder = tmp_path_factory.mktemp("noise")
    paths = []
    for i in range(6):
        generator = torch.Generator().manual_seed(i)
        frames = torch.randint(0, 256, (12 + 4 * i, 3, 24, 32), generator=generator).byte()
        paths.append(write_video(folder / f"{i}.mp4", frames))
    paths[2].write_bytes(b"broken")
    return table(*paths)


def decoded(noise: Manifest, **changes: Any) -> TransferClips:
    options: dict[str, Any] = {
        "store": FrameStore(SPEC),
        "teacher": FrameStore(SEEN),
        "augment": AugmentConfig(crop="random_resized", color=0.3),
        "teacher_augment": VARIED,
        "seed": 3,
        "count": 2,
        "other_time": True,
    }
    return transfer_clips(noise, SPEC, **(options | changes))


def test_the_same_seed_epoch_and_row_give_the_same_item_however_they_are_read(
    noise: Manifest, tmp_path: Path
) -> None:
    keys = [SampleKey(epoch, row) for epoch in range(2) for row in range(6)]
    reference = {key: decoded(noise)[key] for key in keys}
    assert {key.row for key in keys if isinstance(reference[key], Failed)} == {2}
    torch.manual_seed(99)  # global generators must not matter
    np.random.seed(99)
    dataset = decoded(noise)
    for key in reversed(keys):
        if key.row != 2:
            assert same(dataset[key], reference[key])
    stores = [FrameStore(spec, cache=str(tmp_path / "cache")) for spec in (SPEC, SEEN)]
    assert all(store.prepare(noise[0].path) for store in stores)
    assert same(decoded(noise, store=stores[0], teacher=stores[1])[keys[0]], reference[keys[0]])

    order = [[keys[place] for place in batch] for batch in ((7, 0, 8, 3), (11, 5, 1, 10), (9, 4, 6, 2))]
    for workers in (0, 2):
        loader = Loader(
            dataset,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=CollatePairs(other_time=True),
        )
        for batch, wanted in zip(loader, order, strict=True):
            items = [reference[key] for key in wanted]
            again = CollatePairs(other_time=True)(items)
            for name in ("frames", "teacher", "other", "videos"):
                assert torch.equal(getattr(batch, name), getattr(again, name)), name
            assert batch.bad == again.bad


def test_other_epochs_rows_and_seeds_give_other_items(noise: Manifest) -> None:
    row = table(*[noise[5].path] * 2)  # the same film, so that only the draws can differ
    original, reseeded = decoded(row), decoded(row, seed=4)
    items = [
        original[SampleKey(0, 0)],
        original[SampleKey(1, 0)],
        original[SampleKey(0, 1)],
        reseeded[SampleKey(0, 0)],
    ]
    for i, one in enumerate(items):
        for two in items[:i]:
            assert isinstance(one, PairItem)
            assert isinstance(two, PairItem)
            assert not torch.equal(one.frames, two.frames)
            assert not torch.equal(one.teacher, two.teacher)


def test_items_are_channels_last(noise: Manifest) -> None:
    for changes in ({}, {"augment": None, "teacher_augment": None}):
        item = item_of(decoded(noise, **changes), row=5)
        assert item.other is not None
        assert item.frames.is_contiguous(memory_format=torch.channels_last)
        assert item.teacher.is_contiguous(memory_format=torch.channels_last)
        assert item.other.is_contiguous(memory_format=torch.channels_last)
        assert item.frames.shape == (4, 3, 20, 20)
        assert item.teacher.shape == item.other.shape == (2, 3, 16, 16)


# --- features that are kept ---------------------------------------------------------------------------------


def test_with_kept_features_no_frame_of_the_teachers_is_decoded() -> None:
    lengths: dict[str, int | str] = {"1": 60, "2": 60}
    rows = table("1", "2", spans=[(0.4, None), (None, None)])
    nothing = Films(SEEN, {})  # opening anything there is a KeyError
    kept = clips(rows, lengths, augment=VARIED, features=Asked(), teacher=nothing, other_time=True, count=3)
    fresh = clips(rows, lengths, augment=VARIED, other_time=True, count=3)
    others = 0
    for epoch in range(30):
        for row in range(2):
            item, decoded_item = item_of(kept, epoch, row), item_of(fresh, epoch, row)
            assert torch.equal(item.frames, decoded_item.frames)
            assert item.teacher.tolist() == [[row + 1, seen] for seen in numbers(decoded_item.teacher)]
            assert (item.other is None) == (decoded_item.other is None)
            if item.other is not None and decoded_item.other is not None:
                others += 1
                assert item.other.tolist() == [[row + 1, seen] for seen in numbers(decoded_item.other)]
    assert others > 30


def test_kept_features_are_those_of_the_frames_that_would_be_decoded(noise: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    mean = (0.5, 0.5, 0.5)
    teacher = TorchTeacher("tiny", net, size=16, mean=mean, std=mean)
    store = FrameStore(replace(SEEN, resize=16))
    features = FeatureStore(str(tmp_path / "features"), digest=teacher.digest, step=1)
    bad = features.make(noise, teacher, store=store, workers=0)
    assert [video.row for video in bad] == [2]
    kept = decoded(noise, features=features, teacher=store, teacher_augment=None)
    fresh = decoded(noise, teacher=store, teacher_augment=None)
    for key in (SampleKey(0, 5), SampleKey(1, 5), SampleKey(0, 4)):
        mine, theirs = kept[key], fresh[key]
        assert isinstance(mine, PairItem)
        assert isinstance(theirs, PairItem)
        want = torch.stack([teacher(frame[None])[0] for frame in theirs.teacher])
        assert mine.teacher.dtype == torch.float32
        torch.testing.assert_close(mine.teacher, want, rtol=0, atol=1e-3)
    unreadable = kept[SampleKey(0, 2)]
    assert isinstance(unreadable, Failed)

    entry = features.entry(noise[5].path)
    entry.write_bytes(entry.read_bytes()[:50])
    with pytest.raises(ConfigError, match=rf"{entry.name}.*damaged"):  # no video's fault: not counted as one
        kept[SampleKey(0, 5)]


# --- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["store", "teacher"])
@pytest.mark.parametrize("moment", ["opening", "reading"])
def test_an_unreadable_video_is_returned_and_not_raised(part: str, moment: str) -> None:
    lengths: dict[str, int | str] = {"good": 40, "bad": 40}
    spec = SPEC if part == "store" else SEEN
    broken = Films(spec, lengths | {"bad": "is broken"})
    if moment == "reading":
        broken = Films(spec, lengths, breaks_at=0)
    dataset = clips(table("good", "bad"), lengths, **{part: broken})
    reason = "is broken" if moment == "opening" else "breaks at frame 0"
    assert dataset[SampleKey(4, 1)] == Failed("bad", reason, 1)
    if moment == "opening":
        assert item_of(dataset, 4, 0).video == 0


def test_damage_at_another_time_counts_only_where_its_frames_are_asked_for() -> None:
    lengths: dict[str, int | str] = {"x": 40}
    broken = Films(SEEN, lengths, breaks_at=30)
    alone = clips(table("x"), lengths, teacher=broken)
    both = clips(table("x"), lengths, teacher=broken, other_time=True)
    whole = clips(table("x"), lengths, other_time=True)
    hit = Counter()
    for epoch in range(200):
        item = item_of(whole, epoch)
        mine = max(numbers(item.teacher)) >= 30
        theirs = item.other is not None and max(numbers(item.other)) >= 30
        assert isinstance(both[SampleKey(epoch, 0)], Failed) == (mine or theirs)
        hit[mine, theirs] += 1
        ours = numbers(item_of(clips(table("x"), lengths), epoch).teacher)
        assert isinstance(alone[SampleKey(epoch, 0)], Failed) == (max(ours) >= 30)
    assert min(hit[True, False], hit[False, True], hit[False, False]) > 10


def test_a_span_after_the_end_of_the_video_is_bad() -> None:
    dataset = clips(table("x", spans=[(60.0, 70.0)]), {"x": 50})
    item = dataset[SampleKey(0, 0)]
    assert isinstance(item, Failed)
    assert "from 60.0 to 70.0 s holds no frame; the video has 50 frames" in item.reason


def test_there_are_as_many_items_as_rows() -> None:
    assert len(clips(table("x", "y", "x"), {"x": 9, "y": 9})) == 3


# --- batches ------------------------------------------------------------------------------------------------


def handmade(video: int, *, other: bool | None = None, features: bool = False) -> PairItem:
    """An item whose every value is its video's number; of another time, ten more."""
    shape = (2, 5) if features else (2, 3, 6, 6)
    kind = torch.float32 if features else torch.uint8
    return PairItem(
        video,
        torch.full((4, 3, 8, 8), video, dtype=torch.uint8),
        torch.full(shape, video, dtype=kind),
        torch.full(shape, video + 10, dtype=kind) if other else None,
    )


BAD = [Failed("seven.mp4", "broken", 7), Failed("eight.mp4", "gone", 8)]


@pytest.mark.parametrize("features", [False, True])
def test_items_are_stacked_in_their_order_and_bad_ones_set_apart(features: bool) -> None:
    items = [handmade(video, features=features) for video in (4, 1, 3)]
    batch = CollatePairs(other_time=False)([BAD[0], items[0], items[1], BAD[1], items[2]])
    assert batch.frames is not None
    assert batch.frames.shape == (3, 4, 3, 8, 8)
    assert batch.frames.dtype == torch.uint8
    assert batch.teacher.shape == ((3, 2, 5) if features else (3, 2, 3, 6, 6))
    assert batch.teacher.dtype == (torch.float32 if features else torch.uint8)
    for place, video in enumerate((4, 1, 3)):
        assert (batch.frames[place] == video).all()
        assert (batch.teacher[place] == video).all()
    assert batch.other is None
    assert batch.videos.tolist() == [4, 1, 3]
    assert batch.videos.dtype == torch.int64
    assert batch.bad == tuple(BAD)


@pytest.mark.parametrize("features", [False, True])
def test_frames_of_another_time_come_after_all_others(features: bool) -> None:
    items = [
        handmade(4, other=True, features=features),
        BAD[0],
        handmade(1, other=False, features=features),
        handmade(3, other=True, features=features),
    ]
    batch = CollatePairs(other_time=True)(items)
    assert batch.frames is not None
    assert len(batch.frames) == 3
    assert batch.teacher.shape == ((6, 2, 5) if features else (6, 2, 3, 6, 6))
    assert [set(part.flatten().tolist()) for part in batch.teacher] == [{4}, {1}, {3}, {14}, {0}, {13}]
    assert batch.other is not None
    assert batch.other.dtype == torch.bool
    assert batch.other.tolist() == [True, False, True]
    assert batch.bad == (BAD[0],)


def test_where_no_video_has_another_time_the_places_are_kept() -> None:
    batch = CollatePairs(other_time=True)([handmade(video, other=False) for video in (1, 2)])
    assert batch.teacher.shape == (4, 2, 3, 6, 6)
    assert batch.other is not None
    assert batch.other.tolist() == [False, False]


@pytest.mark.parametrize("other_time", [False, True])
def test_a_batch_of_bad_videos_has_no_frames(other_time: bool) -> None:
    batch = CollatePairs(other_time)(list(BAD))
    assert batch.frames is None
    assert batch.videos.tolist() == []
    assert batch.videos.dtype == torch.int64
    assert batch.bad == tuple(BAD)
    assert batch.pin_memory() is batch


def test_memory_that_a_gpu_copies_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def pin(self: Tensor) -> Tensor:
        asked.append(self)
        return self.clone()

    batch = CollatePairs(other_time=True)([handmade(4, other=True), BAD[0], handmade(1, other=False)])
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    pinned = batch.pin_memory()
    assert isinstance(pinned, PairBatch)
    assert len(asked) == 2
    assert asked[0] is batch.frames
    assert asked[1] is batch.teacher
    for name in ("frames", "teacher", "other", "videos"):
        assert torch.equal(getattr(pinned, name), getattr(batch, name)), name
    assert pinned.frames is not batch.frames
    assert pinned.teacher is not batch.teacher
    assert pinned.bad == batch.bad


def test_a_row_number_gives_the_pair_of_the_epoch(noise: Manifest) -> None:
    pairs = decoded(noise.select([row for row in range(len(noise)) if noise[row].path.name != "2.mp4"]))
    for epoch in (0, 2):
        pairs.set_epoch(epoch)
        assert same(pairs[1], item_of(pairs, epoch, 1))
        (batch,) = DataLoader(pairs, batch_size=len(pairs), collate_fn=CollatePairs(pairs.other_time))
        assert torch.equal(batch.frames[1], pairs[1].frames)
    with pytest.raises(IndexError, match=f"there are {len(pairs)} videos"):
        pairs[len(pairs)]


def test_a_row_number_of_a_bad_video_is_an_error() -> None:
    pairs = clips(table("bad"), {"bad": "is damaged"})
    with pytest.raises(VideoError, match="is damaged"):
        pairs[0]
