from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.data.official.listed import open_list
from t3d.data.official.published import PUBLISHED, Published
from t3d.data.official.ucf101 import read_ucf101
from t3d.errors import ConfigError, ManifestError
from t3d.reproduce import sets
from t3d.reproduce.config import Choices, GivenSet
from t3d.reproduce.sets import Split, fingerprint, open_set, published_splits


@pytest.fixture
def ucf101(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as of UCF101: two classes of three groups, empty files, lists that are taken for whole."""
    root = tmp_path / "set"
    lists = root / "splits" / "lists"
    lists.mkdir(parents=True)
    for split in (1, 2, 3):
        for part, groups in (("train", {1, 2, 3} - {split}), ("test", {split})):
            lines = []
            for name in ("Archery", "Bowling"):
                for group in sorted(groups):
                    stem = f"v_{name}_g0{group}_c01"
                    (root / "videos" / name).mkdir(parents=True, exist_ok=True)
                    (root / "videos" / name / f"{stem}.avi").touch()
                    lines.append(f"{name}/{stem}.avi")
            (lists / f"{part}list0{split}.txt").write_text("\n".join(lines))
            whole = Published("UCF101", f"split {split} {part}", 2, (len(lines),), "here")
            monkeypatch.setitem(PUBLISHED, f"UCF101 split {split} {part}", whole)  # type: ignore[arg-type]
    return root


def opened(
    on: str, path: Path, out: Path, *, small: bool = False, partial: bool = False
) -> tuple[Split, ...]:
    return open_set(on, GivenSet(str(path)), (1, 2, 3), out=out, small=small, partial=partial)


def test_official_lists_are_found_and_counted(ucf101: Path, tmp_path: Path) -> None:
    splits = opened("ucf101", ucf101, tmp_path / "out")
    assert [split.number for split in splits] == [1, 2, 3]
    for split in splits:
        assert split.test is not None
        assert (split.train.count, split.test.count, split.train.missing) == (4, 2, 0)
        assert split.train.name.endswith(f"splits/lists/trainlist0{split.number}.txt")
        assert split.test.root == str(ucf101)
    assert len({part.fingerprint for split in splits for part in (split.train, split.test) if part}) == 6
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_not_whole_is_refused_unless_that_is_accepted(ucf101: Path, tmp_path: Path) -> None:
    whole = opened("ucf101", ucf101, tmp_path)
    (ucf101 / "videos" / "Archery" / "v_Archery_g01_c01.avi").unlink()
    with pytest.raises(ManifestError, match=r"testlist01.txt: 1 of 2 listed videos are not in .*`partial`"):
        opened("ucf101", ucf101, tmp_path)
    for options in ({"partial": True}, {"small": True}):
        split = opened("ucf101", ucf101, tmp_path, **options)[0]
        assert split.test is not None
        assert (split.test.count, split.test.missing) == (1, 1)
        assert split.train == whole[0].train
        assert split.test.fingerprint != whole[0].test.fingerprint  # type: ignore[union-attr]


def test_a_list_cut_short_is_refused(ucf101: Path, tmp_path: Path) -> None:
    file = ucf101 / "splits" / "lists" / "trainlist02.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    with pytest.raises(ManifestError, match="it lists 3 videos of 2 classes, but UCF101 split 2 train has 4"):
        opened("ucf101", ucf101, tmp_path)


def test_missing_lists_of_a_split(ucf101: Path, tmp_path: Path) -> None:
    (ucf101 / "splits" / "lists" / "testlist03.txt").unlink()
    with pytest.raises(ConfigError, match="the lists of split 3 are missing"):
        opened("ucf101", ucf101, tmp_path)
    assert [split.number for split in opened("ucf101", ucf101, tmp_path, small=True)] == [1, 2]


def test_videos_without_official_lists_are_for_the_small_scale(ucf101: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no official lists of HMDB51 .*set `scale` to small"):
        opened("hmdb51", ucf101 / "videos", tmp_path)
    splits = opened("hmdb51", ucf101 / "videos", tmp_path, small=True)
    everything = {row.path.name for row in Manifest.from_folder(ucf101 / "videos")}
    for split in splits:
        assert split.test is not None
        for part in (split.train, split.test):
            assert not Path(part.name).exists()  # a plan writes nothing
            part.write()
        train, test = (Manifest.from_csv(part.name) for part in (split.train, split.test))
        assert {row.path.name for part in (train, test) for row in part} == everything
        assert not set(train.sources()) & set(test.sources())
        assert (len(train), len(test)) == (split.train.count, split.test.count)
        assert set(train.class_counts()) == set(test.class_counts())


def test_the_small_scale_takes_a_few_videos_of_each_part(
    ucf101: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = {"videos": {"train": 2, "test": 1, "pool": 3}}
    monkeypatch.setattr(sets, "read_recipe", {"paper/small": most}.__getitem__)
    whole = opened("ucf101", ucf101, tmp_path)[0]
    split = opened("ucf101", ucf101, tmp_path, small=True)[0]
    assert split.test is not None
    assert (split.train.count, split.test.count) == (2, 2)  # one of each class is the least
    assert split.train.fingerprint != whole.train.fingerprint
    assert not Path(split.train.name).exists()  # a plan writes nothing
    split.train.write()
    kept = Manifest.from_csv(split.train.name)
    assert set(kept.class_counts()) == {"Archery", "Bowling"}
    listed = open_list(read_ucf101(ucf101 / "splits" / "lists" / "trainlist01.txt"), ucf101 / "videos")
    assert {row.path.resolve() for row in kept} < {row.path.resolve() for row in listed}
    assert opened("ucf101", ucf101, tmp_path, small=True)[0] == split  # the same draw again

    (pool,) = open_set("youtube8m", GivenSet(str(ucf101)), (1,), out=tmp_path, small=True, partial=False)
    pool.train.write()
    assert len(Manifest.from_csv(pool.train.name)) == pool.train.count == 3

    (held,) = opened("hmdb51", ucf101 / "videos", tmp_path, small=True)[:1]  # no official lists
    assert held.train.count == 2


def test_a_set_that_moved_is_the_same_set(ucf101: Path, tmp_path: Path) -> None:
    before = opened("ucf101", ucf101, tmp_path)
    ucf101.rename(tmp_path / "moved")
    after = opened("ucf101", tmp_path / "moved", tmp_path)
    assert [split.train.fingerprint for split in before] == [split.train.fingerprint for split in after]


def test_labels_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for rows in ("a.mp4,x\nb.mp4,y", "a.mp4,y\nb.mp4,x", "a.mp4,x", "a.mp4,x\nc.mp4,y"):
        file = tmp_path / "t.csv"
        file.write_text(f"path,label\n{rows}\n")
        prints.add(fingerprint(Manifest.from_csv(file)))
    assert len(prints) == 4


def test_hmdb51_and_kinetics_are_found(tmp_path: Path) -> None:
    root = tmp_path / "hmdb"
    lists = root / "splits" / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for name in ("wave", "walk"):
        stems = [f"{film}_{name}_f_nm_np1_fr_med_0.avi" for film in ("A", "B", "C")]
        for stem in stems:
            (root / stem).touch()
        for split in (1, 2, 3):
            codes = "".join(f"{stem} {code}\n" for stem, code in zip(stems, (1, 1, 2), strict=True))
            (lists / f"{name}_test_split{split}.txt").write_text(codes)
    splits = opened("hmdb51", root, tmp_path, partial=True)  # short of the published lists
    assert [(split.train.count, split.test.count) for split in splits if split.test] == [(4, 2)] * 3

    root = tmp_path / "kinetics"
    for part, count in (("train", 3), ("val", 2)):
        (root / part).mkdir(parents=True)
        lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
        for number in range(count):
            (root / part / f"{part:_<10}{number}_000001_000011.mp4").touch()
            lines.append(f"eating,{part:_<10}{number},1,11,{part},0")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{part}.csv").write_text("\n".join(lines))
    given = GivenSet(str(root))
    (split,) = open_set("kinetics", given, (1,), out=tmp_path, small=False, partial=True)
    assert split.test is not None
    assert (split.train.count, split.test.count) == (3, 2)


def test_unlabeled_videos_have_no_test(ucf101: Path, tmp_path: Path) -> None:
    (split,) = opened("youtube8m", ucf101, tmp_path)
    assert (split.train.count, split.test) == (6, None)


def test_several_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,labels\na.mp4,x|y\nb.mp4,x\n")
    with pytest.raises(ManifestError, match="every video needs one label"):
        opened("ucf101", tmp_path / "t.csv", tmp_path, small=True)


def test_published_counts_are_used_for_missing_sets() -> None:
    counts = [(s.train.count, s.test and s.test.count) for s in published_splits("ucf101", (1, 2, 3))]
    assert counts == [(9537, 3783), (9586, 3734), (9624, 3696)]
    assert all(train + (test or 0) == 13_320 for train, test in counts)
    assert [s.train.count for s in published_splits("hmdb51", (2,))] == [70 * 51]


def test_a_root_without_its_data_is_refused() -> None:
    assert Choices(data={"ucf101": "u"}, root={"ucf101": "v"}).sets == {"ucf101": GivenSet("u", "v")}
    with pytest.raises(ConfigError, match=r"root.hmdb51 v needs data.hmdb51"):
        Choices(root={"hmdb51": "v"})
    assert replace(GivenSet("u"), index="i").index == "i"
