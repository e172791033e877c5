from __future__ import annotations

from pathlib import Path

import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.data.official.kinetics import lists_youtube, read_kinetics
from t3d.data.official.listed import open_list
from t3d.errors import ManifestError

HEADER = "label,youtube_id,time_start,time_end,split"
# Ids that begin with - and hold _, a class with a comma in quotation marks, one video in two classes.
ROWS = [
    *("abseiling,-0-_abcdEFG,10,20,train", "abseiling,0wR5jVB-WPk,417,427,train"),
    *('"jumping, high",0wR5jVB-WPk,5,15,train', "tai chi,___________,0,10,train"),
    "yoga,zzzzzzzzzzz,1000000,1000010,train",
]


def write(file: Path, *lines: str, end: str = "\n") -> Path:
    file.write_text(end.join(lines) + end, newline="")
    return file


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.csv", HEADER, *ROWS)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in (
        *("abseiling/-0-_abcdEFG_000010_000020.mp4", "jumping, high/0wR5jVB-WPk_000005_000015.mkv"),
        *("tai_chi/____________000000_000010.mp4", "flat -0-_abcdEFG_000010_000020.mp4", "notes.txt"),
        *("tai_chi/zzzzzzzzzzz_000010_000020.mp4", "0wr5jvb-wpk_000417_000427.mp4"),  # others: time, case
    ):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    return tmp_path / "videos"


def rows(manifest: Manifest) -> list[tuple[str, str | None, float | None, float | None, str]]:
    return [
        (e.path.name, None if e.label is None else manifest.classes[e.label], e.start, e.end, e.source)
        for e in manifest
    ]


def test_clips_in_class_folders_or_flat(train: Path, videos: Path) -> None:
    manifest = open_list(read_kinetics(train), videos)
    assert manifest.classes == ("abseiling", "jumping, high", "tai chi")
    assert rows(manifest) == [
        ("-0-_abcdEFG_000010_000020.mp4", "abseiling", None, None, "-0-_abcdEFG"),
        ("0wR5jVB-WPk_000005_000015.mkv", "jumping, high", None, None, "0wR5jVB-WPk"),
        ("____________000000_000010.mp4", "tai chi", None, None, "___________"),
    ]
    assert manifest.missing == {"abseiling": 1, "yoga": 1}
    assert manifest.skipped == {".txt": 1}
    assert all(entry.path.is_file() for entry in manifest)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_marks_and_blanks_do_not_matter(tmp_path: Path, train: Path, end: str, mark: str) -> None:
    lines = [
        mark + '"label","youtube_id","time_start","time_end","split","is_cc"',
        *(f" {row}  ,0" if row[0] != '"' else f"{row} ,1" for row in ROWS),
    ]
    other = read_kinetics(write(tmp_path / "other.csv", *lines, end=end))
    plain = read_kinetics(train)
    for column in ("stems", "names", "sources", "start", "end"):
        assert getattr(other, column) == getattr(plain, column), column
    assert lists_youtube(tmp_path / "other.csv")


@pytest.mark.parametrize("header", ["youtube_id,time_start,time_end,split", HEADER])
def test_a_test_list_without_labels(tmp_path: Path, videos: Path, header: str) -> None:
    file = write(
        tmp_path / "test.csv",
        header,
        *(
            f"{',' * header.startswith('label')}{row}"
            for row in ("-0-_abcdEFG,10,20,test", "yyyyyyyyyyy,1,11,test")
        ),
    )
    manifest = open_list(read_kinetics(file), videos)
    assert rows(manifest) == [("-0-_abcdEFG_000010_000020.mp4", None, None, None, "-0-_abcdEFG")]
    assert manifest.classes == ()
    assert manifest.missing == {"(unlabeled)": 1}


def test_a_long_video_gives_the_listed_part(tmp_path: Path) -> None:
    for name in ("aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mkv", "aaaaaaaaaaa_000050_000060.mp4"):
        (tmp_path / name).touch()
    file = write(
        tmp_path / "list.csv",
        "youtube_id,time_start,time_end",
        *("aaaaaaaaaaa,10,20.5", "aaaaaaaaaaa,50,60", "bbbbbbbbbbb,,", "ccccccccccc,,"),
    )
    assert rows(open_list(read_kinetics(file), tmp_path)) == [
        ("aaaaaaaaaaa.mp4", None, 10.0, 20.5, "aaaaaaaaaaa"),
        ("aaaaaaaaaaa_000050_000060.mp4", None, None, None, "aaaaaaaaaaa"),  # a clip that was cut goes first
        ("bbbbbbbbbbb.mkv", None, None, None, "bbbbbbbbbbb"),
    ]


def test_a_list_of_ids_alone(tmp_path: Path) -> None:
    (tmp_path / "aaaaaaaaaaa.mp4").touch()
    file = write(tmp_path / "list.txt", "youtube_id", "aaaaaaaaaaa")
    assert rows(open_list(read_kinetics(file), tmp_path)) == [
        ("aaaaaaaaaaa.mp4", None, None, None, "aaaaaaaaaaa")
    ]


def test_a_list_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    (tmp_path / "aaaaaaaaaaa.mp4").touch()
    file = tmp_path / "list.txt"
    file.write_text("Label\tyoutube_id\tnote\r\njump\taaaaaaaaaaa\tx\r\n", encoding="utf-16")
    assert lists_youtube(file)
    assert rows(open_list(read_kinetics(file), tmp_path)) == [
        ("aaaaaaaaaaa.mp4", "jump", None, None, "aaaaaaaaaaa")
    ]


def test_a_table_of_files_may_have_their_youtube_ids(tmp_path: Path) -> None:
    assert not lists_youtube(write(tmp_path / "list.csv", "path,label,youtube_id", "a.mp4,jump,aaaaaaaaaaa"))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([HEADER, "a,b,1,2,train"], r"line 2: youtube_id must be YouTube's 11 letters"),
        ([HEADER, ROWS[0], "a,#NAME?,1,2,train", "a,,1,2,train"], "lines 3 and 4: youtube_id must be"),
        ([HEADER, "a,aaaaaaaaaaa,1,x,train"], "line 2: time_end is 'x'; give seconds"),
        ([HEADER, "a,aaaaaaaaaaa,9,9,train"], "line 2: end must be after start"),
        ([HEADER, "a,aaaaaaaaaaa,-1,9,train"], "line 2: start is negative"),
        ([HEADER, "a,aaaaaaaaaaa,1,,train"], "line 2: time_start and time_end go together"),
        ([HEADER, *ROWS, ROWS[0]], r"lines 2 and 7: '-0-_abcdEFG' from 10.0 to 20.0 s occurs more than once"),
        (
            [HEADER, *ROWS, "yoga,-0-_abcdEFG,10,20,train"],
            "lines 2 and 7: .* contradicting labels: 'abseiling', 'yoga'",
        ),
        (
            [HEADER, ROWS[0], "yoga,aaaaaaaaaaa,1,2,test"],
            r"joins several parts \('test', 'train' in the column",
        ),
        (["lable" + HEADER[5:], *ROWS], r"line 1: unknown column 'lable'; did you mean 'label'\?"),
        (["label,time_start,time_end", "a,1,2"], "line 1: the column 'youtube_id' is missing"),
        ([HEADER, "a,aaaaaaaaaaa,1,2"], "line 2: 4 fields for 5 columns"),
        ([HEADER], "the table has no rows"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, lines: list[str], says: str) -> None:
    with pytest.raises(
        ManifestError, match=rf"list\.csv(: |, ).*{says}" if "line" not in says else says
    ) as error:
        read_kinetics(write(tmp_path / "list.csv", *lines))
    assert str(tmp_path / "list.csv") in str(error.value)


def test_two_files_of_one_clip_are_refused(train: Path, videos: Path) -> None:
    (videos / "replacement").mkdir()
    (videos / "replacement" / "-0-_abcdEFG_000010_000020.mp4").touch()
    with pytest.raises(ManifestError, match="2 files are named '-0-_abcdEFG_000010_000020'"):
        open_list(read_kinetics(train), videos)
    (videos / "zzzzzzzzzzz.mp4").touch()
    (videos / "zzzzzzzzzzz.mkv").touch()
    file = write(videos / "list.csv", "youtube_id,time_start,time_end", "zzzzzzzzzzz,1,2")
    with pytest.raises(ManifestError, match="2 files are named 'zzzzzzzzzzz'"):
        open_list(read_kinetics(file), videos)


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("kinetics-400_train.csv", "train", "Kinetics-400 train"),
        ("k600/annotations/val.csv", "validate", "Kinetics-600 val"),
        ("kinetics400/k700_2020/test.csv", "test", "Kinetics-700 test"),
        ("mine/train.csv", "train", "None"),
        ("kinetics-400_train.csv", "", "None"),
    ],
)
def test_which_published_list_it_should_equal(tmp_path: Path, name: str, part: str, expected: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    file = write(tmp_path / name, HEADER, f"yoga,aaaaaaaaaaa,1,2,{part}")
    assert str(read_kinetics(file).published) == expected


def test_an_edition_is_known_by_its_number_of_classes_too(tmp_path: Path) -> None:
    lines = [f"class {i},{i:011d},1,2,val" for i in range(400)]
    listed = read_kinetics(write(tmp_path / "val.csv", HEADER, *lines))
    assert str(listed.published) == "Kinetics-400 val"
    assert listed.difference() == (
        "it lists 400 videos of 400 classes, but Kinetics-400 val has 19,906 of 400 as published"
    )


@pytest.mark.slow
def test_a_list_of_650_000_lines_takes_seconds(tmp_path: Path) -> None:
    import time

    lines = [f"class {i % 700},{i:011d},{i % 500},{i % 500 + 10},train" for i in range(650_000)]
    file = write(tmp_path / "train.csv", HEADER, *lines)
    (tmp_path / "00000000003_000003_000013.mp4").touch()
    before = time.process_time()
    assert len(open_list(read_kinetics(file), tmp_path)) == 1
    assert time.process_time() - before < 10
