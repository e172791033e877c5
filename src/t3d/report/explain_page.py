"""Page of explanations: per video the heat, the frames that matter and the temporal depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from t3d.card import ModelCard
from t3d.errors import printable
from t3d.explanation.by_class import ClassDepths
from t3d.explanation.config import ExplainConfig
from t3d.explanation.depths import DepthShare
from t3d.explanation.pictures import heat_legend, picture_uri, pictures_of
from t3d.explanation.result import ClipExplanation, Explanation
from t3d.io.files import content_digest, is_url
from t3d.io.video_cache import shown_path
from t3d.models.weights_file import weights_file
from t3d.report.explain_curve import importance_svg
from t3d.report.pages import write_page
from t3d.report.sections import Bar, clip_text, made_of

_FRAMES = 6  # per clip
_ROWS = 500  # of the table of videos
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
class ClipRow:
    """Frames of one clip.

    Args:
        title: Number of the clip, its time and the probability of the class.
        frames: Frames with heat.
    """

    title: str
    frames: Sequence[Frame]


@dataclass(frozen=True)
class VideoSection:
    """One explained video in the page.

    Args:
        name: Folder and name of its file, and its time span.
        anchor: Name for links within the page.
        figures: Class, probability and clips.
        clips: Its clips with frames.
        curve: Importance of the frames over time, as SVG; empty if it was not computed.
        bars: Contributions of the depths.
        remarks: Sentences about missing parts.
        sheet: Name and URL of the contact sheet; None without one.
        video: Name and URL of the video with heat; None without one.
    """

    name: str
    anchor: str
    figures: Sequence[tuple[str, str]]
    clips: Sequence[ClipRow]
    curve: str
    bars: Sequence[Bar]
    remarks: Sequence[str]
    sheet: tuple[str, str] | None
    video: tuple[str, str] | None

    @property
    def size(self) -> int:
        """Return the size of its pictures."""
        return sum(len(frame.picture) for clip in self.clips for frame in clip.frames)


@dataclass(frozen=True)
class VideoRow:
    """One explained video in the table of videos with a class in the list.

    Args:
        name: Folder and name of its file, and its time span.
        anchor: Name of its section; empty without one.
        answer: Predicted class.
        probability: Its probability.
        listed: Classes in the list.
        wrong: Whether the answer is not one of them.
    """

    name: str
    anchor: str
    answer: str
    probability: float
    listed: str
    wrong: bool

    @classmethod
    def of(cls, explanation: Explanation, anchor: str) -> VideoRow:
        """Return the row of a video."""
        prediction = explanation.prediction
        return cls(
            _short_name(explanation),
            anchor,
            prediction.label,
            prediction.probability,
            ", ".join(explanation.listed),
            bool(explanation.wrong),
        )


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
    explanation: Explanation, *, files: Sequence[str] = (), pictures: bool = True, anchor: str = ""
) -> VideoSection:
    """Return the section of a video.

    Args:
        explanation: The explanation.
        files: Names of the contact sheet and of the video with heat, or nothing.
        pictures: Show frames.
        anchor: Name for links within the page.
    """
    prediction = explanation.prediction
    figures = [("class", explanation.label), ("probability", f"{explanation.probability:.1%}")]
    if explanation.label != prediction.label:
        figures.append(("predicted", f"{prediction.label} {prediction.probability:.1%}"))
    if explanation.listed:
        wrong = " (wrong)" if explanation.wrong else ""
        figures.append(("class in the list", ", ".join(explanation.listed) + wrong))
    figures.append(("clips explained", f"{len(explanation.clips)} of {prediction.clips}"))
    links = [(name, quote(name, safe="")) for name in files]
    sheet, video = links if links else (None, None)
    return VideoSection(
        _short_name(explanation),
        anchor,
        figures,
        [_clip_row(explanation, clip) for clip in explanation.clips] if pictures else [],
        importance_svg(explanation),
        depth_bars(explanation.depths, explanation.step_seconds),
        explanation.remarks,
        sheet,
        video,
    )


def _clip_row(explanation: Explanation, clip: ClipExplanation) -> ClipRow:
    count = explanation.prediction.clips
    title = f"clip {clip.number + 1} of {count}, {clip.start:.1f}–{clip.end:.1f} s, "
    title += f"{explanation.label} {clip.probability:.0%}"
    pictures = pictures_of(clip, _FRAMES)
    return ClipRow(title, [Frame(f"{time:.1f} s", picture_uri(image)) for time, image in pictures])


def _short_name(explanation: Explanation) -> str:
    """Return the last folder and the name of a file, or a URL, and the time span."""
    path = shown_path(explanation.path)
    short = path if is_url(path) else "/".join(Path(path).parts[-2:])
    return printable(replace(explanation.prediction, path=short).name)


def depth_bars(depths: Sequence[DepthShare], step_seconds: Mapping[str, float] | None = None) -> list[Bar]:
    """Return the contributions of depths as bars, the longest of which has the length 1.

    Args:
        depths: The contributions.
        step_seconds: Seconds of a time step of each layer, see `Explanation`.
    """
    step_seconds = step_seconds or {}
    longest = max((abs(each.contribution) for each in depths), default=0.0) or 1.0
    return [
        Bar(
            f"{each.stage}, depth {each.depth}",
            abs(each.contribution) / longest,
            f"{each.contribution:+.2f} ({each.share:.0%} of {each.stage})"
            + (", against the class" if each.contribution < 0 else "")
            + (_duration(each.depth, step_seconds[each.stage]) if each.stage in step_seconds else ""),
            negative=each.contribution < 0,
        )
        for each in depths
    ]


def _duration(depth: int, seconds: float) -> str:
    """Return how long a depth lasts.

    Example:
        >>> _duration(6, 0.16), _duration(1, 0.08)
        ('; 6 steps of 0.16 s, about 1 s', '; 1 step of 0.08 s')
    """
    if depth == 1:
        return f"; 1 step of {seconds:.2g} s"
    return f"; {depth} steps of {seconds:.2g} s, about {round(depth * seconds, 1):g} s"


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


def common_remarks(sections: Sequence[VideoSection]) -> list[str]:
    """Return the sentences that all of several sections have, such as that about a missing TTL."""
    if len(sections) < 2:
        return []
    first, *others = sections
    return [remark for remark in first.remarks if all(remark in each.remarks for each in others)]


def write_explanation_page(
    path: Path,
    config: ExplainConfig,
    card: ModelCard,
    *,
    sections: Sequence[VideoSection],
    rows: Sequence[VideoRow],
    classes: Sequence[ClassDepths],
    bad: Sequence[str],
    command: str = "",
) -> Path:
    """Write the page.

    Args:
        path: The .html file.
        config: What was explained.
        card: Card of the model.
        sections: The videos that are shown.
        rows: All explained videos.
        classes: Depths of all explained videos, per class.
        bad: Videos that could not be read.
        command: Command that made the page.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    weights = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    counted = "1 video" if len(rows) == 1 else f"{len(rows):,} videos"
    listed = sorted((row for row in rows if row.listed), key=lambda row: not row.wrong)
    return write_page(
        path,
        "explain.html",
        title=f"Why {Path(config.model).name} decides",
        lead=f"{counted}, {card.architecture}, {clip_text(card.clip)}.",
        rows=listed[:_ROWS],
        listed=len(listed),
        wrong=sum(row.wrong for row in listed),
        sections=sections,
        common=common_remarks(sections),
        legend=heat_legend(),
        depths=any(section.bars for section in sections),
        table=depth_table(classes) if len(rows) > 1 else None,
        bad=bad,
        made=made_of(
            command,
            {
                "model": f"{config.model} ({card.architecture})",
                "weights": f"{weights.name}, digest {content_digest(weights)}",
                "videos": ", ".join(map(shown_path, config.videos[:5]))
                + (" …" if len(config.videos) > 5 else ""),
                "precision": f"{config.compute.precision} for the class and its probability, fp32 otherwise",
            },
        ),
    )
