from __future__ import annotations

import logging
from pathlib import Path

import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError


def read(tmp_path: Path, text: str) -> tuple[dict[str, list[object]], dict[str, list[str]] | None]:
    """The known columns that are not empty, and the others."""
    file = tmp_path / "list.csv"
    file.write_text(text)
    manifest = Manifest.from_csv(file, root="/v")
    columns = {name: manifest.table[name].to_pylist() for name in manifest.table.schema.names}
    columns["label"] = manifest.label_names().to_pylist()
    columns = {name: values for name, values in columns.items() if any(each is not None for each in values)}
    return columns, None if manifest.extra is None else manifest.extra.to_pydict()


@pytest.mark.situation(
    "Lists and folders",
    "Columns named `filename`, `class`, `Video`",
    "Understood; one line says how",
)
@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("Path,Label", "column 'Path' is path, column 'Label' is label"),
        ("file,class", "column 'file' is path, column 'class' is label"),
        ("filename,category", "column 'filename' is path, column 'category' is label"),
        ("videoPath,Class Name", "column 'videoPath' is path, column 'Class Name' is label"),
        ("video_id,label_name", "column 'video_id' is path, column 'label_name' is label"),
        ("path, label", None),
    ],
)
def test_other_tools_names_are_understood(
    header: str, says: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns, extra = read(tmp_path, f"{header}\na.mp4,jump\n")
    assert (columns["path"], columns["label"], extra) == (["/v/a.mp4"], ["jump"], None)
    assert [record.getMessage() for record in caplog.records] == (
        [f"{tmp_path / 'list.csv'}: {says}"] if says else []
    )


def test_a_remark_is_printed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        read(tmp_path, "file\na.mp4\n")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_times_and_groups_too(tmp_path: Path) -> None:
    columns, _ = read(tmp_path, "clip,action,t_start,t_end,group\na.mp4,jump,1,2,film\n")
    assert columns == {
        "path": ["/v/a.mp4"],
        "label": ["jump"],
        "start": [1.0],
        "end": [2.0],
        "source": ["film"],
    }


@pytest.mark.parametrize(
    ("text", "path", "label"),
    [
        ("video_id,video_path,label\n7,a.mp4,jump\n", "/v/a.mp4", "jump"),
        ("path,filename,label\na.mp4,b.mp4,jump\n", "/v/a.mp4", "jump"),
        ("path,class_id,class_name\na.mp4,3,jump\n", "/v/a.mp4", "jump"),
        (",path,label\n0,a.mp4,jump\n", "/v/a.mp4", "jump"),  # as pandas writes it
    ],
)
def test_of_several_columns_the_one_that_can_be_meant_is_taken(
    text: str, path: str, label: str, tmp_path: Path
) -> None:
    columns, extra = read(tmp_path, text)
    assert (columns["path"], columns["label"]) == ([path], [label])
    assert extra is not None
    assert len(extra) == 1


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("path,lable", "unknown column 'lable'; did you mean 'label'"),
        ("path,action,category", "'action' and 'category' may both be the column 'label'; rename"),
        ("file,filename,label", "'file' and 'filename' may both be the column 'path'"),
        ("path,Path", None),
        ("Path,path,PATH", None),
        ("PATH,Path", "a column is named twice"),
        ("path,fps,fps", "a column is named twice: path, fps, fps"),
        ("path,verb,noun", "'verb' may be the column 'label'; rename it to 'label', or to a name"),
        ("path,label,start_frame,end_frame", "'start_frame' may be the column 'start'.*not in frames"),
        ("path,tags", "'tags' may be the column 'labels'"),
        ("path,label,from,to", "'from' may be the column 'start'"),
        (
            "datei;klasse",
            "2 columns, separated by semicolons: 'datei', 'klasse'; the column 'path' is missing",
        ),
    ],
)
def test_a_name_that_may_mean_something_else_is_refused(
    header: str, says: str | None, tmp_path: Path
) -> None:
    sep = ";" if ";" in header else ","
    text = f"{header}\n" + sep.join(["a.mp4"] * (header.count(sep) + 1)) + "\n"
    if says is None:
        read(tmp_path, text)
        return
    with pytest.raises(ManifestError, match=f"list.csv, line 1: {says}"):
        read(tmp_path, text)


def test_the_names_of_a_foreign_table_are_proposed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="rename 'datei' to 'path' and 'klasse' to 'label'"):
        read(tmp_path, "datei,klasse\na.mp4,sprung\n")


@pytest.mark.situation(
    "Lists and folders",
    "Additional columns",
    "Kept in corrected lists",
)
def test_other_columns_are_kept_where_the_list_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text('path,label,note,verb\na.mp4,jump,"x, y",go\nb.mp4,run,,\n')
    manifest = Manifest.from_csv(file)
    manifest.select([1, 0]).with_classes(["run", "jump"]).write_csv(tmp_path / "new.csv")
    new = Manifest.from_csv(tmp_path / "new.csv")
    assert new.extra is not None
    assert new.extra.to_pydict() == {"note": [None, "x, y"], "verb": [None, "go"]}
    assert [entry.path.name for entry in new] == ["b.mp4", "a.mp4"]
    manifest.write_csv(tmp_path / "plain.csv", extra=False)
    assert Manifest.from_csv(tmp_path / "plain.csv").extra is None


@pytest.mark.situation(
    "Lists and folders",
    "JSON Lines with other names of fields, UTF-16, class numbers",
    "Understood as in tables; one line says how",
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mixed", ["", ', "id": "x"'], ids=["fast", "slow"])
def test_fields_of_json_lines_have_other_names_too(encoding: str, mixed: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("0 jump\n1 run\n")
    table = tmp_path / "list.jsonl"
    lines = (
        f'{{"Path": "a.mp4", "class_id": 1, "shot": "2020-01-02", "tags": [1]{mixed}}}',
        '{"Path": "b.mp4", "class_id": 0, "start_time": 1, "end_sec": 2.5, "id": 7}',
    )
    table.write_bytes("\r\n".join(lines).encode(encoding))
    manifest = Manifest.from_jsonl(table)
    assert [(entry.path.name, entry.start, entry.end) for entry in manifest] == [
        ("a.mp4", None, None),
        ("b.mp4", 1.0, 2.5),
    ]
    assert manifest.label_column.text().to_pylist() == ["run", "jump"]
    assert manifest.extra is not None
    assert manifest.extra["shot"].to_pylist() == ["2020-01-02", None]  # pyarrow would make a time of it
    assert manifest.extra["id"].to_pylist() == ["x" if mixed else None, "7"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"path": "a", "lable": "x"}', "unknown column 'lable'; did you mean .?label"),
        ('{"path": "a", "start_frame": 3}', "'start_frame' may be the column 'start'.*not in frames"),
        ('{"path": "a", "action": "x", "category": "y"}', "'action' and 'category' may both be"),
        ('{"datei": "a"}', "the column 'path' is missing; there are 'datei'"),
        ('{"file": 3}', "line 1: file is 3; it must be a text"),
        ('{"path": "a", "class": 3.5}', "line 1: class is 3.5; it must be a class name, or a class number"),
        (
            '{"path": "a", "start_time": "soon"}',
            "line 1: start_time is 'soon'; it must be a number",
        ),
    ],
)
def test_fields_of_json_lines_that_are_unclear_are_refused(line: str, says: str, tmp_path: Path) -> None:
    table = tmp_path / "list.jsonl"
    table.write_text(f"{line}\n")
    with pytest.raises(ManifestError, match=f"list.jsonl.*{says}"):
        Manifest.from_jsonl(table)
