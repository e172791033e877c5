from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from t3d.cli.main import main
from t3d.data.index import SCHEMA, VideoIndex
from t3d.data.inspect.groups import join_groups
from t3d.data.inspect.shared import shared_rows
from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import Shares, missing_classes, split, write_lists
from t3d.errors import ConfigError, ManifestError
from t3d.video.encode import write_video


def listed(table: Path, rows: list[str]) -> Manifest:
    table.write_text("\n".join(rows) + "\n")
    return Manifest.from_csv(table)


def grouped_videos(tmp_path: Path, groups: dict[str, int], *, clips: int = 3) -> Manifest:
    """Some groups of each class, with `clips` videos each."""
    rows = [
        f"{name}{group}_{clip}.mp4,{name},{name}{group}"
        for name, count in groups.items()
        for group in range(count)
        for clip in range(clips)
    ]
    return listed(tmp_path / "list.csv", ["path,label,source", *rows])


def sources_of(parts: dict[str, Manifest]) -> list[set[str]]:
    return [set(part.sources()) for part in parts.values()]


def test_lists_are_disjoint_by_group_and_near_the_shares_in_each_class(tmp_path: Path) -> None:
    videos = grouped_videos(tmp_path, {"jump": 20, "run": 40})
    parts = split(videos, Shares(val_fraction=0.1, test_fraction=0.2, seed=3))
    assert list(parts) == ["train", "val", "test"]
    sets = sources_of(parts)
    assert sum(map(len, sets)) == len(set.union(*sets)) == 60
    assert {name: part.class_counts() for name, part in parts.items()} == {
        "train": {"jump": 42, "run": 84},
        "val": {"jump": 6, "run": 12},
        "test": {"jump": 12, "run": 24},
    }
    for part in parts.values():  # rows keep the order of the list
        places = [videos.table["path"].to_pylist().index(path) for path in part.table["path"].to_pylist()]
        assert places == sorted(places)


def test_the_draw_is_pinned(tmp_path: Path) -> None:
    """A golden value: whoever splits again with the same seed must get the same lists."""
    parts = split(grouped_videos(tmp_path, {"jump": 6, "run": 6}, clips=1), Shares(0.2, 0.2, seed=0))
    assert sources_of(parts) == GOLDEN
    again = split(grouped_videos(tmp_path, {"run": 6, "jump": 6}, clips=1), Shares(0.2, 0.2, seed=0))
    assert sources_of(again) == GOLDEN
    other = split(grouped_videos(tmp_path, {"jump": 6, "run": 6}, clips=1), Shares(0.2, 0.2, seed=1))
    assert sources_of(other) != GOLDEN


GOLDEN = [
    {"jump0", "jump1", "jump3", "jump4", "run0", "run2", "run4", "run5"},
    {"jump5", "run1"},
    {"jump2", "run3"},
]


def test_the_test_list_equals_a_split_by_source(tmp_path: Path) -> None:
    videos = grouped_videos(tmp_path, {"jump": 9, "run": 11})
    parts = split(videos, Shares(val_fraction=0, test_fraction=0.3, seed=5))
    train, test = videos.split_by_source(0.3, seed=5)
    assert (parts["train"], parts["test"]) == (train, test)
    assert "val" not in parts


def test_a_class_of_few_groups_stays_in_training(tmp_path: Path) -> None:
    videos = grouped_videos(tmp_path, {"jump": 10, "one": 1, "two": 2})
    parts = split(videos, Shares())
    counts = {name: part.class_counts() for name, part in parts.items()}
    assert [counts[name]["one"] for name in counts] == [3, 0, 0]
    assert [counts[name]["two"] for name in counts] == [3, 0, 3]
    assert missing_classes(parts) == {"val": ["one", "two"], "test": ["one"]}


def test_a_group_that_must_stay_takes_its_other_classes_along(tmp_path: Path) -> None:
    """`one` has only the group `both`, which leaves `run` a single other group."""
    rows = ["a.mp4,one,both", "b.mp4,run,both", "c.mp4,run,r"]
    rows += [f"j{number}.mp4,jump,j{number}" for number in range(8)]
    parts = split(listed(tmp_path / "list.csv", ["path,label,source", *rows]), Shares(0.2, 0.2))
    assert parts["train"].class_counts()["one"] == 1
    assert parts["train"].class_counts()["run"] == 2


def test_several_labels_are_stratified(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["path,labels,source"]
    for number in range(200):
        names = [name for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.1)) if rng.random() < share]
        rows.append(f"{number}.mp4,{'|'.join(names) or '|'},group{number // 4}")
    videos = listed(tmp_path / "list.csv", rows)
    parts = split(videos, Shares(val_fraction=0.2, test_fraction=0.2))
    sets = sources_of(parts)
    assert sum(map(len, sets)) == len(set.union(*sets)) == 50
    totals = videos.class_counts()
    for name, wanted in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        for label, count in parts[name].class_counts().items():
            assert count / totals[label] == pytest.approx(wanted, abs=0.1), (name, label)
    files = write_lists(parts, tmp_path / "lists", overwrite=False)
    assert [Manifest.from_csv(file).targets for file in files] == ["multi"] * 3


def test_lists_keep_every_column_and_move_with_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [f"clips/{number}.mp4,c{number % 2},{number},{number + 2.5},g{number}" for number in range(12)]
    videos = listed(folder / "all.csv", ["path,label,start,end,source", *rows])
    parts = split(videos, Shares(0.2, 0.2))
    write_lists(parts, folder, overwrite=False)
    folder = folder.rename(tmp_path / "moved")
    read = [Manifest.from_csv(folder / f"{name}.csv") for name in ("train", "val", "test")]
    entries = {entry for part in read for entry in part}
    assert entries == set(Manifest.from_csv(folder / "all.csv"))
    assert len(entries) == 12


def test_lists_are_not_overwritten_unless_asked(tmp_path: Path) -> None:
    parts = split(grouped_videos(tmp_path, {"jump": 6}), Shares(0.2, 0.2))
    write_lists(parts, tmp_path, overwrite=False)
    with pytest.raises(ManifestError, match=r"train\.csv, .*val\.csv, .*test\.csv: already exists"):
        write_lists(parts, tmp_path, overwrite=False)
    del parts["val"]
    write_lists(parts, tmp_path, overwrite=True)
    assert not (tmp_path / "val.csv").exists()  # it belongs to the replaced split


def test_the_old_lists_stay_until_all_new_ones_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = grouped_videos(tmp_path, {"jump": 9})
    folder = tmp_path / "lists"
    write_lists(split(videos, Shares(0.2, 0.2)), folder, overwrite=False)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    parts = split(videos, Shares(0.3, 0.3, seed=1))
    write = Manifest.write_csv

    def fails_at_the_last(part: Manifest, path: Path) -> None:
        if part is parts["test"]:
            raise OSError("disk full")
        write(part, path)

    monkeypatch.setattr(Manifest, "write_csv", fails_at_the_last)
    with pytest.raises(OSError, match="disk full"):
        write_lists(parts, folder, overwrite=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction is 1.0; it must be at least 0 and below 1"),
        ({"test_fraction": -0.1}, "test_fraction is -0.1"),
        ({"test_fraction": float("nan")}, "test_fraction is nan"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"val_fraction \+ test_fraction is 1"),
        ({"val_fraction": 0, "test_fraction": 0}, r"val_fraction \+ test_fraction is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_shares_that_cannot_be_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Shares(**shares)


def test_too_few_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"list 'test': there are 3 videos in 1 groups"):
        split(grouped_videos(tmp_path, {"jump": 1}), Shares())


def test_two_groups_per_class_are_too_few_for_three_lists(tmp_path: Path) -> None:
    videos = grouped_videos(tmp_path, {"jump": 2, "run": 2})
    message = (
        "^no group is left for the list 'val': after the test list, no class has two groups left; set "
        "val_fraction to 0 or add groups$"
    )
    with pytest.raises(ManifestError, match=message):
        split(videos, Shares())
    parts = split(videos, Shares(val_fraction=0))
    assert {name: part.class_counts() for name, part in parts.items()} == {
        "train": {"jump": 3, "run": 3},
        "test": {"jump": 3, "run": 3},
    }


# --- groups -----------------------------------------------------------------------------------------------


def index_of(paths: list[Path], hashes: list[list[int]], digests: list[str]) -> VideoIndex:
    columns = {field.name: pa.nulls(len(paths), field.type) for field in SCHEMA}
    columns |= {name: pa.array(map(str, paths)) for name in ("path", "source")}
    columns |= {"digest": pa.array(digests), "looks": pa.array(hashes, pa.list_(pa.uint64()))}
    return VideoIndex(pa.table(columns).cast(SCHEMA))


def test_copies_and_near_duplicates_become_one_group(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    rows = [f"{name}.mp4,jump,{'tape' if name in 'ef' else name}" for name in names]
    videos = listed(tmp_path / "list.csv", ["path,label,source", *rows])
    hashes = np.random.default_rng(0).integers(0, 2**64, (6, 8), dtype=np.uint64)
    hashes[1] = hashes[0] ^ np.uint64(0b11)  # b is near a
    hashes[4] = hashes[1] ^ np.uint64(0b11111100)  # e is near b, and 8 bits from a
    index = index_of(
        [entry.path for entry in videos], hashes.tolist(), ["1", "2", "3", "3", "5", "6"]
    )  # d is a copy of c
    without = join_groups(videos, index)
    assert without.videos.table["source"].to_pylist() == ["a", "b", "c", "c", "tape", "tape"]
    assert (without.own, without.copies, without.near, without.hashed) == (4, 1, 0, 0)
    joined = join_groups(videos, index, near=True)
    assert joined.videos.table["source"].to_pylist() == ["a", "a", "c", "c", "a", "a"]
    assert (joined.copies, joined.near, joined.hashed, joined.files, joined.largest) == (1, 2, 6, 6, 4)
    assert (without.uncompared, joined.uncompared) == ({}, {})
    again = join_groups(joined.videos, index, near=True)  # the group `a` has the name of the file a.mp4
    assert (again.own, again.near, again.largest) == (0, 0, 4)


def test_files_that_cannot_be_compared_are_counted_by_reason(tmp_path: Path) -> None:
    videos = listed(tmp_path / "list.csv", ["path,label", *(f"{name}.mp4,jump" for name in "abcd")])
    paths = [entry.path for entry in videos]
    rich, black = [0xF0F0F0F0F0F0F0F0] * 8, [0] * 8
    errors = pa.array([None, None, "is empty"], pa.string())
    columns = {field.name: pa.nulls(3, field.type) for field in SCHEMA}
    columns |= {name: pa.array(map(str, paths[:3])) for name in ("path", "source")}
    columns |= {"looks": pa.array([rich, black, None], pa.list_(pa.uint64())), "error": errors}
    joined = join_groups(videos, VideoIndex(pa.table(columns).cast(SCHEMA)), near=True)
    assert joined.uncompared == {"unreadable": 1, "not in the index": 1, "with hardly any detail": 1}


def test_copies_are_found_without_an_index(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"other size")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    videos = listed(tmp_path / "list.csv", ["path", "a.mp4", "b.mp4", "c.mp4", "d.mp4", "gone.mp4"])
    joined = join_groups(videos)
    assert joined.videos.table["source"].to_pylist() == ["a", "b", "a", "d", "gone"]
    assert (joined.own, joined.copies, joined.files) == (5, 1, 5)


# --- the command ------------------------------------------------------------------------------------------


def scenes(folder: Path, count: int) -> None:
    """`count` scenes per class, each in two near-duplicate clips whose names do not reveal the scene."""
    generator = torch.Generator().manual_seed(0)
    for name in ("jump", "run"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ground = torch.rand(1, 3, 6, 8, generator=generator)
            picture = torch.nn.functional.interpolate(ground, (48, 64), mode="bicubic").clamp(0, 1)
            frames = (picture.expand(12, -1, -1, -1) * 255).to(torch.uint8)
            write_video(folder / name / f"{number}.mp4", frames)
            write_video(folder / name / f"{number + count}.mp4", frames, crf=32)


def test_a_folder_without_group_names_does_not_leak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    scenes(folder, 5)
    assert main(["data", "split", str(folder), "--val-fraction", "0.2", "--test-fraction", "0.2"]) == 0
    output = capsys.readouterr().out
    assert "each video is its own group; use --group-near-duplicates or --source-pattern" in output
    assert not (folder / "index.parquet").exists()
    index = folder / "index.parquet"
    words = ["data", "split", str(folder), "--val-fraction", "0.2", "--test-fraction", "0.2", "--overwrite"]
    assert main([*words, "--group-near-duplicates", "--workers", "1", "--json"]) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["groups"]["near"] == 10
    assert f"{index}: 20 files, 20 decoded now" in errors
    assert main([*words, "--group-near-duplicates", "--index", str(index)]) == 0
    output = capsys.readouterr().out
    assert (
        "Near-duplicates: 10 pairs, joined to one group each; 10 groups remain, the largest with 2 of 20 "
        "videos\n"
    ) in output
    assert "each video is its own group, except those joined below\n" in output
    lists = {name: Manifest.from_csv(folder / f"{name}.csv") for name in ("train", "val", "test")}
    assert [len(each) for each in lists.values()] == [12, 4, 4]
    known = VideoIndex.read(index)
    for tested in ("val", "test"):
        assert not len(shared_rows(lists[tested], lists["train"], known))
    assert main([*words, "--group-near-duplicates", "--index", str(index), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["groups"] == {
        "files": 20,
        "own": 20,
        "copies": 0,
        "near": 10,
        "hashed": 20,
        "uncompared": {},
        "largest": 2,
    }
    assert report["lists"]["test"] == {
        "file": str(folder / "test.csv"),
        "videos": 4,
        "groups": 2,
        "classes": {"jump": 2, "run": 2},
    }


def test_the_table_and_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for entry in grouped_videos(tmp_path, {"jump": 10, "somersault": 1}):
        entry.path.write_bytes(entry.path.name.encode())
    assert main(["data", "split", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == (
        "             train     val    test\n"
        "jump            21       6       3\n"
        "somersault       3       0       0\n"
        "videos          24       6       3\n"
        "groups           8       2       1\n"
        "33 files in 11 groups\n"
        "Warning: no video in val.csv of class somersault: too few groups\n"
        "Warning: no video in test.csv of class somersault: too few groups\n"
        f"Wrote {tmp_path}/out/train.csv, {tmp_path}/out/val.csv, {tmp_path}/out/test.csv\n"
    )


def test_a_list_is_never_replaced_by_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "train.csv"
    listed(table, ["path,label,source", *(f"{n}.mp4,jump,{n}" for n in range(9))])
    before = table.read_text()
    assert main(["data", "split", str(table)]) == 2
    assert "already exists; choose another folder (--out), or pass --overwrite" in capsys.readouterr().err
    assert main(["data", "split", str(table), "--overwrite"]) == 2
    assert "would be overwritten by one of the new lists" in capsys.readouterr().err
    assert table.read_text() == before


def test_files_that_cannot_be_read_are_in_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "videos"
    for number in range(4):
        for name in ("jump", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
            write_video(folder / name / f"{number}.mp4", pixels)
    (folder / "run" / "broken.mp4").write_text("no video")
    words = [
        "data",
        "split",
        str(folder),
        "--group-near-duplicates",
        "--workers",
        "1",
        "--val-fraction",
        "0.2",
    ]
    assert main([*words, "--json"]) == 1
    shown = capsys.readouterr()
    assert "broken.mp4: cannot be opened by FFmpeg" in shown.err
    assert "; it is in no list" in shown.err
    report = json.loads(shown.out)
    assert [Path(each["path"]).name for each in report["bad"]] == ["broken.mp4"]
    assert sum(each["videos"] for each in report["lists"].values()) == 8
    assert "broken" not in "".join(path.read_text() for path in folder.glob("*.csv"))
