"""Explanation of a decision, as a value that converts and shows itself.

Legend: T frames of a clip (of all its segments), H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.errors import printable
from t3d.evaluation.result import Prediction
from t3d.explanation.clips import Box
from t3d.explanation.depths import DepthShare
from t3d.io.video_cache import shown_path


def frame_distance(times: npt.NDArray[np.float64]) -> float:
    """Return the usual distance of the frames of a clip in seconds; 0 for a single frame.

    Args:
        times: Times of the frames in any order. Short videos repeat frames.
    """
    unique = np.unique(times)
    return float(np.median(np.diff(unique))) if len(unique) > 1 else 0.0


@dataclass(frozen=True, repr=False)
class ClipExplanation:
    """Explanation of one clip.

    Args:
        number: Number of the clip in the video, from 0.
        start: Time of its first frame, in seconds from the first frame of the file.
        end: Time at which its last frame ends.
        probability: Probability of the class in this clip.
        score: Score of the class before softmax or sigmoid, in float32. For a fused model, the logarithm of
            its probability.
        times: Time of each frame in seconds, float64 [T].
        frames: The pictures that the network sees, uint8 [T, H, W, 3].
        box: Part of the video's picture that they show.
        heat: Where the evidence for the class is, float32 [T, H, W] in [0, 1], 1 at the strongest place of
            the explained clips. None if the network has no map.
        importance: By how much the score falls if frames around this one are missing, float64 [T]. None if it
            was not computed.
        depths: Contributions of the temporal depths; empty without TTL.
    """

    number: int
    start: float
    end: float
    probability: float
    score: float
    times: npt.NDArray[np.float64]
    frames: npt.NDArray[np.uint8]
    box: Box
    heat: npt.NDArray[np.float32] | None = None
    importance: npt.NDArray[np.float64] | None = None
    depths: tuple[DepthShare, ...] = ()

    @property
    def until(self) -> float:
        """Time at which the next clip would start: clips skip frames, also after their last frame."""
        end = max(self.end, float(self.times.max()) + frame_distance(self.times))
        return end if end > self.start else self.start + 1e-3  # the only frame of a file may last no time

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without pixels and heat."""
        values: dict[str, Any] = {
            "number": self.number,
            "start": round(self.start, 6),
            "end": round(self.end, 6),
            "probability": self.probability,
            "score": self.score,
        }
        if self.importance is not None:
            values["times"] = [round(float(each), 6) for each in self.times]
            values["importance"] = [float(each) for each in self.importance]
        return values


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a model gives a class to a video.

    In a notebook, it shows frames with heat, and bars of the temporal depths.

    Args:
        prediction: The prediction, the same as that of `t3d predict`, with its clips.
        label: The class that is explained.
        clips: The explained clips, in their order in time.
        depths: Contributions of the temporal depths, averaged over the explained clips; empty without TTL.
        remarks: Sentences about missing parts, and about the choice of clips.
        listed: Classes of the video in a labeled list; empty without one.
        step_seconds: Seconds of one time step of each layer's map, by `DepthShare.stage`; empty for a fused
            model.
    """

    prediction: Prediction
    label: str
    clips: tuple[ClipExplanation, ...]
    depths: tuple[DepthShare, ...] = ()
    remarks: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    step_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The file, or the URL."""
        return self.prediction.path

    @property
    def name(self) -> str:
        """The file and its time span. A URL has no password and no query."""
        return replace(self.prediction, path=shown_path(self.path)).name

    @property
    def wrong(self) -> bool | None:
        """True if the predicted class is not one of the list; None without a labeled list."""
        return self.prediction.label not in self.listed if self.listed else None

    @property
    def probability(self) -> float:
        """Probability of the explained class for the video, as `t3d predict` gives it."""
        return self.prediction.probs[self.prediction.classes.index(self.label)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without pixels and heat. A URL has no password and no query."""
        return {
            "path": shown_path(self.path),
            "start": self.prediction.start,
            "end": self.prediction.end,
            "label": self.label,
            "probability": self.probability,
            "listed": list(self.listed),
            "wrong": self.wrong,
            "clips": self.prediction.clips,
            "targets": self.prediction.targets,
            "classes": dict(zip(self.prediction.classes, self.prediction.probs, strict=True)),
            "explained_clips": [clip.to_dict() for clip in self.clips],
            "depths": [vars(each) for each in self.depths],
            "step_seconds": {stage: round(seconds, 6) for stage, seconds in self.step_seconds.items()},
            "remarks": list(self.remarks),
        }

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        """Return the file, the class and the contributions of the depths, one per line."""
        listed = f" (list: {', '.join(self.listed)})" if self.listed else ""
        lines = [printable(f"{self.name}: {self.label} {self.probability:.1%}{listed}")]
        lines += [
            f"  {printable(each.stage)}, depth {each.depth}: {each.contribution:+.2f} ({each.share:.0%})"
            for each in self.depths
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the file and the class on one line."""
        return f"Explanation({self.name!r}: {self.label} {self.probability:.1%})"

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: frames with heat, and the contributions of the depths."""
        from t3d.explanation.notebook import explanation_html

        return explanation_html(
            self.name,
            f"{self.label} {self.probability:.1%}",
            clips=self.clips,
            depths=self.depths,
            remarks=self.remarks,
        )
