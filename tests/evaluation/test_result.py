"""Predictions as values: text, plain values, tables, and pictures in notebooks."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from t3d.errors import ConfigError, Failed
from t3d.evaluation.result import ClipPrediction, Prediction, to_table
from t3d.evaluation.timeline import Segment, Timeline
from t3d.video.encode import write_video

FINE = Prediction("/films/a.mp4", ("run", "坐", "path", "x"), (0.825, 0.1, 0.05, 0.025), clips=2)
BAD = Prediction("/films/b.mp4", error="is empty (0 bytes)")
PART = replace(FINE, start=1.5, end=4.0, targets="multi")
CLIPS = replace(FINE, per_clip=(ClipPrediction(0.0, 1.0000001, FINE.classes, FINE.probs),))


def test_the_text_is_the_file_and_the_most_probable_classes() -> None:
    lines = str(FINE).splitlines()
    assert lines[0] == "/films/a.mp4"
    assert [line.split() for line in lines[1:]] == [["run", "82.5%"], ["坐", "10.0%"], ["path", "5.0%"]]
    assert repr(FINE) == "Prediction('/films/a.mp4': run 82.5%, 坐 10.0%, path 5.0%, …)"
    assert str(PART).startswith("/films/a.mp4 from 1.5 s to 4 s\n")
    assert str(BAD) == "/films/b.mp4: is empty (0 bytes)"
    assert "is empty" in repr(BAD)
    assert "\x1b" not in str(replace(FINE, classes=("\x1b[31m", "b", "c", "d")))


def test_the_most_probable_classes() -> None:
    assert (FINE.label, FINE.probability) == ("run", 0.825)
    assert FINE.top(2) == [("run", 0.825), ("坐", 0.1)]
    assert FINE.top(9, threshold=0.05) == [("run", 0.825), ("坐", 0.1), ("path", 0.05)]
    assert FINE.top(9, threshold=0.9) == []
    assert BAD.label == ""
    assert math.isnan(BAD.probability)


def test_all_predictions_have_the_same_keys() -> None:
    """So `pandas.DataFrame([each.to_dict() for each in results])` has one meaning per column."""
    rows = [each.to_dict() for each in (FINE, BAD, PART)]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert rows[0]["classes"] == {"run": 0.825, "坐": 0.1, "path": 0.05, "x": 0.025}
    assert (rows[0]["label"], rows[0]["probability"], rows[0]["error"]) == ("run", 0.825, None)
    assert (rows[1]["label"], rows[1]["probability"], rows[1]["clips"]) == (None, None, 0)
    assert (rows[2]["start"], rows[2]["end"], rows[2]["targets"]) == (1.5, 4.0, "multi")
    assert json.loads(CLIPS.to_json())["per_clip"] == [
        {"start": 0.0, "end": 1.0, "classes": rows[0]["classes"]}
    ]
    assert "坐" in FINE.to_json()
    assert "\n" not in FINE.to_json()


def test_a_table_of_predictions() -> None:
    table = to_table([FINE, BAD, PART])
    columns = ["path", "start", "end", "label", "probability", "clips", "error"]
    assert table.column_names == [*columns, "class path", "run", "x", "坐"]
    assert table["run"].to_pylist() == [0.825, None, 0.825]
    assert table["class path"].to_pylist() == [0.05, None, 0.05]
    assert table["path"].to_pylist() == [FINE.path, BAD.path, PART.path]
    assert table["error"].to_pylist() == [None, BAD.error, None]
    assert to_table([BAD]).column_names == columns
    assert to_table([]).num_rows == 0
    with pytest.raises(ConfigError, match="different classes"):
        to_table([FINE, Prediction("c.mp4", ("other",), (1.0,))])


def test_a_table_of_timelines() -> None:
    timeline = Timeline(
        "a.mp4",
        ("x", "y"),
        np.arange(3.0),
        np.zeros((2, 2)),
        (Segment("x", 0, 1, 0.5), Segment("y", 1, 2, 0.75)),
    )
    table = to_table([timeline, Failed("b.mp4", "is empty")])
    assert table.to_pylist() == [
        {"path": "a.mp4", "start": 0.0, "end": 1.0, "label": "x", "score": 0.5, "error": None},
        {"path": "a.mp4", "start": 1.0, "end": 2.0, "label": "y", "score": 0.75, "error": None},
        {"path": "b.mp4", "start": None, "end": None, "label": None, "score": None, "error": "is empty"},
    ]
    assert table.schema.field("start").type == pa.float64()
    with pytest.raises(ConfigError, match="got Prediction, Timeline; give a list"):
        to_table([timeline, FINE])  # type: ignore[list-item]
    assert str(timeline).splitlines()[1] == "  0:00.000 to 0:01.000  x 50%"
    assert repr(timeline) == "Timeline('a.mp4': 0:02.000, 2 segments)"


class _Balanced(HTMLParser):
    """Checks that tags are closed, and collects text and pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.pictures: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_a_picture_and_bars(tmp_path: Path) -> None:
    frames = torch.zeros(20, 3, 120, 400, dtype=torch.uint8)
    frames[12:, 0] = 250
    path = write_video(tmp_path / "<b>&.mp4", frames, fps=10)
    evil = ("<script>alert(1)</script>", "坐")
    prediction = Prediction(str(path), evil, (0.75, 0.25), clips=1)
    html = prediction._repr_html_()
    page = _Balanced(html)
    assert "<script" not in html
    assert str(path) in page.text
    assert evil[0] + "75.0%" in page.text
    (uri,) = page.pictures
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (160, 48)
        assert picture.getpixel((80, 20))[0] < 50  # type: ignore[index]
    late = replace(prediction, start=1.0, end=9.0)._repr_html_()  # the middle of 1 to 2 s
    (uri,) = _Balanced(late).pictures
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        assert picture.getpixel((80, 20))[0] > 200  # type: ignore[index]
    assert "independent" in _Balanced(replace(prediction, targets="multi")._repr_html_()).text


@pytest.mark.parametrize("path", ["frames in memory", "https://host/a.mp4", "/absent/a.mp4"])
def test_without_the_file_a_notebook_shows_bars(path: str) -> None:
    page = _Balanced(Prediction(path, ("a",), (1.0,), clips=1)._repr_html_())
    assert page.pictures == []
    assert "a100.0%" in page.text
    assert "is empty" in _Balanced(BAD._repr_html_()).text


def test_a_notebook_shows_the_picture_of_a_timeline() -> None:
    segments = (Segment("<run> & $x$", 0, 1, 0.5),)
    timeline = Timeline("<a>.mp4", ("<run> & $x$", "y"), np.arange(3.0), np.full((2, 2), 0.5), segments)
    html = timeline._repr_html_()
    assert html.count("<svg") == 1
    assert "&lt;run&gt; &amp; $x$" in html
    assert "&lt;a&gt;.mp4" in html
