"""Files of a timeline, read back by other programs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest

from t3d.errors import ConfigError
from t3d.evaluation.clock import clock
from t3d.evaluation.pictures import timeline_figure
from t3d.evaluation.timeline import Segment, Timeline
from t3d.report.timeline import print_timeline, write_timeline

NAMES = ("run & <jump>", "坐", "x")
SEGMENTS = (
    Segment(NAMES[0], 0.0, 59.9996, 0.876),
    Segment(NAMES[1], 3725.0404, 3730.5, 0.5),
)


@pytest.fixture
def timeline() -> Timeline:
    edges = np.linspace(0, 4000, 11)
    probs = np.linspace(0, 1, 30).reshape(10, 3)
    return Timeline("a, b.mp4", NAMES, edges, probs, SEGMENTS)


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_a_player_reads_the_subtitles(timeline: Timeline, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_timeline(timeline, path)
    with av.open(str(path)) as file:
        (stream,) = file.streams.subtitles
        cues = [packet for packet in file.demux(stream) if packet.size]
        times = [(float(cue.pts * cue.time_base), float(cue.duration * cue.time_base)) for cue in cues]
        texts = [bytes(cue).decode() for cue in cues]
    assert times == [(0.0, 60.0), (3725.04, pytest.approx(5.46))]
    plain = [text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">") for text in texts]
    assert plain == ["run & <jump> (88%)", "坐 (50%)"]
    assert ("&amp;" in texts[0]) == (ending == ".vtt")


def test_tables_and_json(timeline: Timeline, tmp_path: Path) -> None:
    write_timeline(timeline, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "path": "a, b.mp4",
        "start": "3725.040",
        "end": "3730.500",
        "label": "坐",
        "probability": "0.5000",
    }
    write_timeline(timeline, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {
        "path": "a, b.mp4",
        "start": 0.0,
        "end": 4000.0,
        "segments": [
            {"label": NAMES[0], "start": 0.0, "end": 60.0, "score": 0.876},
            {"label": "坐", "start": 3725.04, "end": 3730.5, "score": 0.5},
        ],
    }


def test_a_video_without_segments(timeline: Timeline, tmp_path: Path) -> None:
    empty = Timeline(timeline.path, NAMES, timeline.edges, timeline.probs, ())
    for ending, text in {
        ".srt": "",
        ".vtt": "WEBVTT\n",
        ".csv": "path,start,end,label,probability\n",
    }.items():
        write_timeline(empty, tmp_path / f"a{ending}")
        assert (tmp_path / f"a{ending}").read_text() == text
    assert timeline_figure(empty).axes[0].texts[0].get_text() == "no segment"


@pytest.mark.filterwarnings("error")
def test_the_picture_of_a_single_frame() -> None:
    still = Timeline("a.mp4", NAMES, np.zeros(2), np.ones((1, 3)), ())
    assert timeline_figure(still).axes[1].get_xlim() == (0, 1)


def test_the_picture_has_a_bar_per_segment_and_a_line_per_class(timeline: Timeline, tmp_path: Path) -> None:
    bars, lines = timeline_figure(timeline).axes
    assert [label.get_text() for label in bars.get_yticklabels()] == [NAMES[0], "坐"]  # longest first
    spans = [tuple(path.get_extents().intervalx) for each in bars.collections for path in each.get_paths()]
    assert spans == [(each.start, each.end) for each in SEGMENTS]
    values = [patch.get_data().values.tolist() for patch in lines.patches]
    assert values == [(100 * timeline.probs[:, row]).tolist() for row in (0, 1)]
    write_timeline(timeline, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_printed_with_the_time_of_each_class(
    timeline: Timeline, capsys: pytest.CaptureFixture[str]
) -> None:
    print_timeline(timeline)
    shown = capsys.readouterr().out
    assert "1:02:05.040" in shown
    assert "run & <jump> 1:00.000, 坐 0:05.460 of 1:06:40.000" in " ".join(shown.split())


def test_other_endings_are_refused(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.txt: a timeline is written as \.csv, \.json, \.srt, \.vtt or"):
        write_timeline(timeline, tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.000"), (59.9994, "0:59.999"), (7322.5, "2:02:02.500")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
