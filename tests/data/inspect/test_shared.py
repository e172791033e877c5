from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from t3d.data.index import SCHEMA, VideoIndex
from t3d.data.inspect.duplicates import near_pairs
from t3d.data.inspect.shared import Compared, SharedRow, shared_rows
from t3d.data.manifest.manifest import Manifest


def listed(folder: Path, sources: dict[str, str]) -> Manifest:
    """A list of files that exist or not, with the source of each."""
    table = folder / "list.csv"
    rows = [f"{name},jump,{source}" for name, source in sources.items()]
    table.write_text("path,label,source\n" + "\n".join(rows) + "\n")
    return Manifest.from_csv(table)


def index_of(paths: list[Path], hashes: list[list[int]]) -> VideoIndex:
    columns = {field.name: pa.nulls(len(paths), field.type) for field in SCHEMA}
    columns |= {name: pa.array(map(str, paths)) for name in ("path", "source", "digest")}
    columns["looks"] = pa.array(hashes, pa.list_(pa.uint64()))
    return VideoIndex(pa.table(columns).cast(SCHEMA))


def random_hashes(count: int, seed: int = 0) -> list[list[int]]:
    values = np.random.default_rng(seed).integers(0, 2**64, (count, 8), dtype=np.uint64)
    return [list(map(int, row)) for row in values]


def test_the_strongest_reason_of_each_row_is_given(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"six"), ("e", b"other size")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    trained = listed(tmp_path, {"a.mp4": "tape1", "b.mp4": "tape2"})
    tested = listed(
        tmp_path, {"e.mp4": "tape9", "d.mp4": "tape2", "b.mp4": "tape2", "c.mp4": "tape1", "gone.mp4": "x"}
    )
    shared = shared_rows(tested, trained)
    assert shared.rows == (
        SharedRow(1, "group", str(tmp_path / "d.mp4"), str(tmp_path / "b.mp4")),
        SharedRow(2, "file", str(tmp_path / "b.mp4"), str(tmp_path / "b.mp4")),
        SharedRow(3, "bytes", str(tmp_path / "c.mp4"), str(tmp_path / "a.mp4")),
    )
    assert shared.counts() == {"file": 1, "bytes": 1, "group": 1, "near": 0}
    assert len(shared) == 3
    assert shared.tested == Compared(videos=5, missing=1, hashed=0)
    assert shared.trained == Compared(videos=2, missing=0, hashed=0)


def test_every_clip_of_a_shared_file_counts(tmp_path: Path) -> None:
    table = tmp_path / "spans.csv"
    table.write_text("path,label,start,end\na.mp4,jump,0,1\na.mp4,jump,1,2\nb.mp4,jump,0,1\n")
    tested = Manifest.from_csv(table)
    shared = shared_rows(tested, listed(tmp_path, {"a.mp4": "a"}))
    assert [(row.row, row.reason) for row in shared.rows] == [(0, "file"), (1, "file")]


def test_the_size_of_a_file_is_looked_up_once_and_only_if_the_index_does_not_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("known", b"one")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    tested = listed(tmp_path, {"a.mp4": "a", "b.mp4": "b"})
    trained = listed(tmp_path, {"c.mp4": "c", "known.mp4": "k"})
    index = index_of([tmp_path / "known.mp4"], [[]])
    looked_up: Counter[str] = Counter()
    titles: list[str] = []

    original = Path.stat

    def stat(path: Path) -> os.stat_result:
        looked_up[path.name] += 1
        return original(path)

    def tracked(items: list[int], title: str, *, unit: str) -> list[int]:
        titles.append(f"{title}: {len(items)} {unit}")
        return items

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr("t3d.data.inspect.shared.track", tracked)
    assert [row.reason for row in shared_rows(tested, trained, index).rows] == ["bytes"]
    assert looked_up == {"a.mp4": 1, "b.mp4": 1, "c.mp4": 1}
    assert titles == [
        "Looking up file sizes: 2 files",
        "Looking up file sizes: 1 files",
        "Reading files of equal size: 2 files",
        "Reading files of equal size: 1 files",
    ]


def test_empty_files_are_not_copies_of_each_other(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    assert not len(shared_rows(listed(tmp_path, {"a.mp4": "a"}), listed(tmp_path, {"b.mp4": "b"})))


def test_a_file_with_the_name_of_its_group_belongs_to_the_group(tmp_path: Path) -> None:
    tested = listed(tmp_path, {"tape.mp4": "tape", "own.mp4": "own"})
    trained = listed(tmp_path, {"tape_b.mp4": "tape", "other.mp4": "other"})
    shared = shared_rows(tested, trained)
    expected = SharedRow(0, "group", str(tmp_path / "tape.mp4"), str(tmp_path / "tape_b.mp4"))
    assert shared.rows == (expected,)
    assert [row.reason for row in shared_rows(trained, tested).rows] == ["group"]


def test_files_of_one_name_in_two_folders_are_not_a_group(tmp_path: Path) -> None:
    lists = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        lists.append(listed(folder, {"fight/1.mp4": "fight/1"}))
    assert not len(shared_rows(*lists))


def test_near_duplicates_come_from_the_index(tmp_path: Path) -> None:
    names = ["a.mp4", "b.mp4", "c.mp4", "unhashed.mp4"]
    paths = [tmp_path / name for name in names]
    hashes = [*random_hashes(3), []]
    hashes[2] = [value ^ 0b11 for value in hashes[0]]  # 2 of 64 bits
    index = index_of(paths, hashes)
    tested = listed(tmp_path, {"b.mp4": "b", "c.mp4": "c", "unhashed.mp4": "u"})
    trained = listed(tmp_path, {"a.mp4": "a"})
    shared = shared_rows(tested, trained, index)
    assert shared.rows == (SharedRow(1, "near", str(paths[2]), str(paths[0]), 0.0312),)
    assert (shared.tested, shared.trained) == (Compared(3, hashed=2), Compared(1, hashed=1))
    assert shared_rows(tested, trained, index, near=False).rows == ()
    assert shared_rows(tested, trained, index, near=False).tested.hashed == 0
    unhashed = shared_rows(tested, listed(tmp_path, {"unhashed.mp4": "u"}), index)
    assert (unhashed.tested.hashed, unhashed.trained.hashed) == (0, 0)


def test_training_files_that_were_not_compared_are_counted(tmp_path: Path) -> None:
    """Of four training videos, one is in the index, one on the disk, and two of one file are missing."""
    (tmp_path / "there.mp4").write_bytes(b"there")
    index = index_of([tmp_path / "tested.mp4", tmp_path / "hashed.mp4"], random_hashes(2))
    tested = listed(tmp_path, {"tested.mp4": "t"})
    table = tmp_path / "spans.csv"
    rows = ["hashed.mp4,jump,0,1", "there.mp4,jump,0,1", "gone.mp4,jump,0,1", "gone.mp4,jump,1,2"]
    table.write_text("\n".join(["path,label,start,end", *rows]) + "\n")
    shared = shared_rows(tested, Manifest.from_csv(table), index)
    assert shared.tested == Compared(1, missing=0, hashed=1)
    assert shared.trained == Compared(4, missing=2, hashed=1)


def test_with_too_many_pairs_near_duplicates_are_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    index = index_of(paths, random_hashes(1) * 2)
    lists = listed(tmp_path, {"a.mp4": "a"}), listed(tmp_path, {"b.mp4": "b"})
    assert len(shared_rows(*lists, index)) == 1
    monkeypatch.setattr("t3d.data.inspect.shared.MOST_PAIRS", 0)
    shared = shared_rows(*lists, index)
    assert (len(shared), shared.tested.hashed, shared.trained.hashed) == (0, 0, 0)


def test_a_copy_within_the_tested_list_does_not_hide_a_near_duplicate(tmp_path: Path) -> None:
    """A training video, its copy in the test list, and a near-duplicate of both there."""
    paths = [tmp_path / name for name in ("z.mp4", "copy.mp4", "near.mp4")]
    hashes = random_hashes(1) * 2 + [[value ^ 1 for value in random_hashes(1)[0]]]
    table = pa.table(
        {
            "path": list(map(str, paths)),
            "source": ["z", "copy", "near"],
            "digest": ["same", "same", "other"],
            "looks": pa.array(hashes, pa.list_(pa.uint64())),
        }
    )
    pairs = near_pairs(table.slice(1), table.slice(0, 1))
    assert [(Path(one).name, Path(two).name) for one, two, _ in pairs] == [("near.mp4", "z.mp4")]


def test_every_near_pair_is_found_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.array(random_hashes(30), dtype=np.uint64)
    hashes[15:] = hashes[:15] ^ np.uint64(1)
    names = [f"{number:02}" for number in range(30)]
    table = pa.table(
        {
            "path": names,
            "source": names,
            "digest": names,
            "looks": pa.array(hashes.tolist(), pa.list_(pa.uint64())),
        }
    )
    expected = [(names[row], names[row + 15], 0.0156) for row in range(15)]
    for rows in (4, 7, 4096):
        monkeypatch.setattr("t3d.data.inspect.duplicates._ROWS", rows)
        assert near_pairs(table.slice(0, 15), table.slice(15)) == expected
