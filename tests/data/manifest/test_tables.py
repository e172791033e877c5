import json
import os

import pyarrow as pa
import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError

GOOD = "\r\n".join(
    [
        "path,label,start,end,source",
        '"a, b.mp4",Tai Chi,,,',
        "",
        "клип 1.mp4,Прыжок,1.5,4,film 7",
        "/abs/x.mp4,,,2,",
        "",
    ]
)


def table(tmp_path, text, name="clips.csv", encoding="utf-8"):
    file = tmp_path / name
    file.write_bytes(text.encode(encoding))
    return file


def rows(manifest):
    return [
        (str(e.path), manifest.classes[e.label] if e.label is not None else None, e.start, e.end, e.source)
        for e in manifest
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_quoted_commas_languages_blank_lines_and_line_ends(tmp_path, encoding):
    manifest = Manifest.from_csv(table(tmp_path, GOOD, encoding=encoding))
    assert manifest.classes == ("Tai Chi", "Прыжок")
    assert rows(manifest) == [
        (f"{tmp_path}/a, b.mp4", "Tai Chi", None, None, "a, b"),
        (f"{tmp_path}/клип 1.mp4", "Прыжок", 1.5, 4.0, "film 7"),
        ("/abs/x.mp4", None, None, 2.0, "/abs/x"),
    ]
    assert manifest.labels.tolist() == [0, 1, -1]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_jsonl_says_the_same_as_csv(tmp_path, mark):
    records = [
        {"path": "a, b.mp4", "label": "Tai Chi"},
        {"source": "film 7", "path": "клип 1.mp4", "label": "Прыжок", "start": 1.5, "end": 4},
        {"path": "/abs/x.mp4", "label": None, "end": 2},
    ]
    text = mark + "\r\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    manifest = Manifest.from_jsonl(table(tmp_path, text, "clips.jsonl"))
    assert manifest == Manifest.from_csv(table(tmp_path, GOOD))


def test_paths_start_from_root_and_lose_their_dots(tmp_path):
    file = table(tmp_path, "path\n./x/../v_Punch_g01_c02.mp4\nsub//b.mp4\n../c.mp4\n")
    manifest = Manifest.from_csv(file, root="/data/videos")
    assert [str(e.path) for e in manifest] == [
        "/data/videos/v_Punch_g01_c02.mp4",
        "/data/videos/sub/b.mp4",
        "/data/c.mp4",
    ]
    assert manifest.table["source"].to_pylist() == ["Punch_g01", "sub/b", "/data/c"]
    assert manifest.classes == ()


def test_a_name_taken_apart_is_the_same_class(tmp_path):
    manifest = Manifest.from_csv(table(tmp_path, "path,label\na.mp4,\u00e9t\u00e9\nb.mp4,e\u0301te\u0301\n"))
    assert manifest.classes == ("\u00e9t\u00e9",)


def test_spans_of_one_video_share_its_source(tmp_path):
    manifest = Manifest.from_csv(table(tmp_path, "path,label,start,end\na.mp4,x,0,2\n./a.mp4,y,2,4\n"))
    assert manifest.sources() == ["a"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the table is empty; its first line must name the columns: path, label"),
        ("path,label\n", "no rows"),
        ("path,lable\na.mp4,x\n", "line 1: unknown column 'lable'.*did you mean 'label'"),
        ("label\nx\n", "column 'path' is missing"),
        ("path,path\na,b\n", "named twice"),
        ("path,label\na.mp4,x\n\nb, c.mp4,y\n", "line 4: 3 fields for 2 columns"),
        ("path,label\na.mp4,x\n,y\n", "line 3: the path is empty"),
        ("path,label\n   ,x\n", "line 2: the path is empty"),
        ("path,start\na.mp4,one\n", "line 2: start is 'one'"),
        ("path,end\na.mp4,nan\n", "line 2: end"),
        ("path,start\na.mp4,inf\n", "line 2: start"),
        ("path,start\na.mp4,1\nb.mp4,-1\n", "line 3: start is negative"),
        ("path,start,end\na.mp4,2,2\n", "line 2: end must be after start"),
        ("path,end\na.mp4,0\n", "line 2: end must be after start"),
        ('path,start,end\n"a\nb.mp4",0,1\nc.mp4,3,1\nd.mp4,3,1\n', "lines 4 and 5: end must be after start"),
        ("path,label\na.mp4,x\nb.mp4,x\na.mp4,x\n", "lines 2 and 4: .*a.mp4' occurs more than once"),
        ("path,label\na.mp4,x\nb.mp4,x\n./a.mp4,y\n", "lines 2 and 4: .*contradicting labels: 'x', 'y'"),
        ("path,label\na.mp4,x\na.mp4,\n", "contradicting labels: 'x', None"),
        (
            "path,start,end\na.mp4,1,2\na.mp4,1,2\na.mp4,1,3\n",
            "lines 2 and 3: .*from 1.0 to 2.0 s occurs more",
        ),
        ("path\n\udcff.mp4\n", "line 2: not UTF-8 text .byte 0xff.; save the list as UTF-8"),
    ],
)
def test_csv_mistakes_are_named(tmp_path, text, says):
    file = tmp_path / "clips.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError, match=says) as error:
        Manifest.from_csv(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n", "the table is empty"),
        (
            '{"path": "a"}\n{"path": "b", "lable": "x"}\n',
            "unknown column 'lable'.*did you mean 'label'",
        ),
        ('{"path": "a"}\n\n{"path": "b"\n', "line 3: not a JSON object"),
        ('["a"]\n', "line 1: must be an object"),
        ('{"path": 3}\n', "line 1: path is 3; it must be a text"),
        ('{"path": "a", "label": true}\n', "label is True; it must be a class name, or a class number"),
        ('{"path": "a", "start": "1"}\n', "start is '1'; it must be a number"),
        ('{"path": "a", "start": true}\n', "start is True"),
        ('{"path": "a", "end": NaN}\n', "line 1: end"),
        ('{"path": "a"}\n{"label": "x"}\n', "line 2: the path is empty"),
        ('{"path": "a", "label": ""}\n', "line 1: the label is blank"),
        ('{"path": "a", "start": 3, "end": 1}\n', "line 1: end must be after start"),
        ('{"path": "a"}\n{"path": "a"}\n', "lines 1 and 2: .*more than once"),
        ('{"path": "\udcff"}\n', "line 1: not UTF-8 text .byte 0xff."),
    ],
)
def test_jsonl_mistakes_are_named(tmp_path, text, says):
    file = tmp_path / "clips.jsonl"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError, match=says):
        Manifest.from_jsonl(file)


def test_absent_table(tmp_path):
    for read in (Manifest.from_csv, Manifest.from_jsonl):
        with pytest.raises(ManifestError, match=r"absent\.csv: cannot be read"):
            read(tmp_path / "absent.csv")


def test_written_csv_reads_back(tmp_path):
    inside = tmp_path / "set"
    columns = {
        "path": [f'{inside}/a, "b".mp4', f"{inside}/sub/клип.mp4", f"{inside}2/c.mp4", "/far/d\ne.mp4"],
        "label": [1, 0, None, 0],
        "start": [0.1, None, 1 / 3, 1e-7],
        "end": [None, 7.0, 12345.678901, 1e22],
        "source": ["s 1", "s,2", "s1", "ü"],
    }
    manifest = Manifest(("Jump", "Tai Chi"), pa.table(columns))
    file = inside / "clips.csv"
    manifest.write_csv(file)
    assert Manifest.from_csv(file) == manifest
    text = file.read_text(encoding="utf-8")
    assert "\nsub/клип.mp4" in text.replace('"sub', "sub")
    assert f"{inside}/" not in text  # files next to the table move with it
    assert f"{inside}2/c.mp4" in text

    moved = inside.rename(tmp_path / "moved")
    assert str(Manifest.from_csv(moved / "clips.csv")[1].path) == f"{moved}/sub/клип.mp4"


def test_writing_is_atomic_and_leaves_no_temporary_files(tmp_path, monkeypatch):
    manifest = Manifest.from_csv(table(tmp_path, "path,label\na.mp4,x\n"))
    file = tmp_path / "out.csv"
    manifest.write_csv(file)
    before = file.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        manifest.select([0, 0]).write_csv(file)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.csv", "out.csv"]
