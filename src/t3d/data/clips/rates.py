"""Frame rates of a set of videos, which clips counted in frames depend on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from t3d.clip import ClipSpec

_DIFFERENT = 1.25  # 24, 25, 29.97 and 30 frames per second pass as one rate


def mixed_rates(rates: Sequence[float], spec: ClipSpec | None = None) -> str:
    """Describe the frame rates of a set if they differ by more than a quarter.

    Args:
        rates: Frames per second of each video. 0 for a single frame, which has no rate.
        spec: What a clip is. With `spec.fps`, the rates do not matter.

    Returns:
        A sentence about the rates, and one about the remedy. Empty if the rates are alike.

    Example:
        >>> mixed_rates([25, 30, 29.97])
        ''
        >>> mixed_rates([10, 25, 25, 50]).partition(";")[0]
        'the videos have 10 to 50 frames per second (median 25)'
    """
    known = sorted(rate for rate in rates if rate > 0)
    if not known or known[-1] <= _DIFFERENT * known[0] or (spec is not None and spec.fps is not None):
        return ""
    low, middle, high = known[0], float(median(known)), known[-1]
    text = f"the videos have {low:.4g} to {high:.4g} frames per second (median {middle:.4g}); "
    if spec is None:
        return text + (
            "a clip that counts frames (clip.stride) lasts longer at a low rate than at a high one. To "
            f"sample by time, train with clip.fps = {middle / 2:.3g}"
        )
    seconds = [(spec.span - 1) / rate for rate in (low, high)]
    return text + (
        f"a clip of {spec.num_frames} frames at clip.stride = {spec.step} lasts {seconds[0]:.2f} s at the "
        f"lowest rate and {seconds[1]:.2f} s at the highest. To sample by time instead, set clip.fps = "
        f"{middle / spec.step:.3g}"
    )
