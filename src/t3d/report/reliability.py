"""Drawing of the calibration of a model, for the page of a test."""

from __future__ import annotations

from matplotlib.figure import Figure

from t3d.evaluation.calibration import Calibration
from t3d.evaluation.pictures import TEXT


def reliability(calibration: Calibration) -> Figure:
    """Draw the accuracy of the videos in each range of confidence, and the number of these videos."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    used = [each for each in calibration.bins if each.videos]
    width = calibration.bins[0].high - calibration.bins[0].low
    middles = [(each.low + each.high) / 2 for each in used]
    diagram.bar(middles, [each.accuracy for each in used], width=0.92 * width, label="right answers")
    diagram.plot([0, 1], [0, 1], color=TEXT, linestyle="--", linewidth=1, label="well calibrated")
    diagram.plot(
        [each.confidence for each in used],
        [each.accuracy for each in used],
        linestyle="none",
        marker="o",
        markersize=4,
        color="C1",
        label="mean probability",
    )
    diagram.set(ylabel="share of right answers", ylim=(0, 1), xlim=(0, 1))
    diagram.legend(fontsize=8)
    counts.bar(middles, [each.videos for each in used], width=0.92 * width, color="gray")
    counts.set(xlabel="probability of the answer", ylabel="videos")
    return figure
