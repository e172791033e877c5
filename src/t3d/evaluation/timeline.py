"""Segments of a long video: when which class happens, from the scores of its clips.

Legend: N clips, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.errors import ConfigError, between, did_you_mean, printable
from t3d.evaluation.clock import clock

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_ROUNDING = 1e-9  # seconds: sums of clip lengths are not exact


@dataclass(frozen=True)
class TimelineConfig:
    """Rules that turn the scores of clips into segments, applied in this order.

    Args:
        window: Length in seconds of the window over which the scores of clips are averaged, centered on each
            clip. 0: each clip alone.
        threshold: A segment has at least one clip with this probability of its class.
        low: All its clips have at least this probability. Default: 0.8 of `threshold`.
        background: Classes that mean that nothing happens. They have no segments.
        max_gap: Two segments of a class with at most this time between them, in seconds, are joined, unless
            another class has a segment there.
        min_length: Shorter segments, in seconds, are removed. Segments around them are then joined by
            `max_gap`.

    Raises:
        ConfigError: A value that cannot work.
    """

    window: float = 2.0
    threshold: float = 0.5
    low: float | None = None
    background: tuple[str, ...] = ()
    max_gap: float = 1.0
    min_length: float = 1.0

    def __post_init__(self) -> None:
        between("threshold", self.threshold, 0, 1)
        for name in ("window", "max_gap", "min_length"):
            between(name, getattr(self, name), 0, 1e9)
        if self.low is not None and not 0 <= self.low <= self.threshold:
            raise ConfigError(
                f"low is {self.low}; it must be at least 0 and at most the threshold, {self.threshold}"
            )

    @property
    def least(self) -> float:
        """Probability that all clips of a segment have."""
        return 0.8 * self.threshold if self.low is None else self.low

    def background_rows(self, classes: Sequence[str]) -> list[int]:
        """Return the rows of the background classes.

        Raises:
            ConfigError: The model has no such class.
        """
        for name in self.background:
            if name not in classes:
                raise ConfigError(
                    f"background: the model has no class {name!r}; {did_you_mean(name, classes)}"
                )
        return [classes.index(name) for name in self.background]


@dataclass(frozen=True)
class Segment:
    """Part of a video in which a class happens.

    Args:
        label: The class.
        start: Start in seconds, from the first frame of the file.
        end: End in seconds.
        score: Mean probability of the class over the time of the segment, averaged over `window` as well.
    """

    label: str
    start: float
    end: float
    score: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end - self.start


@dataclass(frozen=True, repr=False)
class Timeline:
    """The scores of a video over time, and the segments in it.

    `print(timeline)` shows the segments. In a notebook, a timeline shows a picture.

    Args:
        path: The file.
        classes: Class names, K.
        edges: Borders between the clips in seconds, float64 [N + 1]: clip i counts from edge i to edge i + 1.
        probs: Probabilities, averaged over `window`, float64 [N, K].
        segments: The segments, by their start.
        targets: `single`: no two segments overlap. `multi`: those of different classes may.
    """

    path: str
    classes: tuple[str, ...]
    edges: Floats
    probs: Floats
    segments: tuple[Segment, ...]
    targets: Targets = "single"

    @property
    def start(self) -> float:
        """Start of the first clip in seconds."""
        return float(self.edges[0])

    @property
    def end(self) -> float:
        """End of the last clip in seconds."""
        return float(self.edges[-1])

    def to_dict(self) -> dict[str, Any]:
        """Return the segments as plain values, with times to the millisecond."""
        return {
            "path": self.path,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "segments": [
                {
                    **asdict(each),
                    "start": round(each.start, 3),
                    "end": round(each.end, 3),
                    "score": round(each.score, 4),
                }
                for each in self.segments
            ],
        }

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        """Return the file and its segments, one per line."""
        lines = [
            f"  {clock(each.start)} to {clock(each.end)}  {printable(each.label)} {each.score:.0%}"
            for each in self.segments
        ]
        return "\n".join([printable(self.path), *(lines or ["  no segment"])])

    def __repr__(self) -> str:
        """Return the file, its length and the number of its segments."""
        length = clock(self.end - self.start)
        return f"Timeline({self.path!r}: {length}, {len(self.segments)} segments)"

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the picture that `t3d timeline` draws."""
        from t3d.evaluation.notebook import titled
        from t3d.evaluation.pictures import inline_svg, timeline_figure

        return titled(self.path, inline_svg(lambda: timeline_figure(self)))


class _Run(NamedTuple):
    """A segment in the making: class, first clip, and the clip after the last."""

    row: int
    first: int
    behind: int


def make_timeline(
    path: str,
    times: Floats,
    probs: Floats,
    classes: Sequence[str],
    config: TimelineConfig | None = None,
    *,
    targets: Targets = "single",
) -> Timeline:
    """Find the segments of a video.

    Args:
        path: The file.
        times: Start and end of each clip in seconds, float64 [N, 2], by start. Clips may overlap, or leave
            gaps; borders are in the middle.
        probs: Probabilities of each clip, float64 [N, K].
        classes: Class names, K.
        config: The rules.
        targets: `single`: of several classes that could happen in a clip, the most probable one does.
            `multi`: all do.

    Raises:
        ConfigError: The model does not have a class of `background`.

    Example:
        >>> times = np.array([[0, 1], [1, 2], [2, 3], [3, 4]], dtype=float)
        >>> probs = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
        >>> found = make_timeline("a.mp4", times, probs, ["jump", "rest"], TimelineConfig(window=0))
        >>> [(each.label, each.start, each.end) for each in found.segments]
        [('rest', 0.0, 1.0), ('jump', 1.0, 3.0), ('rest', 3.0, 4.0)]
    """
    config = config or TimelineConfig()
    background = config.background_rows(classes)
    edges = borders(times)
    smooth = _smoothed(times.mean(1), probs, config.window)
    happens = _happens(smooth, config, single=targets == "single")
    happens[:, background] = False
    runs = sorted(_runs(happens), key=lambda run: (run.first, run.row))
    runs = _joined(runs, edges, config.max_gap, alone=targets == "single")
    runs = [run for run in runs if edges[run.behind] - edges[run.first] >= config.min_length - _ROUNDING]
    runs = _joined(runs, edges, config.max_gap, alone=targets == "single")
    lengths = np.diff(edges)
    segments = tuple(
        Segment(
            classes[row],
            float(edges[first]),
            float(edges[behind]),
            _mean(smooth[first:behind, row], lengths[first:behind]),
        )
        for row, first, behind in runs
    )
    return Timeline(path, tuple(classes), edges, smooth, segments, targets)


def borders(times: Floats) -> Floats:
    """Return the borders between clips [N, 2]: the middle of their overlap, or of the gap: [N + 1]."""
    middle = (times[:-1, 1] + times[1:, 0]) / 2
    return np.concatenate([times[:1, 0], middle, times[-1:, 1]])


def _smoothed(centers: Floats, probs: Floats, window: float) -> Floats:
    """Average the probabilities [N, K] of the clips whose centers are in a window around each center [N]."""
    if window == 0:
        return probs
    first = np.searchsorted(centers, centers - window / 2 - _ROUNDING)
    behind = np.searchsorted(centers, centers + window / 2 + _ROUNDING)
    sums = np.concatenate([np.zeros((1, probs.shape[1])), probs.cumsum(0)])
    means: Floats = (sums[behind] - sums[first]) / (behind - first)[:, None]
    return means


def _happens(probs: Floats, config: TimelineConfig, *, single: bool) -> Flags:
    """Return which classes happen in which clip, bool [N, K]."""
    likely = probs >= config.least
    happens = np.zeros_like(likely)
    for row in range(probs.shape[1]):
        for first, behind in _stretches(likely[:, row]):
            happens[first:behind, row] = bool((probs[first:behind, row] >= config.threshold).any())
    if single:
        top = np.where(happens, probs, -1.0).argmax(1)
        happens &= np.arange(probs.shape[1]) == top[:, None]
    return happens


def _stretches(flags: Flags) -> Iterator[tuple[int, int]]:
    """Yield the first index of each run of True, and the index after its last."""
    steps = np.diff(flags.astype(np.int8), prepend=0, append=0)
    yield from zip(np.nonzero(steps == 1)[0].tolist(), np.nonzero(steps == -1)[0].tolist(), strict=True)


def _runs(happens: Flags) -> Iterator[_Run]:
    for row in range(happens.shape[1]):
        for first, behind in _stretches(happens[:, row]):
            yield _Run(row, first, behind)


def _joined(runs: list[_Run], edges: Floats, max_gap: float, *, alone: bool) -> list[_Run]:
    """Join runs of a class with a gap of at most `max_gap`; if `alone`, only with no other run in the gap."""
    kept: list[_Run] = []
    latest: dict[int, int] = {}  # place in `kept`, by class
    for run in runs:
        place = latest.get(run.row)
        if place is not None and alone and place != len(kept) - 1:
            place = None
        if place is not None and edges[run.first] - edges[kept[place].behind] <= max_gap + _ROUNDING:
            kept[place] = kept[place]._replace(behind=run.behind)
        else:
            latest[run.row] = len(kept)
            kept.append(run)
    return kept


def _mean(probs: Floats, lengths: Floats) -> float:
    """Return the mean probability over time; clips of no length count alike."""
    return float(np.average(probs, weights=lengths if lengths.sum() > 0 else None))
