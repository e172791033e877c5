from __future__ import annotations

import re
from pathlib import Path

import pytest

from t3d.data.official.hmdb51 import has_split_files, named_part, read_hmdb51
from t3d.data.official.listed import open_list
from t3d.errors import ConfigError, ManifestError

# Split files as they are published: a blank after the code, every clip of the class in each split.
CLIMB = (
    "BATMAN_BEGINS_climb_f_cm_np1_ba_bad_1.avi {} \nTwo_Towers_6_climb_u_nm_np2_fr_med_0.avi {} \n"
    "Two_Towers_6_climb_u_nm_np2_le_goo_1.avi {} \n#20_Rhythm!_climb_l_nm_np1_ri_med_0.avi {} \n"
)
STAIRS = (
    "BATMAN_BEGINS_climb_stairs_f_cm_np1_ba_bad_15.avi {} \n"
    "Agent_climb_climb_stairs_h_nm_np10_fr_med_9.avi {} \n"
)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    for split, (climb, stairs) in enumerate([((1, 2, 2, 0), (1, 2)), ((2, 1, 1, 1), (2, 0))], 1):
        (folder / f"climb_test_split{split}.txt").write_text(CLIMB.format(*climb))
        (folder / f"climb_stairs_test_split{split}.txt").write_text(STAIRS.format(*stairs))
    (folder / "README").write_text("not a split file")
    return folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Some of the clips, flat and in class folders, transcoded; one that no split file names."""
    names = [
        *(
            "climb/BATMAN_BEGINS_climb_f_cm_np1_ba_bad_1.mp4",
            "climb/two_towers_6_climb_u_nm_np2_fr_med_0.AVI",
        ),
        *("BATMAN_BEGINS_climb_stairs_f_cm_np1_ba_bad_15.webm", "climb/holiday.avi"),
    ]
    for name in names:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    return tmp_path / "videos"


def slow_split(folder: Path, split: int, code: int) -> set[tuple[str, str]]:
    """Read line by line what a split does with a code."""
    clips = set()
    for file in folder.iterdir():
        if file.name.endswith(f"_test_split{split}.txt"):
            for line in file.read_text().splitlines():
                name, use = line.split()
                if int(use) == code:
                    clips.add((file.name.removesuffix(f"_test_split{split}.txt"), Path(name).stem))
    return clips


@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize(("part", "code"), [("train", 1), ("test", 2)])
def test_a_part_as_a_slow_reading_gives_it(splits: Path, split: int, part: str, code: int) -> None:
    listed = read_hmdb51(splits, split=split, part=part)
    pairs = list(zip(listed.names.to_pylist(), listed.stems.to_pylist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == slow_split(splits, split, code)
    assert listed.classes == ["climb", "climb_stairs"]
    assert str(listed.published) == f"HMDB51 split {split} {part}"


def test_clips_of_one_film_share_a_source_across_classes(splits: Path) -> None:
    sources = dict.fromkeys(read_hmdb51(splits, split=2, part="train").sources.to_pylist())
    assert list(sources) == ["Two_Towers_6", "#20_Rhythm!"]
    listed = read_hmdb51(splits, split=1, part="train")
    assert listed.sources.to_pylist() == ["BATMAN_BEGINS", "BATMAN_BEGINS"]
    assert read_hmdb51(splits, split=1, part="test").sources.to_pylist() == [
        *(
            "Two_Towers_6",
            "Two_Towers_6",
            "Agent_climb",
        ),  # the longer class, not the film "Agent_climb_climb"
    ]


def test_videos_are_found_whatever_their_folders_and_endings(splits: Path, videos: Path) -> None:
    train = open_list(read_hmdb51(splits, split=1, part="train"), videos)
    test = open_list(read_hmdb51(splits, split=1, part="test"), videos)
    # climb_stairs has no test clip here, but a training clip.
    assert train.classes == test.classes == ("climb", "climb_stairs")
    assert [(e.path.name, e.label, e.source, e.start) for e in train] == [
        ("BATMAN_BEGINS_climb_f_cm_np1_ba_bad_1.mp4", 0, "BATMAN_BEGINS", None),
        ("BATMAN_BEGINS_climb_stairs_f_cm_np1_ba_bad_15.webm", 1, "BATMAN_BEGINS", None),
    ]
    assert [e.path.name for e in test] == ["two_towers_6_climb_u_nm_np2_fr_med_0.AVI"]
    assert train.missing == {}
    assert test.missing == {"climb": 1, "climb_stairs": 1}


def test_differences_from_the_published_split_are_reported(
    splits: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_list(read_hmdb51(splits, split=1, part="test"), videos)
    first, second = [record.getMessage() for record in caplog.records]
    assert "it lists 3 videos of 2 classes, but HMDB51 split 1 test has 1,530 of 51 as published" in first
    assert "; not 30 of each class: climb 2, climb_stairs 1" in first
    assert "HMDB51 split 1 test: 1 of 3 listed videos, 2 of 2 classes in " in second


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "clip_climb.avi 3",
            r"line 5: 'clip_climb\.avi 3' is not of the form .* 0 \(not used\), 1 \(training\)",
        ),
        ("clip_climb.avi", "line 5: 'clip_climb.avi' is not of the form"),
        ("climb/clip.avi 1", "line 5: .* is not of the form"),
        ("two_towers_6_climb_u_nm_np2_fr_med_0.avi 0", "line 5: .* is listed twice, as 'climb' and 'climb'"),
    ],
)
def test_mistakes_are_named_with_their_line(splits: Path, line: str, says: str) -> None:
    file = splits / "climb_test_split1.txt"
    file.write_bytes(b"\xef\xbb\xbf" + (file.read_text() + line).replace("\n", "\r\n").encode())
    with pytest.raises(ManifestError, match=f"{re.escape(str(file))}, {says}"):
        read_hmdb51(splits, split=1, part="train")


def test_a_clip_of_two_classes_is_refused(splits: Path) -> None:
    (splits / "walk_test_split1.txt").write_text("Two_Towers_6_climb_u_nm_np2_fr_med_0.avi 1 \n")
    with pytest.raises(ManifestError, match=r"walk_test_split1\.txt, line 1: .* as 'climb' and 'walk'"):
        read_hmdb51(splits, split=1, part="train")


def test_missing_parts_of_a_split(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no file CLASS_test_split3\.txt in it"):
        read_hmdb51(splits, split=3, part="train")
    for file in splits.glob("*split2.txt"):
        file.write_text("a_climb_f_cm_np1_ba_bad_1.avi 0\n" if "stairs" in file.name else "")
    with pytest.raises(ManifestError, match="split 2 lists no clip with code 2"):
        read_hmdb51(splits, split=2, part="test")
    with pytest.raises(ManifestError, match="cannot be listed"):
        read_hmdb51(tmp_path / "absent", split=1, part="train")
    with pytest.raises(ConfigError, match=r"has the splits 1, 2, 3 .* got 4, 'train'"):
        read_hmdb51(splits, split=4, part="train")
    with pytest.raises(ConfigError, match="got 1, 'val'"):
        read_hmdb51(splits, split=1, part="val")


def test_names_of_parts(splits: Path, videos: Path) -> None:
    assert has_split_files(splits)
    assert not has_split_files(videos)
    assert named_part(f"{splits}:train1") == (str(splits), "train", 1)
    assert named_part(f"{splits}:test3") == (str(splits), "test", 3)
    assert named_part(f"{videos}:train1") == (str(videos), "train", 1)  # reading it says what is missing
    for other in (videos, f"{videos}:x", "absent:train1", "C:/lists/trainlist01.txt", "a:b"):
        assert named_part(str(other)) is None


@pytest.mark.parametrize("behind", ["", ":", ":train", ":train4", ":val1", "/climb_test_split1.txt"])
def test_split_files_without_a_part_are_met_with_a_hint(splits: Path, behind: str) -> None:
    with pytest.raises(ManifestError, match=f"{re.escape(str(splits))}:train1; .*[Kk]nown: test1, test2"):
        named_part(f"{splits}{behind}")


def test_a_folder_may_have_a_colon_in_its_name(splits: Path) -> None:
    odd = splits.rename(splits.with_name("splits:train"))
    assert named_part(f"{odd}:train1") == (str(odd), "train", 1)
