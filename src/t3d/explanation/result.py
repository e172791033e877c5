"""Explanation of a decision, as a value that converts and shows itself.

Legend: T frames of a clip (of all its segments), H height, W width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.errors import printable
from t3d.evaluation.result import Prediction
from t3d.explanation.clips import Box
from t3d.explanation.depths import DepthShare


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
    """

    prediction: Prediction
    label: str
    clips: tuple[ClipExplanation, ...]
    depths: tuple[DepthShare, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file."""
        return self.prediction.path

    @property
    def probability(self) -> float:
        """Probability of the explained class for the video, as `t3d predict` gives it."""
        return self.prediction.probs[self.prediction.classes.index(self.label)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without pixels and heat."""
        return {
            "path": self.path,
            "start": self.prediction.start,
            "end": self.prediction.end,
            "label": self.label,
            "probability": self.probability,
            "clips": self.prediction.clips,
            "targets": self.prediction.targets,
            "classes": dict(zip(self.prediction.classes, self.prediction.probs, strict=True)),
            "explained_clips": [clip.to_dict() for clip in self.clips],
            "depths": [vars(each) for each in self.depths],
            "remarks": list(self.remarks),
        }

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        """Return the file, the class and the contributions of the depths, one per line."""
        lines = [f"{printable(self.prediction.name)}: {printable(self.label)} {self.probability:.1%}"]
        lines += [
            f"  {printable(each.stage)}, depth {each.depth}: {each.contribution:+.2f} ({each.share:.0%})"
            for each in self.depths
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the file and the class on one line."""
        return f"Explanation({self.prediction.name!r}: {self.label} {self.probability:.1%})"

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: frames with heat, and the contributions of the depths."""
        from t3d.explanation.notebook import explanation_html

        return explanation_html(
            self.prediction.name,
            f"{self.label} {self.probability:.1%}",
            clips=self.clips,
            depths=self.depths,
            remarks=self.remarks,
        )
