from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t3d.clip import ClipSpec
from t3d.data.config import DataConfig
from t3d.data.inspect.shared import Compared, SharedRow, SharedRows
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed
from t3d.evaluation.frame_orders import compare_orders
from t3d.evaluation.leaks import overlaps
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.report.page import Rival, write_report
from t3d.report.pictures import Camera, first_of_each_class
from t3d.report.plots import confusion_figure, loss_figure, save_figure, scatter_figure, validation_figure
from t3d.report.result import print_result, write_result
from t3d.training.config import ModelConfig, TrainConfig
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder
from t3d.video.encode import write_video
from t3d.video.limits import DEFAULT_LIMITS

CLASSES = ("<b>bold</b>", "a & b", "$x_{$ $", "[red]")
SPEC = ClipSpec(num_frames=8, stride=1, size=64, resize=64)


class Page(HTMLParser):
    """Contents of a page: its tags, embedded images, text, and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" and tag == "img":
                self.pictures.append(value or "")
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """A film of each class, the name of the first one as odd as names get."""
    names = ('<i>1</i> & "2".mp4', "2.mp4", "3.mp4", "4.mp4")
    (tmp_path / "films").mkdir()
    paths = []
    for name in names:
        if "/" in name:
            name = name.replace("/", "∕")  # a slash that a file name may hold
        frames = torch.randint(0, 256, (12, 3, 64, 80), dtype=torch.uint8)
        paths.append(write_video(tmp_path / "films" / name, frames))
    return paths


@pytest.fixture
def outcome(films: list[Path]) -> TestResult:
    """Five videos: three right, one wrong, one that cannot be read."""
    probs = np.full((5, 4), 0.1)
    for row, prediction in enumerate((0, 1, 2, 0, 0)):
        probs[row, prediction] = 0.7
    probs[4] = np.nan
    scores = Scores(
        classes=CLASSES,
        clip_probs=probs[:4],
        clip_video=np.arange(4),
        video_probs=probs,
        labels=np.array([0, 1, 2, 3, 3]),
        paths=(*(str(path) for path in films), "kaputt.mp4"),
        bad=(Failed("kaputt.mp4", "is empty", 4),),
    )
    return TestResult(measure(scores), scores)


@pytest.fixture
def run(tmp_path: Path, films: list[Path]) -> RunFolder:
    """A run folder with a log of two epochs."""
    run = RunFolder(tmp_path / "run")
    config = TrainConfig(
        out=str(tmp_path / "run"),
        data=DataConfig(train="<script>alert(1)</script>"),
        clip=SPEC,
        model=ModelConfig(name="densenet3d_tiny"),
    )
    run.start(config, Manifest.from_files(films).with_classes(CLASSES), None, [])
    lines = [
        {"kind": "train", "step": 5, "loss": 1.4, "lr": 0.1},
        {"kind": "val", "step": 5, "loss": 1.3, "top1": 0.3, "top5": 1.0},
        {"kind": "train", "step": 10, "loss": 0.9, "lr": 0.1},
        {"kind": "val", "step": 10, "loss": 1.0, "top1": 0.6, "top5": 1.0},
    ]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def written(tmp_path: Path, run: RunFolder, outcome: TestResult) -> str:
    path = write_report(
        tmp_path / "deep" / "report.html",
        run,
        outcome,
        title="A <title> & more",
        lead="A lead.",
        minutes=1.25,
        orders=compare_orders(outcome, {"static": outcome}),
        rivals=[Rival("this run", outcome, read_log(run.log)), Rival("another", outcome, note="<random>")],
    )
    assert path == tmp_path / "deep" / "report.html"
    assert list(path.parent.iterdir()) == [path]
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone(tmp_path: Path, run: RunFolder, outcome: TestResult) -> None:
    text = written(tmp_path, run, outcome)
    page = Page(text)
    assert len(page.pictures) == 5  # a film of each class, and of the wrong answer
    assert [each for each in page.addresses if not each.startswith("#")] == page.pictures
    assert all(re.fullmatch(r"data:image/webp;base64,[A-Za-z0-9+/]+=*", source) for source in page.pictures)
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"|url\(#\w+\)', "", outside)
    assert not re.search(r"https?://|//\w|@import|url\(|<script|<link|<iframe", outside)
    assert "utf-8" in text[:200]


def test_the_page_shows_the_results(tmp_path: Path, run: RunFolder, outcome: TestResult) -> None:
    words = Page(written(tmp_path, run, outcome)).words
    assert (
        "3 of 4 videos correct: 75.0% (95% interval 30–95%). Always answering '<b>bold</b>' would give 25.0%"
        in words
    )
    assert "Classes differ: recall 0% for '[red]', 100% for '<b>bold</b>'." in words
    assert "top-5" not in words
    for expected in (
        "75.0%",
        "25.0%",
        "30–95%",
        "3 of 4",
        "1.2",
        "normal",
        "static",
        "kaputt.mp4: is empty",
        "another: <random>",
        "one frame repeated (static) the accuracy stays at 75%",
    ):
        assert expected in words
    assert "densenet3d_tiny" in words
    assert "validation top-1" in words  # the text of a drawing is text
    assert "num_frames: 8" in words


def test_the_page_names_shared_videos(tmp_path: Path, run: RunFolder, outcome: TestResult) -> None:
    seen = SharedRows((SharedRow(0, "file", "1.mp4", "1.mp4"),), Compared(5, hashed=5), Compared(5, hashed=5))
    shared = replace(outcome, overlaps=overlaps(outcome.scores, {"training": seen}))
    words = Page(written(tmp_path, run, shared)).words
    assert "1 of 5 test videos is also in the training list" in words
    assert "Without them: 66.7% (2 of 3 videos, 95% interval " in words


def test_html_in_names_is_escaped(tmp_path: Path, run: RunFolder, outcome: TestResult) -> None:
    page = Page(written(tmp_path, run, outcome))
    for name in (
        *CLASSES,
        "A <title> & more",
        "<script>alert(1)</script>",
        Path(outcome.scores.paths[0]).name,
    ):
        assert name in page.words
    assert page.tags.count("i") == 4 + 2 + 2  # bars
    assert "script" not in page.tags
    assert page.tags.count("b") == 6 + 4 + 2 + 2  # the figures' own, and those of bars


def test_one_film_of_each_class_that_could_be_read(outcome: TestResult) -> None:
    films = first_of_each_class(outcome.scores, Camera(DEFAULT_LIMITS))
    assert [film.label for film in films] == list(CLASSES)
    assert [film.answer for film in films] == [CLASSES[0], CLASSES[1], CLASSES[2], CLASSES[0]]
    assert [film.name for film in films] == ["/".join(Path(p).parts[-2:]) for p in outcome.scores.paths[:4]]
    assert {round(film.probability, 6) for film in films} == {0.7}
    assert all(film.picture for film in films)


def test_results_are_written_and_read_back(tmp_path: Path, outcome: TestResult) -> None:
    write_result(outcome, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["confusion.png", "metrics.json", "scores.csv"]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["video_top1"] == 0.75
    assert metrics["per_class"] == {CLASSES[0]: 1, CLASSES[1]: 1, CLASSES[2]: 1, CLASSES[3]: 0}
    assert metrics["confusion"][3] == [1, 0, 0, 0]
    with Image.open(tmp_path / "out/confusion.png") as picture:
        assert min(picture.size) > 200


def test_results_are_printed_with_names_as_they_are(
    outcome: TestResult, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(outcome)
    printed = capsys.readouterr()
    for name in CLASSES:
        assert name in printed.out
    assert "75.00%" in printed.out
    assert "kaputt.mp4: is empty" in printed.err


def test_the_table_names_the_frame_order(outcome: TestResult, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(outcome)
    assert "frame order" not in capsys.readouterr().out
    assert "frame_order" not in outcome.to_json()
    shuffled = replace(outcome, frame_order="shuffled")
    print_result(shuffled)
    assert "frame order: shuffled" in " ".join(capsys.readouterr().out.split())
    assert shuffled.to_json()["frame_order"] == "shuffled"


def test_names_cannot_break_lines_or_color_a_terminal(
    outcome: TestResult, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = outcome.scores
    classes = ("a\nb", "c\x1b[31md", *scores.classes[2:])
    scores = replace(scores, classes=classes, bad=(Failed("\x1b[2J.mp4", "is\nempty", 4),))
    print_result(TestResult(measure(scores), scores))
    printed = capsys.readouterr()
    assert "a\\nb" in printed.out
    assert "c\\x1b[31md" in printed.out
    assert "\x1b" not in printed.out + printed.err
    assert printed.err == "could not be read: \\x1b[2J.mp4: is\\nempty\n"


def test_pictures_are_drawn_from_little(tmp_path: Path) -> None:
    save_figure(confusion_figure([[0, 0], [0, 0]], ["a", "b"]), tmp_path / "a.png")
    save_figure(
        confusion_figure(np.eye(60, dtype=int).tolist(), [str(i) for i in range(60)]), tmp_path / "b.png"
    )
    save_figure(loss_figure([]), tmp_path / "c.png")
    line = {"kind": "val", "step": 1, "loss": 2.0, "top1": 0.5, "low": 0.4, "high": 0.6}
    save_figure(validation_figure({"": [line]}, chance=0.1), tmp_path / "d.png")
    save_figure(scatter_figure([("$a_{$", 3.0, 0.5, (0.4, 0.6)), ("b", 90, 1, (0.9, 1))]), tmp_path / "e.png")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in "abcde"]
    assert sizes[1] > sizes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.png" for name in "abcde"]
