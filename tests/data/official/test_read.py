from __future__ import annotations

from pathlib import Path

import pytest

from t3d.data.official.read import check_list, read_official
from t3d.errors import ManifestError

UCF101 = "Jump/v_Jump_g01_c01.avi\n"
KINETICS = "label,youtube_id,time_start,time_end,split\njump,aaaaaaaaaaa,1,11,train\n"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "trainlist01.txt").write_text(UCF101)
    (tmp_path / "kinetics-400_train.csv").write_text(KINETICS)
    (tmp_path / "k400_train.txt").write_text(KINETICS)
    (tmp_path / "jump_test_split2.txt").write_text("Film_jump_f_cm_np1_fr_med_0.avi 2 \n")
    (tmp_path / "table.csv").write_text("path,label\na.mp4,jump\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected", "stem"),
    [
        ("/trainlist01.txt", "UCF101 split 1 train", "v_Jump_g01_c01"),
        ("/kinetics-400_train.csv", "Kinetics-400 train", "aaaaaaaaaaa_000001_000011"),
        ("/k400_train.txt", "Kinetics-400 train", "aaaaaaaaaaa_000001_000011"),
        (":test2", "HMDB51 split 2 test", "Film_jump_f_cm_np1_fr_med_0"),
    ],
)
def test_a_list_is_known_by_its_form(lists: Path, name: str, expected: str, stem: str) -> None:
    listed = read_official(f"{lists}{name}")
    assert listed is not None
    assert str(listed.published) == expected
    assert listed.stems.to_pylist() == [stem]
    difference = check_list(f"{lists}{name}")
    assert difference is not None
    assert difference.startswith(f"it lists 1 video of 1 class, but {expected} has")


@pytest.mark.parametrize("name", ["table.csv", "absent.txt", "list.jsonl"])
def test_files_that_are_not_official_lists(lists: Path, name: str) -> None:
    (lists / "list.jsonl").touch()
    assert read_official(str(lists / name)) is None
    with pytest.raises(ManifestError, match=r"no list of UCF101 \(\.txt\), HMDB51 \(FOLDER:train1\)"):
        check_list(str(lists / name))


def test_a_list_of_ones_own_has_nothing_to_equal(lists: Path) -> None:
    (lists / "mine.txt").write_text(UCF101)
    assert check_list(str(lists / "mine.txt")) is None
