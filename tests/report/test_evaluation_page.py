"""The page of a test, which people forward."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import Failed
from t3d.evaluation.calibration import calibration_of
from t3d.evaluation.config import TestConfig
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.report import sections
from t3d.report.evaluation_page import write_evaluation
from t3d.report.pictures import Camera, wrong_answers
from t3d.video.encode import write_video
from t3d.video.limits import DEFAULT_LIMITS

CAMERA = Camera(DEFAULT_LIMITS)
CLASSES = ("<b>bold</b>", "a & b", "$x_{$ $")


class Words(HTMLParser):
    """Text and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.titles: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.titles += [values["title"] or ""] if tag == "td" and "title" in values else []
        self.sources += [values[name] or "" for name in ("src", "href", "data", "action") if name in values]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and films that each have one color: 20, 60, 100 … of 255."""
    root = tmp_path_factory.mktemp("site")
    (root / "set").mkdir()
    for number in range(6):
        frames = torch.full((12, 3, 48, 64), 20 + 40 * number, dtype=torch.uint8)
        write_video(root / "set" / f"<i>{number}.mp4", frames)
    model = create_model("resnet3d18", num_classes=3, options={"width": 0.0625})
    card = ModelCard(
        "resnet3d18",
        {"width": 0.0625},
        classes=CLASSES,
        clip=ClipSpec(num_frames=4, size=32, resize=32),
        provenance={"trained_on": "<script>alert(1)</script>", "figures": {"top1": 0.123456}},
    )
    save_model(model, root / "net.safetensors", card=card)
    return root


def outcome(site: Path) -> TestResult:
    """Six videos: 0 and 3 right; 1, 2 and 4 wrong with rising confidence; 5 cannot be read."""
    probs = np.array(
        [
            [0.8, 0.1, 0.1],
            [0.6, 0.3, 0.1],
            [0.7, 0.2, 0.1],
            [0.1, 0.8, 0.1],
            [0.05, 0.9, 0.05],
            [np.nan] * 3,
        ]
    )
    paths = tuple(str(site / "set" / f"<i>{number}.mp4") for number in range(6))
    scores = Scores(
        classes=CLASSES,
        clip_probs=probs[:5],
        clip_video=np.arange(5),
        video_probs=probs,
        labels=np.array([0, 1, 2, 1, 0, 0]),
        paths=paths,
        bad=(Failed(paths[5], "is empty", 5),),
    )
    return TestResult(measure(scores), scores)


def config(site: Path) -> TestConfig:
    return TestConfig(str(site / "net.safetensors"), str(site / "set"))


def page(site: Path, result: TestResult) -> str:
    path = write_evaluation(result, site / "out" / "report.html", config(site), command="t3d test <x>")
    return path.read_text(encoding="utf-8")


def test_it_stands_alone_and_says_what_was_measured(site: Path) -> None:
    text = page(site, outcome(site))
    words = Words(text)
    assert all(source.startswith("data:image/webp;base64,") for source in words.sources)
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", outside)
    assert not re.search(r"https?://|@import|<script|<link|<iframe", outside)
    for expected in (
        "2 of 5 videos correct: 40.0%",
        "t3d test <x>",
        "<script>alert(1)</script>",
        "top1 0.1235",
        "resnet3d18",
        "4 frames of 32 × 32 pixels, stride 2",
        "is empty",
        "Recall of each class, the lowest first.",
        *CLASSES,
    ):
        assert expected in words.text, expected


def test_the_matrix_names_each_cell(site: Path) -> None:
    titles = Words(page(site, outcome(site))).titles
    assert len(titles) == 9
    assert "<b>bold</b> → a & b: 1 of 2" in titles
    assert "$x_{$ $ → <b>bold</b>: 1 of 1" in titles


def test_many_classes_have_their_most_frequent_confusions_instead(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "MOST_CELLS", 2)
    words = Words(page(site, outcome(site)))
    assert not words.titles
    assert "Most frequent confusions" in words.text


def test_the_most_confident_wrong_answers_come_first_with_their_frames(site: Path) -> None:
    answers = wrong_answers(outcome(site).scores, CAMERA)
    assert [(each.label, each.answer, each.probability) for each in answers] == [
        (CLASSES[0], CLASSES[1], 0.9),
        (CLASSES[2], CLASSES[0], 0.7),
        (CLASSES[1], CLASSES[0], 0.6),
    ]
    assert answers[0].name == "set/<i>4.mp4"
    with Image.open(io.BytesIO(base64.b64decode(answers[0].picture.partition(",")[2]))) as picture:
        assert picture.n_frames > 1 or picture.format == "WEBP"  # equal frames may be merged
        assert abs(np.asarray(picture.convert("RGB")).mean() - 180) < 6


def test_a_group_has_one_wrong_answer_and_a_lost_video_no_picture(site: Path) -> None:
    result = outcome(site)
    paths = ("gone.mp4", *result.scores.paths[1:4], "gone.mp4", result.scores.paths[5])
    scores = replace(result.scores, paths=paths, groups=("a", "b", "b", "b", "a", "a"))
    answers = wrong_answers(scores, CAMERA)
    assert [(each.name, bool(each.picture)) for each in answers] == [
        ("gone.mp4", False),
        ("set/<i>2.mp4", True),
    ]


def test_several_labels(site: Path) -> None:
    result = outcome(site)
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0], [-1, -1, -1]], np.int8)
    scores = replace(result.scores, labels=labels, targets="multi")
    words = Words(page(site, TestResult(measure(scores), scores)))
    assert "Average precision of each class" in words.text
    assert "Are the probabilities right?" not in words.text


def test_calibration_is_what_counting_gives() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), 300)
    labels = rng.integers(-1, 4, 300)
    probs[7] = np.nan
    scores = Scores(("a", "b", "c", "d"), np.zeros((0, 4)), np.zeros(0, int), probs, labels, ("x",) * 300, ())
    measured = calibration_of(scores)
    used = [row for row in range(300) if labels[row] >= 0 and row != 7]
    error = 0.0
    for number, each in enumerate(measured.bins):
        inside = [row for row in used if number / 10 < probs[row].max() <= (number + 1) / 10]
        assert each.videos == len(inside)
        if inside:
            confidence = sum(probs[row].max() for row in inside) / len(inside)
            accuracy = sum(probs[row].argmax() == labels[row] for row in inside) / len(inside)
            assert (each.confidence, each.accuracy) == pytest.approx((confidence, accuracy))
            error += len(inside) / len(used) * abs(confidence - accuracy)
    assert measured.error == pytest.approx(error)
    assert f"{100 * error:.1f} points" in measured.sentence()
