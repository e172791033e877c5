"""Folder of `t3d explain`: foreign files are kept, names fit, secrets are hidden, answers are compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.report.test_explain_files import folder, run

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import ConfigError, Failed, VideoError
from t3d.evaluation import predictor
from t3d.evaluation.parts import Part, parts_of
from t3d.evaluation.result import ClipPrediction, Prediction
from t3d.explanation.clips import Box
from t3d.explanation.config import ExplainConfig
from t3d.explanation.pictures import with_heat
from t3d.explanation.result import ClipExplanation, Explanation
from t3d.io.video_cache import local_path
from t3d.progress import progress as show
from t3d.report import explain_files
from t3d.report.annotated import annotated_files
from t3d.report.explain_curve import importance_svg
from t3d.report.explain_files import Written, write_explanations
from t3d.report.explain_folder import check_out, listed_files
from t3d.report.explain_page import video_section

__all__ = ["folder"]  # fixture
SIGNED = "https://me:secret@host/clips/a%20b.mp4?signature=hidden"
CARD = ModelCard("t3d_tiny", {}, ("dive", "run"), ClipSpec(num_frames=4, size=8, resize=8))
Out = pytest.CaptureFixture[str]


def clip_of(number: int, start: float) -> ClipExplanation:
    times = start + np.array([0.0, 0.1, 0.2, 0.3])
    return ClipExplanation(
        number,
        start,
        start + 0.4,
        0.91,
        1.0,
        times,
        np.full((4, 8, 8, 3), 100, np.uint8),
        Box(0.0, 0.0, 1.0, 1.0),
        np.ones((4, 8, 8), np.float32),
        np.array([0.1, -0.1, 0.0, 0.2]),
    )


def explained(path: str, *, listed: tuple[str, ...] = (), remarks: tuple[str, ...] = ()) -> Explanation:
    per_clip = tuple(
        ClipPrediction(start, start + 0.4, ("dive", "run"), (0.91, 0.09)) for start in (0.0, 0.4, 0.8)
    )
    prediction = Prediction(path, ("dive", "run"), (0.8, 0.2), clips=3, per_clip=per_clip)
    clips = (clip_of(0, 0.0), clip_of(2, 0.8))
    return Explanation(prediction, "dive", clips, remarks=remarks, listed=listed)


@pytest.fixture
def no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a text as the video with heat; a path with `large` cannot be written, with `gone` not be read."""

    def write(explanation: Explanation, file: Path, **_: object) -> Path:
        if "large" in explanation.path:
            raise ConfigError("libx264 cannot write 20000 × 2 pixels")
        if "gone" in explanation.path:
            raise VideoError(explanation.path, "no such file")
        file.write_text("video")
        return file

    monkeypatch.setattr(explain_files, "write_heat_video", write)
    monkeypatch.setattr("t3d.report.explain_page.weights_file", lambda *_, **__: Path(__file__))


def write(
    out: Path, *results: Explanation | Failed, videos: tuple[str, ...] = (), command: str = ""
) -> Written:
    config = ExplainConfig("net", videos, out=str(out), overwrite=True)
    check_out(config)
    return write_explanations(results, config, CARD, command=command)


def page_of(written: Written) -> str:
    return re.sub(r"\s+", " ", written.page.read_text(encoding="utf-8"))


def test_a_folder_with_other_files_is_refused(folder: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "clip.png").write_text("my picture")
    words = ["explain", folder / "net.safetensors", folder / "a", "--out", out, "--overwrite", "--workers", 0]
    assert run(*words) == 2
    assert "has files that t3d explain did not write (clip.png); choose" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["clip.png"]
    assert (out / "clip.png").read_text() == "my picture"


@pytest.mark.usefixtures("no_video")
def test_only_files_of_the_earlier_explanation_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "why"
    write(out, explained("/v/old.mp4"))
    assert listed_files(out) == {file.name for file in out.iterdir()}
    write(out, explained("/v/new.mp4"))
    names = {"new.png", "new-gradcam.mp4", "explanation.html", "explanation.json"}
    assert {file.name for file in out.iterdir()} == names
    with pytest.raises(ConfigError, match="already exists"):
        check_out(ExplainConfig("net", (), out=str(out)))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"did not write \(notes\.txt\)"):
        write(out, explained("/v/new.mp4"))
    assert {file.name for file in out.iterdir()} == {*names, "notes.txt"}


@pytest.mark.usefixtures("no_video")
def test_an_input_in_the_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "why"
    write(out, explained("/v/old.mp4"))
    config = ExplainConfig("net", (), out=str(out), overwrite=True)
    (tmp_path / "link.mp4").symlink_to(out / "old-gradcam.mp4")
    for name in ("why/old-gradcam.mp4", "link.mp4"):
        with pytest.raises(ConfigError, match=r"old-gradcam\.mp4 in it is read by this command"):
            check_out(config, [Part(str(tmp_path / name))])
    check_out(config, [Part("/v/old.mp4"), Part(SIGNED)])


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"videos": 3}', '{"files": [5], "videos": [[]]}'])
def test_a_record_of_something_else_lists_no_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "explanation.json").write_text(text)
    assert listed_files(tmp_path) == set()


@pytest.mark.usefixtures("no_video")
def test_a_record_cannot_name_files_of_other_folders(tmp_path: Path) -> None:
    out = tmp_path / "why"
    write(out, explained("/v/old.mp4"))
    record = json.loads((out / "explanation.json").read_text())
    (tmp_path / "mine.txt").write_text("mine")
    record["files"] += ["../mine.txt", str(tmp_path / "mine.txt"), ".."]
    (out / "explanation.json").write_text(json.dumps(record))
    write(out, explained("/v/new.mp4"))
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.usefixtures("no_video")
def test_long_names_and_signed_urls(tmp_path: Path) -> None:
    long = "坐" * 80
    written = write(
        tmp_path / "why",
        explained(f"/v/{long}1.mp4"),
        explained(f"/v/{long}2.mp4"),
        explained(SIGNED),
        Failed(local_path(SIGNED), f"{SIGNED}: timed out"),
        videos=(SIGNED,),
        command=f"t3d explain net '{SIGNED}'",
    )
    files = {file.name for file in (tmp_path / "why").iterdir()}
    assert files >= {f"{'坐' * 40}.png", f"{'坐' * 40}-2.png", "a b.png", "a b-gradcam.mp4"}
    page, record = page_of(written), written.record.read_text(encoding="utf-8")
    for text in (page, record, str(explained(SIGNED)), str(written.bad[0])):
        assert "secret" not in text
        assert "hidden" not in text
        assert "https://host/clips/a%20b.mp4?…" in text
    assert '<a href="a%20b.png">a b.png</a>' in page
    assert '<video class="heat" controls preload="metadata" src="a%20b-gradcam.mp4">' in page
    annotated = annotated_files(str(tmp_path), [Part(f"/v/{long}.mp4"), Part(SIGNED)], overwrite=False)
    assert [file.name for file in annotated.values()] == [f"{'坐' * 40}.mp4", "a b.mp4"]


@pytest.mark.usefixtures("no_video")
def test_a_video_that_cannot_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    out = tmp_path / "why"
    paths = ("/v/large.mp4", "/v/gone.mp4", "/v/b.mp4")
    written = write(out, *map(explained, paths))
    assert [failed.path for failed in written.bad] == ["/v/large.mp4", "/v/gone.mp4"]
    assert written.bad[0].reason == (
        "its video with heat cannot be written: libx264 cannot write 20000 × 2 pixels"
    )
    assert sorted(file.name for file in out.iterdir()) == [
        "b-gradcam.mp4",
        "b.png",
        "explanation.html",
        "explanation.json",
    ]
    nothing = write(tmp_path / "none", explained("/v/large.mp4"))
    assert nothing.videos == 0
    assert list((tmp_path / "none").iterdir()) == []


@pytest.mark.usefixtures("no_video")
def test_wrong_answers_are_shown_first(tmp_path: Path) -> None:
    right, wrong = explained("/v/right.mp4", listed=("dive",)), explained("/v/wrong.mp4", listed=("run",))
    assert str(right) == "/v/right.mp4: dive 80.0% (list: dive)"
    assert (right.wrong, wrong.wrong, explained("/v/c.mp4").wrong) == (False, True, None)
    page = page_of(write(tmp_path / "why", right, wrong, explained("/v/c.mp4")))
    assert "1 of 2 answers are wrong" in page
    table = page[page.index("<h2>Answers</h2>") : page.index("</table>")]
    assert re.findall(r'<a href="#(video-\d)">v/(\w+)\.mp4</a>', table) == [
        ("video-2", "wrong"),
        ("video-1", "right"),
    ]
    assert '<td class="wrong">run (wrong)</td>' in table
    assert '<h2 id="video-2">v/wrong.mp4</h2>' in page
    assert ("class in the list", "run (wrong)") in video_section(wrong).figures
    assert "Answers" not in page_of(write(tmp_path / "b", explained("/v/c.mp4")))


def test_labels_of_a_list(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("path,label,start,end\na.mp4,dive,,\nb.mp4,run,0,1\n")
    labels: dict[Part, tuple[str, ...]] = {}
    parts = parts_of([str(tmp_path / "list.csv"), str(tmp_path / "a.mp4")], labels=labels)
    assert [labels.get(part) for part in parts[:2]] == [("dive",), ("run",)]
    assert labels.keys() == set(parts[:2])


@pytest.mark.usefixtures("no_video")
def test_frames_are_shown_per_clip_and_common_remarks_once(tmp_path: Path) -> None:
    both = "t3d_tiny has no map."
    results = [explained("/v/a.mp4", remarks=(both, "Only a.")), explained("/v/b.mp4", remarks=(both,))]
    section = video_section(results[0])
    assert [clip.title for clip in section.clips] == [
        "clip 1 of 3, 0.0–0.4 s, dive 91%",
        "clip 3 of 3, 0.8–1.2 s, dive 91%",
    ]
    assert [len(clip.frames) for clip in section.clips] == [4, 4]
    page = page_of(write(tmp_path / "why", *results))
    assert page.count(both) == 1
    assert page.count("Only a.") == 1


def test_the_curve_hatches_what_is_not_explained() -> None:
    result = explained("/v/a.mp4")
    svg = importance_svg(result)
    assert "not explained" in svg
    assert "0.5" in svg  # the scale, although the values are below 0.2
    whole = replace(result, clips=tuple(clip_of(number, 0.4 * number) for number in range(3)))
    assert "not explained" not in importance_svg(whole)


def test_weak_heat_has_no_color() -> None:
    images = np.full((3, 4, 4, 3), 90, np.uint8)
    heat = np.broadcast_to(np.array([0.33, 0.5, 1.0], np.float32)[:, None, None], (3, 4, 4))
    weak, medium, strong = np.abs(with_heat(images, heat).astype(int) - 90).sum((1, 2, 3))
    assert weak == 0
    assert 0 < medium < strong


def test_a_stage_is_checked_before_a_video_is_read(folder: Path, tmp_path: Path, capsys: Out) -> None:
    words = ["explain", folder / "net.safetensors", folder / "bad.mp4", "--out", tmp_path / "why"]
    assert run(*words, "--stage", "block9", "--workers", 0) == 2
    assert "--stage is 'block9'; " in capsys.readouterr().err


def test_the_title_of_the_progress(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    titles = []

    def record(title: str, *values: object, **options: object) -> object:
        titles.append(title)
        return show(title, *values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor, "progress", record)
    assert (
        run("explain", folder / "net.safetensors", folder / "bad.mp4", "--out", tmp_path, "--workers", 0) == 1
    )
    assert titles == ["Explaining videos"]
