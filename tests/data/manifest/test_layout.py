"""Lists as people and toolkits write them: each form is read, or refused with what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from t3d.data.catalog import open_manifest
from t3d.errors import ManifestError

Row = tuple[str, str | None]
TWO: list[Row] = [("a.mp4", "jump"), ("sub/b c.mp4", "run")]


def rows(file: Path) -> list[Row]:
    manifest = open_manifest(str(file), root="/v")
    paths = [str(entry.path).removeprefix("/v/") for entry in manifest]
    return list(zip(paths, manifest.label_names().to_pylist(), strict=True))


def written(tmp_path: Path, text: str, *, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    file = tmp_path / name
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.situation(
    "Lists and folders",
    "Tabs, semicolons or bars instead of commas; no header",
    "Read; one line says how",
)
@pytest.mark.parametrize("sep", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", ["path{}label\n", "", "sep={}\r\npath{}label\r\n"])
def test_any_separator_with_names_and_without(sep: str, header: str, tmp_path: Path) -> None:
    text = header.replace("{}", sep) + f"a.mp4{sep}jump\nsub/b c.mp4{sep}run\n"
    for name in ("list.csv", "list.tsv", "list.txt"):
        assert rows(written(tmp_path, text, name=name)) == TWO


@pytest.mark.situation(
    "Lists and folders",
    "UTF-16, or a byte order mark",
    "Read",
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    "text", ["path\tlabel\r\na.mp4\tjump\r\nsub/b c.mp4\trun\r\n", "a.mp4 jump\nsub/b c.mp4 run"]
)
def test_any_unicode_encoding(encoding: str, text: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path, text, encoding=encoding)) == TWO


@pytest.mark.situation(
    "Lists and folders",
    "Spaces after commas, empty rows of a spreadsheet, backslashes",
    "Read",
)
@pytest.mark.parametrize(
    "text",
    [
        "path, label\na.mp4, jump\nsub/b c.mp4 , run \n",
        'path, label\n"a.mp4", "jump"\n"sub/b c.mp4","run"\n',
        "path,label\na.mp4,jump\nsub/b c.mp4,run\n,\n",
        "path,label,,\na.mp4,jump,,\nsub/b c.mp4,run,,\n,,,\n",
        "path,label\na.mp4,jump,\nsub/b c.mp4,run,\n",
        "path,label\n,\na.mp4,jump\n\nsub/b c.mp4,run\n , \n",
        "a.mp4,jump,\nsub/b c.mp4,run,\n",
        "jump,a.mp4\nrun,sub/b c.mp4\n",
        "path,label\na.mp4,jump\nsub\\b c.mp4,run\n",
        "path label\na.mp4 jump\nsub/b c.mp4 run\n",
        "a.mp4  jump\n\nsub/b c.mp4 run \n",
        '"a.mp4" jump\n"sub/b c.mp4" run\n',
        "path,label\ra.mp4,jump\rsub/b c.mp4,run\r",
        'path,"la\nbel",Label\na.mp4,x,jump\nsub/b c.mp4,y,run\n',
    ],
)
def test_blanks_empty_rows_and_backslashes(text: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path, text)) == TWO


def test_blanks_within_quotation_marks_are_part_of_a_name(tmp_path: Path) -> None:
    assert rows(written(tmp_path, 'path,label\n" a.mp4","x, y"\n')) == [(" a.mp4", "x, y")]
    assert rows(written(tmp_path, 'path, label\n" a.mp4", "x, y"\n')) == [(" a.mp4", "x, y")]


def test_decimal_commas_of_a_spreadsheet(tmp_path: Path) -> None:
    (entry,) = open_manifest(str(written(tmp_path, "path;start;end\na.mp4;0,5;2,25\n")), root="/v")
    assert (entry.start, entry.end) == (0.5, 2.25)
    with pytest.raises(ManifestError, match="line 3: start is '1,5,2'; give seconds"):
        open_manifest(str(written(tmp_path, "path;start\na.mp4;0,5\nb.mp4;1,5,2\n")))


@pytest.mark.situation(
    "Lists and folders",
    "Lists of SlowFast, VideoMAE, mmaction2, TSM",
    "Read",
)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4 0\nmy clips/b.mp4 1\n", [("a.mp4", "0"), ("my clips/b.mp4", "1")]),  # SlowFast, VideoMAE
        ("a.mp4 0\nb.mp4 1", [("a.mp4", "0"), ("b.mp4", "1")]),  # mmaction2, videos
        ("x/1 163 1\nx/2 122 0\n", [("x/1", "1"), ("x/2", "0")]),  # mmaction2, frames
        ("a.mp4 163 1\nb.mp4 122 0\n", [("a.mp4", "1"), ("b.mp4", "0")]),  # TSM
        ("a.mp4,163,1\nb.mp4,122,0\n", [("a.mp4", "1"), ("b.mp4", "0")]),
        ("a.mp4 Tai Chi\nb.mp4 run\n", [("a.mp4", "Tai Chi"), ("b.mp4", "run")]),
        ("a.mp4\nmy clips/b.mp4\n", [("a.mp4", None), ("my clips/b.mp4", None)]),
        ("/abs/a.MOV 0\n", [("/abs/a.MOV", "0")]),
    ],
)
def test_lists_of_other_toolkits(text: str, expected: list[Row], tmp_path: Path) -> None:
    for name in ("list.csv", "train_videofolder.txt"):
        assert rows(written(tmp_path, text, name=name)) == expected


@pytest.mark.situation(
    "Lists and folders",
    "A table that can be read in two ways",
    "Refused, with what was seen and what to write",
)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.mp4 3 0\nb.mp4 1 1\n", "3 columns, separated by spaces: 'a.mp4', '3', '0'. .*unclear"),
        ("a.mp4 1 3 5\nb.mp4 1\n", "4 columns, separated by spaces: .*path,labels for several"),
        ("x/1 10 163 1\nx/2 0 122 0\n", "4 columns, separated by spaces"),
        ("a.mp4,jump,0,2\nb.mp4,run,1,3\n", "4 columns, separated by commas: .*path,start,end,label"),
        ("a.mp4,b.mp4\n", "2 columns, separated by commas.*unclear"),
        ("a.mp4 b.mp4 1\n", "line 1: .*'a.mp4', 'b.mp4', '1'. .*unclear"),
        ("path,label\na.mp4;jump\n", "line 2: 1 fields for 2 columns separated by commas"),
        ("a.mp4,jump\nb.mp4 run\n", "line 1: 2 columns, separated by commas"),
        ("what,ever\n", "the column 'path' is missing: name the column of the files 'path'"),
        ("path,label\tfile\na,b\tc\n", "separated by commas or tabs"),
        ("a\0b\1c", "is a binary file"),
        ("PK\x03\x04", "is a spreadsheet or zip file; export the list as CSV"),
    ],
)
def test_what_is_unclear_is_refused_with_what_was_seen(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"list.csv.*{says}"):
        rows(written(tmp_path, text))


def test_rows_after_the_first_hundred_are_checked_too(tmp_path: Path) -> None:
    many = "".join(f"{number}.mp4 0\n" for number in range(200))
    with pytest.raises(ManifestError, match="line 201: 1 fields for 2 columns separated by spaces"):
        rows(written(tmp_path, f"{many}broken\n"))
    assert len(rows(written(tmp_path, many))) == 200


# --- class numbers ----------------------------------------------------------------------------------------

NUMBERS = "a.mp4 0\nb.mp4 2\n"


@pytest.mark.situation(
    "Lists and folders",
    "Class numbers with a class file",
    "Named by the file next to the list",
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "jump\nwalk\nrun\n"),
        ("label_map_k400.txt", "jump\nwalk\nrun"),
        ("classInd.txt", "0 jump\n1 walk\n2 run\n"),
        ("ucf_class_names.txt", "jump 0\nwalk 1\nrun 2\n"),
        ("labels.csv", "id,name\n0,jump\n1,walk\n2,run\n"),
        ("labels.json", '{"jump": 0, "walk": "1", "run": 2}'),
        ("kinetics_classnames.json", '{"\\"jump\\"": 0, "\\"run\\"": 2}'),
        ("classes.json", '["jump", "walk", "run"]'),
        ("category.json", '{"0": "jump", "2": "run"}'),
    ],
)
def test_a_class_file_names_class_numbers(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert rows(written(tmp_path, NUMBERS, name="train.txt")) == [("a.mp4", "jump"), ("b.mp4", "run")]


@pytest.mark.parametrize(
    ("numbers", "files", "says"),
    [
        (
            "a.mp4 0\nb.mp4 5\n",
            {"classes.txt": "x\ny\n"},
            "classes.txt names 2 classes, and has none for number 5",
        ),
        ("a.mp4 1\nb.mp4 2\n", {"classes.txt": "x\ny\nz\n"}, "classes.txt may count from 0 or 1"),
        (NUMBERS, {"classes.txt": "x\ny\nz\n", "labels.txt": "u\nv\nw\n"}, "give different names"),
        ("a.mp4 0\nb.mp4 2\n", {"classes.txt": "0\n2\n10\n"}, None),  # a run folder's: these are the names
        ("a.mp4 0\nb.mp4 2\n", {"notes.txt": "x\ny\nz\n"}, None),
        ("a.mp4 0\nb.mp4 2\n", {"classes.json": "{"}, None),
    ],
)
def test_numbers_stay_names_where_no_class_file_is_clear(
    numbers: str, files: dict[str, str], says: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    labels = [label for _, label in rows(written(tmp_path, numbers, name="train.txt"))]
    assert labels == [line.split()[1] for line in numbers.splitlines()]
    assert (says or "names of columns") in caplog.text or says is None
    assert ("class numbers" in caplog.text) == (says is not None)


# --- Windows paths -----------------------------------------------------------------------------------------


@pytest.mark.skipif("os.sep == '\\\\'")
def test_a_drive_is_said_and_a_name_with_a_backslash_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = written(tmp_path, "path\nC:\\v\\a.mp4\n")
    assert rows(table) == [("C:\\v\\a.mp4", None)]
    assert "C:\\v\\a.mp4 is a path of a Windows machine; `t3d data check" in caplog.text
    (tmp_path / "odd\\name.mp4").touch()
    manifest = open_manifest(str(written(tmp_path, "path\nodd\\name.mp4\n")))
    assert manifest[0].path == tmp_path / "odd\\name.mp4"
