"""Page of explanations: per video the heat, the frames that matter and the temporal depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from t3d.card import ModelCard
from t3d.evaluation.pictures import inline_svg
from t3d.explanation.by_class import ClassDepths
from t3d.explanation.config import ExplainConfig
from t3d.explanation.depths import DepthShare
from t3d.explanation.pictures import picture_uri, spread_over
from t3d.explanation.result import Explanation
from t3d.io.files import content_digest
from t3d.models.weights_file import weights_file
from t3d.report.pages import write_page
from t3d.report.sections import Bar, clip_text, made_of

_FRAMES = 12  # per video
MOST_BYTES = 2_000_000
"""Largest size of all pictures of a page. Later videos have none."""


@dataclass(frozen=True)
class Frame:
    """A frame with heat.

    Args:
        caption: Its time.
        picture: Data URI.
    """

    caption: str
    picture: str


@dataclass(frozen=True)
class VideoSection:
    """One explained video in the page.

    Args:
        name: Folder and name of its file, and its time span.
        figures: Class, probability and clips.
        frames: Frames with heat.
        curve: Importance of the frames over time, as SVG; empty if it was not computed.
        bars: Contributions of the depths.
        remarks: Sentences about missing parts.
        files: Names of the files that belong to it.
    """

    name: str
    figures: Sequence[tuple[str, str]]
    frames: Sequence[Frame]
    curve: str
    bars: Sequence[Bar]
    remarks: Sequence[str]
    files: Sequence[str]

    @property
    def size(self) -> int:
        """Return the size of its pictures."""
        return sum(len(frame.picture) for frame in self.frames)


@dataclass(frozen=True)
class DepthCell:
    """Share of a depth in the decisions for a class.

    Args:
        share: Length of its color, in [0, 1].
        text: The share in percent.
        title: Class, layer and depth.
        negative: Whether the share is below 0.
    """

    share: float
    text: str
    title: str
    negative: bool = False


@dataclass(frozen=True)
class DepthTable:
    """Shares of all depths in the decisions for all classes.

    Args:
        columns: Layers and depths.
        rows: Class, number of videos, and cells.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[DepthCell]]]


def video_section(
    explanation: Explanation, *, files: Sequence[str] = (), pictures: bool = True
) -> VideoSection:
    """Return the section of a video.

    Args:
        explanation: The explanation.
        files: Names of the files that belong to it.
        pictures: Show frames.
    """
    frames = spread_over(explanation.clips, _FRAMES) if pictures else []
    prediction = explanation.prediction
    figures = [("class", explanation.label), ("probability", f"{explanation.probability:.1%}")]
    if explanation.label != prediction.label:
        figures.append(("predicted", f"{prediction.label} {prediction.probability:.1%}"))
    figures.append(("clips explained", f"{len(explanation.clips)} of {prediction.clips}"))
    named = Path(prediction.path)
    return VideoSection(
        prediction.name.replace(prediction.path, "/".join(named.parts[-2:])),
        figures,
        [Frame(f"{time:.1f} s", picture_uri(image)) for time, image in frames],
        importance_svg(explanation),
        depth_bars(explanation.depths),
        explanation.remarks,
        files,
    )


def importance_svg(explanation: Explanation) -> str:
    """Return the importance of the frames over time as SVG; empty if it was not computed."""
    clips = [clip for clip in explanation.clips if clip.importance is not None]
    if not clips:
        return ""

    def draw() -> Figure:
        figure = Figure(figsize=(6.2, 2.0), layout="constrained")
        axes = figure.add_subplot()
        for clip in clips:
            assert clip.importance is not None
            order = np.argsort(clip.times, kind="stable")
            edges = np.append(clip.times[order], max(clip.end, clip.times.max() + 1e-3))
            axes.stairs(clip.importance[order], edges, fill=True, color="C0", alpha=0.55)
        axes.axhline(0, color="gray", linewidth=0.7)
        axes.set(xlabel="time (s)", ylabel="fall of the score", xlim=(clips[0].start, clips[-1].end))
        return figure

    return inline_svg(draw)


def depth_bars(depths: Sequence[DepthShare]) -> list[Bar]:
    """Return the contributions of depths as bars, the longest of which has the length 1."""
    longest = max((abs(each.contribution) for each in depths), default=0.0) or 1.0
    return [
        Bar(
            f"{each.stage}, depth {each.depth}",
            abs(each.contribution) / longest,
            f"{each.contribution:+.2f} ({each.share:.0%} of {each.stage})"
            + (", against the class" if each.contribution < 0 else ""),
            negative=each.contribution < 0,
        )
        for each in depths
    ]


def depth_table(classes: Sequence[ClassDepths]) -> DepthTable | None:
    """Return the table of classes and depths; None if the network has no depths."""
    if not classes:
        return None
    names = [f"{each.stage}, depth {each.depth}" for each in classes[0].depths]
    rows = []
    for each in classes:
        cells = [
            DepthCell(
                min(abs(depth.share), 1.0),
                str(round(100 * depth.share)),
                f"{each.label}: {name}: {depth.share:.0%}",
                depth.share < 0,
            )
            for name, depth in zip(names, each.depths, strict=True)
        ]
        rows.append((each.label, each.videos, cells))
    return DepthTable(names, rows)


def write_explanation_page(
    path: Path,
    config: ExplainConfig,
    card: ModelCard,
    *,
    sections: Sequence[VideoSection],
    classes: Sequence[ClassDepths],
    videos: int,
    bad: Sequence[str],
    command: str = "",
) -> Path:
    """Write the page.

    Args:
        path: The .html file.
        config: What was explained.
        card: Card of the model.
        sections: The videos that are shown.
        classes: Depths of all explained videos, per class.
        videos: Number of explained videos.
        bad: Videos that could not be read.
        command: Command that made the page.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    weights = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    counted = "1 video" if videos == 1 else f"{videos:,} videos"
    return write_page(
        path,
        "explain.html",
        title=f"Why {Path(config.model).name} decides",
        lead=f"{counted}, {card.architecture}, {clip_text(card.clip)}.",
        sections=sections,
        depths=any(section.bars for section in sections),
        table=depth_table(classes) if videos > 1 else None,
        bad=bad,
        made=made_of(
            command,
            {
                "model": f"{config.model} ({card.architecture})",
                "weights": f"{weights.name}, digest {content_digest(weights)}",
                "videos": ", ".join(config.videos[:5]) + (" …" if len(config.videos) > 5 else ""),
                "precision": f"{config.compute.precision} for the class and its probability, fp32 otherwise",
            },
        ),
    )
