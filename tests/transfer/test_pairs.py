"""Pairs match slow loops: clips of possibly the same scene are never negatives, and draws are uniform."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from t3d.clip import ClipSpec
from t3d.data.clips.sampling import random_clip
from t3d.data.clips.timeline import Timeline
from t3d.data.manifest.manifest import Manifest
from t3d.io.files import content_digest
from t3d.transfer.pairs import allowed_pairs, frames_of, joined, other_time, source_groups


def listed(paths: list[str], sources: list[str]) -> Manifest:
    nothing = [None] * len(paths)
    columns = {"path": paths, "label": nothing, "start": nothing, "end": nothing, "source": sources}
    return Manifest((), pa.table(columns))


def slow_related(manifest: Manifest) -> NDArray[np.bool_]:
    """Rows that may show the same scene, [N, N]: compare all pairs, then join until nothing changes."""

    def same(a: Path, b: Path) -> bool:
        return a == b or (a.exists() and b.exists() and a.read_bytes() == b.read_bytes())

    rows = list(manifest)
    related = np.array([[a.source == b.source or same(a.path, b.path) for b in rows] for a in rows])
    while True:
        wider = (related.astype(int) @ related.astype(int)) > 0
        if (wider == related).all():
            return related
        related = wider


def random_manifest(folder: Path, seed: int, rows: int = 24) -> Manifest:
    """Rows with repeated sources, repeated paths, copies under other names and files that do not exist."""
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(20):
        path = folder / f"{number}.mp4"
        paths.append(str(path))
        if number < 16:  # contents of few lengths, so that files as long as others differ, too
            path.write_bytes(bytes(rng.integers(0, 4, rng.integers(1, 4)).tolist()))
    chosen = rng.integers(0, len(paths), rows)
    names = [f"source {name}" for name in rng.integers(0, rows, rows)]
    return listed([paths[at] for at in chosen], names)


# Groups of videos that may show the same scene


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_what_comparing_all_pairs_gives(seed: int, tmp_path: Path) -> None:
    manifest = random_manifest(tmp_path, seed)
    related = slow_related(manifest)
    assert not related.all(), "the case must have something to keep apart"
    got = source_groups(manifest)
    assert got.dtype == np.int64
    assert got.shape == (len(manifest),)
    assert np.array_equal(got[:, None] == got[None], related)
    assert set(got.tolist()) == set(range(got.max() + 1))


def test_a_chain_of_sources_copies_and_paths_is_one_group_in_any_order(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in "abcd"}
    for name, content in {"a": b"one", "b": b"one", "c": b"two", "d": b"six"}.items():
        Path(files[name]).write_bytes(content)
    # a is a copy of b; b shares a source with c; c is listed again; d is only as long as they are.
    links = [("a", "first"), ("b", "second"), ("c", "second"), ("c", "third"), ("d", "fourth")]
    rng = np.random.default_rng(0)
    for _ in range(30):
        mixed = [links[at] for at in rng.permutation(len(links))]
        got = source_groups(listed([files[name] for name, _ in mixed], [source for _, source in mixed]))
        chain = {int(group) for group, (name, _) in zip(got, mixed, strict=True) if name != "d"}
        alone = {int(group) for group, (name, _) in zip(got, mixed, strict=True) if name == "d"}
        assert len(chain) == 1
        assert chain | alone == {0, 1}


def test_a_source_named_like_a_file_is_not_a_link(tmp_path: Path) -> None:
    path = str(tmp_path / "x.mp4")
    assert source_groups(listed([path, str(tmp_path / "y.mp4")], ["y", path])).tolist() == [0, 1]


def test_one_file_by_two_names_is_one_group(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(b"video")
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    (tmp_path / "deep").mkdir()
    paths = [str(tmp_path / name) for name in ("real.mp4", "link.mp4", "deep/../real.mp4", "none.mp4")]
    assert source_groups(listed(paths, list("wxyz"))).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("content", [None, b"as long", b"like no other in length"])
def test_a_file_listed_twice_is_one_group(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"is this")
    twice = tmp_path / "twice.mp4"
    if content is not None:
        twice.write_bytes(content)
    paths = [str(twice), str(tmp_path / "other.mp4"), str(twice)]
    assert source_groups(listed(paths, list("xyz"))).tolist() == [0, 1, 0]


def test_a_missing_file_named_like_a_digest_is_not_a_link(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        (tmp_path / name).write_bytes(b"video")
    digest = content_digest(tmp_path / "one.mp4")
    paths = [str(tmp_path / "one.mp4"), str(tmp_path / "two.mp4"), digest]
    assert source_groups(listed(paths, ["x", "y", digest])).tolist() == [0, 0, 1]


def test_no_rows_no_groups() -> None:
    got = source_groups(listed([], []))
    assert got.dtype == np.int64
    assert got.shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_joined_rows_share_a_source_and_are_held_out_together(seed: int, tmp_path: Path) -> None:
    manifest = random_manifest(tmp_path, seed)
    related, got = slow_related(manifest), joined(manifest)
    names = [entry.source for entry in got]
    assert np.array_equal([[a == b for b in names] for a in names], related)
    for row, entry in enumerate(manifest):
        assert names[row] in {manifest[other].source for other in np.flatnonzero(related[row]).tolist()}
        assert (got[row].path, got[row].label, got[row].start) == (entry.path, entry.label, entry.start)
    rest, held = got.split_by_source(0.4, seed=seed)
    both = [*rest, *held]
    apart = ~slow_related(listed([str(e.path) for e in both], [e.source for e in both]))
    assert apart[: len(rest), len(rest) :].all()


# Positive and negative pairs of a batch


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_batches_pair_all_that_is_unrelated_and_nothing_else(seed: int, wide: bool, tmp_path: Path) -> None:
    manifest = random_manifest(tmp_path, seed)
    related, groups = slow_related(manifest), torch.from_numpy(source_groups(manifest))
    rng = np.random.default_rng(seed)
    for count in (1, 2, 3, 8, 24):
        rows = rng.permutation(len(manifest))[:count]
        other = torch.from_numpy(rng.random(count) < 0.6) if wide else None
        positive, negative = allowed_pairs(groups[rows], other)
        assert positive.dtype == negative.dtype == torch.bool
        assert positive.shape == negative.shape == (count, 2 * count if wide else count)
        for clip in range(count):
            for column in range(positive.shape[1]):
                video, later = column % count, column >= count
                apart = not related[rows[clip], rows[video]]
                if later:  # another time: of the clip's own row it is told apart, if there is such a time
                    assert other is not None
                    want = bool(other[video]) and (apart or video == clip)
                else:
                    want = apart
                assert bool(negative[clip, column]) == want
                assert bool(positive[clip, column]) == (clip == column)


def test_a_batch_of_one_source_has_only_other_times_as_negatives() -> None:
    groups = torch.zeros(4, dtype=torch.int64)
    assert not allowed_pairs(groups, None)[1].any()
    assert not allowed_pairs(groups, torch.zeros(4, dtype=torch.bool))[1].any()
    _, negative = allowed_pairs(groups, torch.tensor([True, True, False, True]))
    assert negative.nonzero().tolist() == [[0, 4], [1, 5], [3, 7]]


# Teacher frames of a clip


def slow_middles(clip: NDArray[np.int64], count: int) -> list[Fraction]:
    """Exact middles of the parts; frame n lasts from n to n + 1."""
    begin, end = Fraction(int(min(clip))), Fraction(int(max(clip)) + 1)
    part = (end - begin) / count
    return [begin + part * number + part / 2 for number in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_those_that_last_over_the_middles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(150):
        spec = ClipSpec(num_frames=int(rng.integers(1, 40)), stride=int(rng.integers(1, 6)))
        clip, count = random_clip(int(rng.integers(1, 300)), spec, rng), int(rng.integers(1, 40))
        got = frames_of(1000 * (seed % 2) + clip, count) - 1000 * (seed % 2)
        assert got.dtype == np.int64
        assert got.shape == (count,)
        assert (np.diff(got) >= 0).all()
        assert clip.min() <= got.min() <= got.max() <= clip.max()
        for frame, middle in zip(got.tolist(), slow_middles(clip, count), strict=True):
            assert frame <= middle <= frame + 1  # a middle between two frames: either
        halving = frames_of(clip, 1 << int(rng.integers(0, 6)))  # a power of two divides without rounding
        assert halving.tolist() == [int(middle) for middle in slow_middles(clip, len(halving))]


def test_frames_of_a_clip_that_starts_again_are_of_its_span() -> None:
    assert frames_of(np.array([0, 2, 4, 1, 3, 0]), 5).tolist() == [0, 1, 2, 3, 4]
    assert frames_of(np.array([7]), 3).tolist() == [7, 7, 7]


# Another time of the same video


def slow_starts(first: int, total: int, spec: ClipSpec) -> list[int]:
    """All starts of a clip that shares no moment with the one that begins at `first`."""
    taken = set(range(first, first + spec.span))
    inside = (start for start in range(total) if start + spec.span <= total)
    return [start for start in inside if not taken & set(range(start, start + spec.span))]


@pytest.mark.parametrize("seed", range(5))
def test_another_time_never_overlaps_and_is_found_where_there_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    missing = Counter[bool]()
    for _ in range(300):
        spec = ClipSpec(num_frames=int(rng.integers(1, 9)), stride=int(rng.integers(1, 4)))
        total = int(rng.integers(1, 4 * spec.span + 2))
        clip = random_clip(total, spec, rng)
        got = other_time(clip, total, spec, rng)
        allowed = slow_starts(int(clip[0]), total, spec) if total >= spec.span else []
        missing[got is None] += 1
        if got is None:
            assert not allowed
            continue
        assert got.dtype == np.int64
        assert got[0] in allowed
        assert got.tolist() == [int(got[0]) + spec.stride * number for number in range(spec.num_frames)]
    assert min(missing[True], missing[False]) > 50


@pytest.mark.parametrize(
    ("first", "total"),
    [(0, 21), (14, 21), (7, 21), (3, 24), (9, 26), (6, 14), (7, 14)],  # of both sides, one, a single start
)
def test_every_other_time_is_equally_likely(first: int, total: int) -> None:
    spec = ClipSpec(num_frames=4, stride=2)  # a span of 7
    clip = first + 2 * np.arange(4)
    allowed = slow_starts(first, total, spec)
    rng = np.random.default_rng(1)
    drawn = [other_time(clip, total, spec, rng) for _ in range(200 * max(len(allowed), 1))]
    assert all((one is None) == (not allowed) for one in drawn)
    counts = Counter(int(one[0]) for one in drawn if one is not None)
    assert set(counts) == set(allowed)
    if len(allowed) > 1:
        assert stats.chisquare([counts[start] for start in allowed]).pvalue > 0.001


@pytest.mark.parametrize("short", ["wrap", "repeat_last"])
def test_a_video_shorter_than_a_clip_has_no_other_time(short: str) -> None:
    spec, rng = ClipSpec(num_frames=4, stride=2, short=short), np.random.default_rng(0)  # type: ignore[arg-type]
    for total in range(1, 7):
        assert other_time(random_clip(total, spec, rng), total, spec, rng) is None


def test_the_draw_follows_from_its_generator_alone() -> None:
    spec, clip = ClipSpec(num_frames=2, stride=1), np.array([40, 41])

    def starts(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        drawn = [other_time(clip, 200, spec, rng) for _ in range(10)]
        return [int(one[0]) for one in drawn if one is not None]

    first = starts(5)
    assert starts(5) == first != starts(6)


def test_only_files_as_long_as_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in "abcd"]
    for path, content in zip(paths, (b"one", b"two", b"three", b"one"), strict=True):
        path.write_bytes(content)
    read: list[str] = []
    monkeypatch.setattr(
        "t3d.transfer.pairs.content_digest", lambda path: read.append(path.stem) or path.read_bytes()
    )
    assert source_groups(listed([str(path) for path in paths], list("wxyz"))).tolist() == [0, 1, 2, 0]
    assert read == ["a", "b", "d"]


class Known:
    """Stands for an index that knows some files' bytes."""

    def __init__(self, *known: str) -> None:
        self.known = {Path(path): content_digest(Path(path)) for path in known}

    def digest(self, path: Path) -> str | None:
        return self.known.get(path)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_an_index_changes_no_group(seed: int, share: float, tmp_path: Path) -> None:
    manifest = random_manifest(tmp_path, seed)
    there = sorted({str(entry.path) for entry in manifest if entry.path.is_file()})
    rng = np.random.default_rng(seed)
    index = Known(*(path for path in there if rng.random() < share))
    assert source_groups(manifest, index).tolist() == source_groups(manifest).tolist()  # type: ignore[arg-type]


def test_indexed_files_are_not_read(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.mp4") for name in "abc"]
    for path, content in zip(paths, (b"one", b"one", b"two"), strict=True):
        Path(path).write_bytes(content)
    index = Known(*paths)
    for path in paths:
        Path(path).unlink()  # as if they lay in shards behind a URL
    assert source_groups(listed(paths, list("xyz")), index).tolist() == [0, 0, 1]  # type: ignore[arg-type]


def test_by_time_another_clip_shows_none_of_the_frames_between() -> None:
    rng = np.random.default_rng(2)
    for trial in range(60):
        steps = rng.choice([0.02, 0.04, 0.1, 0.5], size=int(rng.integers(2, 60)))
        line = Timeline(np.concatenate([[0], np.cumsum(steps)[:-1]]), begin=0.0, end=float(steps.sum()))
        spec = ClipSpec(num_frames=4, fps=float(rng.choice([5, 10, 25])))
        clip = random_clip(line, spec, rng)
        reach, low, high = 3 / spec.fps, line.times[clip.min()], line.end_of(int(clip.max()))  # type: ignore[operator]
        got = other_time(clip, line, spec, rng)
        if got is None:
            assert max(low, line.end - high) - reach < 2e-3 or line.end <= reach + 1e-3, trial
        else:
            assert got.max() < clip.min() or got.min() > clip.max(), trial


def test_by_time_the_teachers_frames_are_in_the_middles_of_equal_times() -> None:
    # Frames at 0, 1, 2, 3 s and then every 0.1 s: four parts of the 4 s from frame 0 to the end of frame 12.
    line = Timeline(np.concatenate([np.arange(3), 3 + np.arange(20) / 10]), begin=0.0, end=5.0)
    assert frames_of(np.array([0, 3, 12]), 4, line).tolist() == [0, 1, 2, 8]
    steady = Timeline(np.arange(50) / 25, begin=0.0, end=2.0)
    for count in (1, 2, 3, 5, 8):
        for clip in (np.array([3, 5, 7, 9]), np.array([0, 1]), np.array([20, 24, 28, 49])):
            assert frames_of(clip, count, steady).tolist() == frames_of(clip, count).tolist()
