"""Result of a fit, in figures and sentences."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t3d.errors import printable
from t3d.evaluation.frame_orders import FrameOrders
from t3d.evaluation.run_test import TestResult
from t3d.export.run import ExportResult
from t3d.fit.candidates import FUSED
from t3d.fit.config import FitConfig
from t3d.fit.look import Looked
from t3d.fit.plan import Plan
from t3d.fusion.result import FusionResult, Line
from t3d.progress import in_words

_FEW = 30  # test videos


@dataclass(frozen=True)
class FitResult:
    """Result of a fit.

    Args:
        config: Its options.
        looked: What is known about the videos.
        plan: What was done.
        counts: Videos and recordings of each list.
        choice: Figures of the candidates on the validation videos. None if there was one candidate.
        winner: Name of the chosen candidate.
        model: Run folder of the model.
        test: The test of the model.
        orders: Its accuracy with other orders of the frames of each clip. None with several labels per video.
        export: The export. None if there is none.
        not_exported: Why there is no export; empty if there is one.
        milliseconds: Median time of one video with the fastest way to compute it, reading included.
        minutes: Minutes that the fit took.
        estimates: Seconds passed and estimated total, every few seconds.
    """

    config: FitConfig
    looked: Looked
    plan: Plan
    counts: dict[str, tuple[int, int]]
    choice: FusionResult | None
    winner: str
    model: Path
    test: TestResult
    orders: FrameOrders | None
    export: ExportResult | None
    not_exported: str
    milliseconds: float
    minutes: float
    estimates: tuple[tuple[float, float], ...]

    def lines(self) -> list[tuple[str, Line]]:
        """Return the candidates with their figures on the validation videos."""
        if self.choice is None:
            return []
        names = (*self.plan.candidates, FUSED)
        return list(zip(names, (*self.choice.members, self.choice.fused), strict=True))

    def choice_sentence(self) -> str:
        """Say which candidate was chosen, and why."""
        lines = self.lines()
        if not lines:
            return f"There was one candidate: {self.winner}."
        shown = ", ".join(f"{name} {line.accuracy:.1%}" for name, line in lines)
        videos = self.choice.videos if self.choice is not None else 0
        best = dict(lines)[self.winner]
        close = [name for name, line in lines if name != self.winner and line.accuracy >= best.interval.low]
        doubt = (
            f" The difference from {' and '.join(close)} may be chance." if close and len(lines) > 1 else ""
        )
        return f"Chosen on {videos} validation videos: {self.winner} ({shown}).{doubt}"

    def speed_sentence(self) -> str:
        """Say how long a video takes."""
        computed = "the exported file" if self.export else "PyTorch"
        return f"{self.milliseconds:.0f} ms per video with {computed}, reading included (median)."

    def sentences(self) -> list[str]:
        """Return the result in plain sentences."""
        videos, groups = self.counts["test"]
        lines = [
            self.choice_sentence(),
            "Test: " + self.test.metrics.headline(),
            *self.test.metrics.remarks(),
        ]
        if videos < _FEW:
            lines.append(
                f"Few videos were tested: {videos} (recordings: {groups}). The accuracy on new videos may be "
                "far from this. Label more videos for a better estimate, and a better model."
            )
        lines += [] if self.orders is None else self.orders.sentences()
        lines.append(self.speed_sentence())
        if self.not_exported:
            lines.append(self.not_exported)
        lines += [
            f"Done in {in_words(60 * self.minutes)}. Report: {Path(self.config.out) / 'report.html'}",
            f"Use it: t3d predict {shlex.quote(self.config.out)} VIDEO",
        ]
        return [printable(line) for line in lines]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "winner": self.winner,
            "model": str(self.model),
            "files": [] if self.export is None else list(map(str, self.export.files)),
            "lists": {name: {"videos": count[0], "groups": count[1]} for name, count in self.counts.items()},
            "validation": {
                name: {"accuracy": line.accuracy, "interval": line.interval._asdict(), "loss": line.loss}
                for name, line in self.lines()
            },
            "test": self.test.to_json(),
            **({} if self.orders is None else self.orders.to_json()),
            "ms_per_video": round(self.milliseconds, 2),
            "minutes": round(self.minutes, 2),
            "estimates": [list(each) for each in self.estimates],
            "bad": [asdict(failed) for failed in self.looked.bad],
            "plan": asdict(self.plan),
        }
