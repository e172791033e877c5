"""Exports of Label Studio, in the form that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t3d.cli.main import main
from t3d.data.catalog import open_manifest
from t3d.data.manifest.label_studio_files import stored_path
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError
from t3d.evaluation.parts import Part, parts_of
from t3d.video.encode import write_video

UPLOAD = "/data/upload/3/1a2b3c4d-"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 4 s at 10 frames per second, in two folders."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("run.mp4", "deep/my jump (1).mp4", "deep/walk.mp4", "1a2b3c4d-kept.mp4"):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, np.zeros((40, 3, 16, 16), np.uint8), fps=10)
    return root


def region(start: int | None, end: int | None, *labels: str, question: str = "videoLabels") -> dict[str, Any]:
    return {
        "id": "9Zx",
        "type": "timelinelabels",
        "value": {"ranges": [{"start": start, "end": end}], "timelinelabels": list(labels)},
        "origin": "manual",
        "to_name": "video",
        "from_name": question,
    }


def choice(*labels: str, question: str = "action") -> dict[str, Any]:
    return {
        "id": "q1",
        "type": "choices",
        "value": {"choices": list(labels)},
        "origin": "manual",
        "to_name": "video",
        "from_name": question,
    }


def task(video: str, *result: dict[str, Any], number: int = 1, **data: Any) -> dict[str, Any]:
    annotation = {
        "id": 10 + number,
        "completed_by": 1,
        "result": list(result),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-01-01T10:00:00.000000Z",
        "lead_time": 12.3,
        "task": number,
    }
    return {
        "id": number,
        "annotations": [annotation] if result else [],
        "file_upload": "1a2b3c4d-run.mp4",
        "drafts": [],
        "predictions": [],
        "data": {"video": video, **data},
        "meta": {},
        "project": 3,
    }


def read(tmp_path: Path, videos: Path, *tasks: dict[str, Any]) -> Manifest:
    file = tmp_path / "project-3.json"
    file.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    return open_manifest(str(file), root=str(videos))


def rows(manifest: Manifest) -> list[tuple[str, float | None, float | None, Any]]:
    names = manifest.label_names().to_pylist()
    return [
        (entry.path.name, entry.start, entry.end, name) for entry, name in zip(manifest, names, strict=True)
    ]


def test_ranges_of_frames_are_time_spans(
    tmp_path: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read(
        tmp_path,
        videos,
        task(UPLOAD + "run.mp4", region(1, 10, "run"), region(21, 40, "坐"), choice("good")),
        task(UPLOAD + "my_jump_1.mp4", region(11, None, "run"), number=2),
        task(UPLOAD + "walk.mp4", number=3),
    )
    assert rows(manifest) == [
        ("run.mp4", 0.0, 1.0, "run"),
        ("run.mp4", 2.0, 4.0, "坐"),
        ("my jump (1).mp4", 1.0, None, "run"),
    ]
    assert manifest.classes == ("run", "坐")
    assert len(manifest.sources()) == 2
    (line,) = caplog.messages
    assert "frame rate of each file gives the seconds of 2 videos" in line
    assert "not used: 1 choices" in line
    assert "1 tasks without such labels are left out" in line


def test_the_frame_rate_of_the_export_is_used(tmp_path: Path, videos: Path) -> None:
    """Label Studio counts frames by its own rate, whatever the file has."""
    by_data = task(UPLOAD + "run.mp4", region(25, 48, "a"), fps="24")
    box = {
        "type": "videorectangle",
        "value": {"framesCount": 80, "duration": 4.0, "sequence": []},
        "from_name": "box",
        "to_name": "video",
    }
    by_count = task(UPLOAD + "walk.mp4", box, region(21, 40, "b"), number=2)
    assert rows(read(tmp_path, videos, by_data, by_count)) == [
        ("run.mp4", 1.0, 2.0, "a"),
        ("walk.mp4", 1.0, 2.0, "b"),
    ]
    with pytest.raises(
        ManifestError, match=r"task 1: a label ends at frame 96, which is 9\.60 s at 10 .* `fps`"
    ):
        read(tmp_path, videos, task(UPLOAD + "run.mp4", region(25, 96, "a")))
    with pytest.raises(ManifestError, match="task 1: fps is 'fast'"):
        read(tmp_path, videos, task(UPLOAD + "run.mp4", region(25, 96, "a"), fps="fast"))
    with pytest.raises(ManifestError, match="task 1: fps is 0"):
        read(tmp_path, videos, task(UPLOAD + "run.mp4", region(25, 96, "a"), fps=0))


def test_choices_are_labels_of_whole_videos(tmp_path: Path, videos: Path) -> None:
    first = task(UPLOAD + "run.mp4", choice("run"))
    assert rows(read(tmp_path, videos, first, task("deep/walk.mp4", choice("walk"), number=2))) == [
        ("run.mp4", None, None, "run"),
        ("walk.mp4", None, None, "walk"),
    ]
    several = read(tmp_path, videos, first, task("deep/walk.mp4", choice("run", "walk"), number=2))
    assert several.targets == "multi"
    assert [row[3] for row in rows(several)] == [["run"], ["run", "walk"]]


def test_labels_of_the_same_time_are_joined(tmp_path: Path, videos: Path) -> None:
    manifest = read(
        tmp_path, videos, task("run.mp4", region(1, 10, "a"), region(1, 10, "b"), region(5, 9, "a"))
    )
    assert rows(manifest) == [("run.mp4", 0.0, 1.0, ["a", "b"]), ("run.mp4", 0.4, 0.9, ["a"])]


def test_one_annotation_of_several(tmp_path: Path, videos: Path) -> None:
    labeled = task("run.mp4", region(1, 10, "first"))
    second = task("run.mp4", region(1, 10, "second"))["annotations"][0]
    dropped = {**second, "was_cancelled": True, "result": [region(1, 10, "dropped")]}
    labeled["annotations"] += [second, dropped]
    assert [row[3] for row in rows(read(tmp_path, videos, labeled))] == ["second"]
    labeled["annotations"][0]["ground_truth"] = True
    assert [row[3] for row in rows(read(tmp_path, videos, labeled))] == ["first"]


def small(video: str, number: int = 1, **answers: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-01T10:00:00Z", "updated_at": "2026-01-01T10:00:00Z", "lead_time": 3.2}
    return {"video": video, "id": number, **answers, "annotator": 1, "annotation_id": 5, **times}


def test_json_min(tmp_path: Path, videos: Path) -> None:
    spans = [
        {"ranges": [{"start": 1, "end": 10}], "timelinelabels": ["run"]},
        {"ranges": [{"start": 11, "end": 20}], "timelinelabels": ["walk"]},
    ]
    assert rows(read(tmp_path, videos, small(UPLOAD + "run.mp4", videoLabels=spans))) == [
        ("run.mp4", 0.0, 1.0, "run"),
        ("run.mp4", 1.0, 2.0, "walk"),
    ]
    one, many = small("run.mp4", action="run"), small("deep/walk.mp4", 2, action={"choices": ["run", "walk"]})
    assert [row[3] for row in rows(read(tmp_path, videos, one))] == ["run"]
    assert [row[3] for row in rows(read(tmp_path, videos, one, many))] == [["run"], ["run", "walk"]]
    again = small("run.mp4", action="walk")
    assert [row[3] for row in rows(read(tmp_path, videos, one, again))] == ["walk"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (UPLOAD + "run.mp4", "run.mp4"),
        ("/data/upload/1a2b3c4d-kept.mp4", "1a2b3c4d-kept.mp4"),
        ("/data/local-files/?d=films/deep/my%20jump%20%281%29.mp4", "my jump (1).mp4"),
        ("http://localhost:8080/data/local-files/?d=deep/walk.mp4", "walk.mp4"),
        ("s3://bucket/films/walk.mp4", "walk.mp4"),
        ("https://host/films/walk.mp4?key=a.b", "walk.mp4"),
        ("walk.mp4", "walk.mp4"),
    ],
)
def test_the_file_of_a_stored_name(tmp_path: Path, videos: Path, name: str, file: str) -> None:
    assert [row[0] for row in rows(read(tmp_path, videos, task(name, choice("a"))))] == [file]


def test_an_absolute_name_is_the_file(tmp_path: Path, videos: Path) -> None:
    manifest = read(tmp_path, tmp_path, task(str(videos / "run.mp4"), choice("a")))
    assert manifest[0].path == videos / "run.mp4"
    assert stored_path("/films/run.mp4") == "/films/run.mp4"


def test_videos_that_are_missing_are_refused(tmp_path: Path, videos: Path) -> None:
    tasks = [task(UPLOAD + "run.mp4", choice("a")), task(UPLOAD + "absent.mp4", choice("b"), number=2)]
    with pytest.raises(ManifestError, match=r"1 of 2 videos are not in .*1a2b3c4d-absent\.mp4.*`root`"):
        read(tmp_path, videos, *tasks)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.mp4").touch()
    with pytest.raises(ManifestError, match=r"twice\.mp4' may be x/twice\.mp4 or y/twice\.mp4"):
        read(tmp_path, tmp_path, task(UPLOAD + "twice.mp4", choice("a")))


def test_a_url_stays_one(tmp_path: Path) -> None:
    manifest = read(tmp_path, tmp_path, task("https://host/a.mp4", region(1, 24, "a"), fps=24))
    assert manifest[0].end == 1.0
    with pytest.raises(ManifestError, match=r"frame rate of https://host/a\.mp4 is unknown"):
        read(tmp_path, tmp_path, task("https://host/a.mp4", region(1, 24, "a")))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"a": 1}], "not an export of videos from Label Studio"),
        ([], "not an export of videos from Label Studio"),
        ([task("run.mp4")], "none of 1 tasks has an annotation"),
        (
            [task("text.txt", choice("a"), image="a.png") | {"data": {"image": "a.png"}}],
            "task 1: its data has no",
        ),
        ([task("run.mp4", choice("a"), other="b.mp4")], r"several videos \(run\.mp4, b\.mp4\)"),
        ([task("run.mp4", choice("a"), choice("b", question="mood"))], "2 controls, 'action', 'mood'"),
        ([task("run.mp4", region(9, 3, "a"))], "task 1: "),
        ([task("run.mp4", choice("a|b", "c"))], r"'a\|b' contains"),
    ],
)
def test_other_files_and_unclear_labels_are_refused(
    tmp_path: Path, videos: Path, tasks: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        read(tmp_path, videos, *tasks)


def test_json_that_is_broken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": 1')
    with pytest.raises(ManifestError, match=r"a\.json: cannot be read as JSON"):
        open_manifest(str(tmp_path / "a.json"))


def test_commands_take_an_export(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([task(UPLOAD + "run.mp4", region(1, 10, "run"), region(11, 20, "walk"))]))
    parts = parts_of([str(file)], root=str(videos))
    run = str(videos / "run.mp4")
    assert parts == [Part(run, 0.0, 1.0), Part(run, 1.0, 2.0)]
    assert main(["data", "check", str(file), "--root", str(videos)]) == 0
    assert "2" in capsys.readouterr().out
