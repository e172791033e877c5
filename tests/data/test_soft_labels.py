"""Soft labels: every form of table, what is refused with its line, and joining with labeled videos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import SoftLabels, joined_with, read_soft_labels, write_soft_labels
from t3d.errors import ManifestError


def _written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _jsonl(path: Path, *records: dict[str, object]) -> Path:
    return _written(path, *map(json.dumps, records))


def _paths(soft: SoftLabels) -> list[str]:
    return [Path(path).name for path in soft.videos.table["path"].to_pylist()]


def test_predictions_as_json_lines(tmp_path: Path) -> None:
    file = _jsonl(
        tmp_path / "pool.jsonl",
        {"path": "/a.mp4", "clips": 1, "classes": {"run": 0.75, "Jump": 0.25}, "weights": "f"},
        {"path": "/b.mp4", "error": "damaged", "weights": "f"},
        {"path": "/a.mp4", "start": 1.5, "end": None, "clips": 1, "classes": {"Jump": 0.5, "run": 0.5}},
    )
    soft = read_soft_labels(file)
    assert soft.classes == ("Jump", "run")  # in name order, as in a manifest
    assert soft.probs.dtype == np.float32
    assert soft.probs.tolist() == [[0.25, 0.75], [0.5, 0.5]]
    assert [(entry.start, entry.end) for entry in soft.videos] == [(None, None), (1.5, None)]
    assert soft.failed == 1
    assert not soft.videos.labeled.any()
    assert not soft.grouped


def test_scores_of_a_test_and_predictions_as_csv(tmp_path: Path) -> None:
    scores = _written(
        tmp_path / "scores.csv",
        "path,start,end,label,prediction,clips,Jump,start",
        "/a.mp4,,,Jump,Jump,2,0.900000,0.100000",
        "/b.mp4,1,2.5,Jump,,0,,",
    )
    predicted = _written(
        tmp_path / "pool.csv",
        "path,start,end,prediction,clips,weights,error,Jump,path",
        '"/a,b.mp4",,,path,2,ff,,0.1,0.9',
        "/b.mp4,,,,0,ff,damaged,,",
        "/c.mp4,,,,0,ff,damaged,0.5,0.5",
    )
    soft = read_soft_labels(scores)
    assert soft.classes == ("Jump", "start")  # a class may have the name of a column
    assert (_paths(soft), soft.probs.tolist(), soft.failed) == (
        ["a.mp4"],
        [[np.float32(0.9), np.float32(0.1)]],
        1,
    )
    soft = read_soft_labels(predicted)
    assert (soft.classes, _paths(soft), soft.failed) == (("Jump", "path"), ["a,b.mp4"], 2)


def test_own_table(tmp_path: Path) -> None:
    file = _written(
        tmp_path / "own.csv",
        "",
        "label;Jump;path;Run;source",
        "Jump;0,25;clips/a.mp4;0,75;tape",
        "",
        ";1;/b.mp4;0;",
    )
    soft = read_soft_labels(file)
    assert soft.classes == ("Jump", "Run")
    assert soft.probs.tolist() == [[0.25, 0.75], [1, 0]]
    assert soft.videos.table["path"].to_pylist() == [str(tmp_path / "clips/a.mp4"), "/b.mp4"]
    assert soft.videos.table["source"].to_pylist() == ["tape", "/b"]
    assert soft.grouped
    moved = read_soft_labels(file, root="/elsewhere")
    assert moved.videos[0].path == Path("/elsewhere/clips/a.mp4")


def test_a_comma_in_a_path_is_not_a_decimal_comma(tmp_path: Path) -> None:
    file = _written(tmp_path / "own.csv", "path;a;b", "/take1,2.mp4;0.25;0.75")
    assert read_soft_labels(file).probs.tolist() == [[0.25, 0.75]]
    file = _written(tmp_path / "own.csv", "path;a;b", "/a.mp4;0,25;x")
    with pytest.raises(ManifestError, match=r"line 2: b is 'x', not a probability"):
        read_soft_labels(file)


def test_points_and_commas_may_both_be_decimal(tmp_path: Path) -> None:
    file = _written(tmp_path / "own.csv", "path;a;b", "/a.mp4;0.25; 0,75", "/b.mp4;2,5e-1;0.75", "/c.mp4;;")
    soft = read_soft_labels(file)
    assert (soft.probs.tolist(), soft.failed) == ([[0.25, 0.75], [0.25, 0.75]], 1)


def test_rounded_rows_are_made_to_sum_to_one(tmp_path: Path) -> None:
    file = _written(tmp_path / "own.csv", "path,a,b,c", "x.mp4,0.333,0.333,0.3335")
    np.testing.assert_allclose(read_soft_labels(file).probs.sum(), 1, atol=1e-7)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("y.mp4,0.5,0.4", "line 3: the probabilities of the 2 classes sum to 0.9; they must sum to 1"),
        ("y.mp4,0,0", "line 3: the probabilities of the 2 classes sum to 0;"),
        ("y.mp4,-0.1,1.1", "line 3: the probability of 'a' is -0.1; it must be from 0 to 1"),
        (
            "y.mp4,75,25",
            "line 3: the probability of 'a' is 75; it must be from 0 to 1; divide percentages by 100",
        ),
        ("y.mp4,nan,1", "line 3: the probability of 'a' is missing or not a number"),
        ("y.mp4,1,", "line 3: the probability of 'b' is missing or not a number"),
        ("y.mp4,inf,1", "line 3: the probability of 'a' is missing or not a number"),
        ("y.mp4,1,high", "line 3: b is 'high', not a probability"),
        ("y.mp4,1", "line 3: 2 fields for 3 columns"),
        (",1,0", "line 3: the path is empty"),
        ("x.mp4,1,0", "lines 2 and 3: .*occurs more than once"),
    ],
)
def test_wrong_rows_are_refused_with_their_line(tmp_path: Path, row: str, reason: str) -> None:
    file = _written(tmp_path / "own.csv", "path,a,b", "x.mp4,0.5,0.5", row)
    with pytest.raises(ManifestError, match=rf"own\.csv, {reason}"):
        read_soft_labels(file)


def test_line_numbers_count_videos_that_could_not_be_read(tmp_path: Path) -> None:
    head = "path,start,end,prediction,clips,weights,error,a,b"
    file = _written(tmp_path / "p.csv", head, "/x.mp4,,,,0,f,damaged,,", "/y.mp4,,,a,1,f,,0.5,0.2")
    with pytest.raises(ManifestError, match="line 3: the probabilities"):
        read_soft_labels(file)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("path,start,end", "no column of a class; the columns are path, start, end"),
        ("file,a,b", "the column 'path' is missing; .*rename the column of the files to 'path'"),
        ("path,a,a", "the class 'a' occurs twice"),
        ("path,,a", "a column of probabilities has no name"),
        ("path,error,error,a", "the column 'error' is named twice"),
        ("path,predictions,a,b", "predictions of several labels per video"),
        ("path,start,end,labels,predictions,clips,a", "predictions of several labels per video"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, header: str, reason: str) -> None:
    row = ",".join("1" * len(header.split(",")))
    with pytest.raises(ManifestError, match=reason):
        read_soft_labels(_written(tmp_path / "own.csv", header, row))


def test_tables_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="the table has no rows"):
        read_soft_labels(_written(tmp_path / "a.csv"))
    with pytest.raises(ManifestError, match="the table has no rows"):
        read_soft_labels(_written(tmp_path / "a.jsonl"))
    with pytest.raises(ManifestError, match="the table has no rows"):
        read_soft_labels(_written(tmp_path / "header.csv", "path,a,b"))
    with pytest.raises(ManifestError, match="none of its 1 videos could be read"):
        read_soft_labels(_jsonl(tmp_path / "b.jsonl", {"path": "/a", "error": "damaged"}))
    with pytest.raises(ManifestError, match="cannot be read"):
        read_soft_labels(tmp_path / "missing.csv")


def test_only_the_most_probable_classes_are_refused(tmp_path: Path) -> None:
    first = {"path": "/a", "classes": {"a": 0.6, "b": 0.3}}
    other = {"path": "/b", "classes": {"a": 0.6, "c": 0.3}}
    with pytest.raises(ManifestError, match=r"line 2: has the classes 'a', 'c', but.*without `top`"):
        read_soft_labels(_jsonl(tmp_path / "two.jsonl", first, other))
    with pytest.raises(ManifestError, match=r"line 1: the prob.*sum to 0\.9.*without `top`"):
        read_soft_labels(_jsonl(tmp_path / "one.jsonl", first))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"path": "/a", "classes": {"a": 1', "not a JSON object.*run the same command again"),
        ('{"classes": {"a": 1}}', "not a prediction"),
        ('{"path": "/a", "label": "a"}', "no class probabilities"),
        ('{"path": "/a", "classes": {"a": true}}', "the probability of 'a' is True"),
        ('{"path": "/a", "start": "1", "classes": {"a": 1}}', "start is '1'"),
        ('{"path": "/a", "source": 1, "classes": {"a": 1}}', "source is 1"),
        ('{"path": "/a", "classes": {"a": 1}, "targets": "multi"}', "several labels per video"),
    ],
)
def test_wrong_lines_of_json_are_refused(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=rf"p\.jsonl, line 1: .*{reason}|line 1: {reason}"):
        read_soft_labels(_written(tmp_path / "p.jsonl", line))


def test_a_written_table_is_read_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(40, 0.05), 50)
    table = pa.table(
        {
            "path": [str(tmp_path / f'v {i}, "x".mp4') for i in range(50)],
            "label": pa.nulls(50, pa.int32()),
            "start": [None, 0.1, *[float(i) for i in range(48)]],
            "end": [None, None, *[i + 0.3 for i in range(48)]],
            "source": [f"group {i % 3}" for i in range(50)],
        }
    )
    names = ("path", "B", "ö", "a,b", 'q"', "source", "label", *map(str, range(33)))
    soft = SoftLabels(Manifest((), table), names, probs)
    write_soft_labels(tmp_path / "soft.csv", soft)
    again = read_soft_labels(tmp_path / "soft.csv")
    assert again.classes == soft.classes
    np.testing.assert_array_equal(again.probs, soft.probs)
    assert again.videos.table.equals(soft.videos.table)
    assert (tmp_path / "soft.csv").read_text().splitlines()[1].startswith('"v 0')  # the folder can be moved


def _videos(*names: str, label: int | None = None, start: float | None = None) -> Manifest:
    columns = {
        "path": [f"/{name}" for name in names],
        "label": pa.array([label] * len(names), pa.int32()),
        "start": pa.array([start] * len(names), pa.float64()),
        "end": pa.nulls(len(names), pa.float64()),
        "source": names,
    }
    return Manifest(("Jump", "Run", "Swim"), pa.table(columns))


def test_classes_are_matched_by_name() -> None:
    soft = SoftLabels(_videos("a").without_labels(), ("Run", "Jump"), np.array([[0.75, 0.25]]))
    assert soft.with_classes(("Jump", "Swim", "Run")).probs.tolist() == [[0.25, 0, 0.75]]
    with pytest.raises(ManifestError, match=r"pool\.csv: the class 'Jump' is not a class of the videos"):
        soft.with_classes(("Run", "Swim"), name="pool.csv", owner="the videos")


def test_soft_labels_are_checked_without_a_table() -> None:
    videos = _videos("a", "b").without_labels()
    with pytest.raises(ManifestError, match=r"shape \[2, 2\]; got \[1, 2\]"):
        SoftLabels(videos, ("a", "b"), np.array([[1.0, 0]]))
    with pytest.raises(ManifestError, match="row 1: the probabilities"):
        SoftLabels(videos, ("a", "b"), np.array([[1.0, 0], [0, 0.5]]))
    with pytest.raises(ManifestError, match="class names must differ"):
        SoftLabels(videos, ("a", "a"), np.array([[1.0, 0], [0, 1]]))
    with pytest.raises(ManifestError, match="must not have labels"):
        SoftLabels(_videos("a", label=0), ("a", "b"), np.array([[1.0, 0]]))


def test_joining_keeps_the_labels() -> None:
    labeled = _videos("a", "b", label=1)
    soft = SoftLabels(
        _videos("c", "b", "d").without_labels(), ("Run", "Jump"), np.array([[1, 0], [0, 1], [0.5, 0.5]])
    )
    videos, probs = joined_with(labeled, soft)
    assert [entry.path.name for entry in videos] == ["a", "b", "c", "d"]
    assert (videos.classes, videos.labels.tolist()) == (labeled.classes, [1, 1, -1, -1])
    assert probs.dtype == np.float32
    assert probs.tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 0], [0.5, 0.5, 0]]
    with pytest.raises(ManifestError, match="row 0 of the labeled videos has no label"):
        joined_with(_videos("a"), soft)


def test_another_span_of_a_labeled_video_is_another_video() -> None:
    labeled = _videos("a", label=1)
    other = _videos("a", start=1.0).without_labels()
    soft = SoftLabels(other, ("Run",), np.array([[1.0]]))
    assert len(joined_with(labeled, soft)[0]) == 2
