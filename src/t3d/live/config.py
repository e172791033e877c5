"""Options of `t3d watch`. Importing them imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import get_args

from t3d.device import Compute, Precision
from t3d.errors import at_least, between, one_of
from t3d.live.address import parse_address
from t3d.runtime.formats import Runtime
from t3d.video.limits import DEFAULT_MEGAPIXELS


@dataclass(frozen=True)
class WatchConfig:
    """Classification of a live source.

    Args:
        model: Weights file, the folder of a finished training run (its best weights, else its last), a
            file that `t3d export` wrote, or a model on the Hub (`hf-hub:org/name`).
        source: Number or device of a camera (0, /dev/video0), URL of a stream (rtsp, rtmp, http, udp, …), `-`
            for standard input, or a video file, which is read at its own speed.
        every: Seconds from one result to the next. Default: the length of a clip, so that each frame counts
            once. Results come less often if the model is slower.
        top: Number of classes per result, most probable first.
        max_seconds: Seconds after which the command ends. Default: it runs until the source ends or Ctrl+C.
        timeout: Time limit for an answer and for new data, in seconds. The source is then opened again.
        retries: Maximum number of attempts in a row to open a source again that failed. The waiting time
            before an attempt grows from 1 to 30 seconds.
        max_megapixels: Largest frame that is decoded, in megapixels. 8K video has 33.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        runtime: Program that computes the model, as for `t3d predict`.
        device: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, or one GPU such as `cuda:1`.
        precision: `fp32`, `bf16`, or `auto` (bf16 on devices that support it in hardware, else fp32).

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    source: str = field(repr=False)  # may contain a password
    every: float | None = None
    top: int = 3
    max_seconds: float | None = None
    timeout: float = 10.0
    retries: int = 10
    max_megapixels: float = DEFAULT_MEGAPIXELS
    allow_unfinished: bool = False
    runtime: Runtime = "auto"
    device: str = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        parse_address(self.source)
        if self.every is not None:
            between("every", self.every, 0.001, 1e6)
        at_least("top", self.top, 1)
        if self.max_seconds is not None:
            at_least("max_seconds", self.max_seconds, 0.001)
        between("timeout", self.timeout, 0.1, 3600)
        at_least("retries", self.retries, 0)
        between("max_megapixels", self.max_megapixels, 1e-3, math.inf)
        one_of("runtime", self.runtime, get_args(Runtime))
        one_of("precision", self.precision, get_args(Precision))

    @property
    def compute(self) -> Compute:
        """Return where and how the model computes: one clip at a time."""
        return Compute(device=self.device, precision=self.precision, batch_size=1, workers=0)
