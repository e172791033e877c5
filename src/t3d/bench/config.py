"""Options of `t3d bench`. Importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from t3d.errors import ConfigError, at_least, one_of

Numbers = Literal["fp32", "bf16", "int8"]
Program = Literal["torch", "compile", "openvino", "onnx"]
AUTO = "auto"
"""Batch size that is searched for."""


@dataclass(frozen=True)
class NetworkBenchConfig:
    """Options that the benchmarks of a network share.

    Args:
        model: Name of a model, a weights file, or the folder of a finished training run.
        num_frames: Frames per clip. Default: those in the model's card, else 16.
        size: Height and width of the clip in pixels. Default: that in the model's card, else 112.
        batch_size: Clips per call, or `auto` to search for the fastest.
        peers: Also measure the textbook version of the network.
        memory: Measure the peak memory of each row. On a CPU this starts one process per row.
        threads: Threads that compute. Default: as many as torch uses.
        seconds: Time of the alternating runs in seconds. Each row runs at least three times.
        device: Device to compute on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda` or
            `cuda:1`.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    num_frames: int | None = None
    size: int | None = None
    batch_size: str = "1"
    peers: bool = False
    memory: bool = True
    threads: int | None = None
    seconds: float = 20.0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("num_frames", "size"):
            if (value := getattr(self, name)) is not None:
                at_least(name, value, 1)
        check_threads(self.threads)
        check_seconds(self.seconds)
        if self.batch_size != AUTO:
            check_batch(self.batch_size)

    @property
    def batch(self) -> int | None:
        """Batch size; None if it is searched for."""
        return None if self.batch_size == AUTO else int(self.batch_size)


@dataclass(frozen=True)
class ModelBenchConfig(NetworkBenchConfig):
    """Benchmark of a model that scores clips.

    Args:
        model: Name of a model, a weights file, the folder of a finished training run, or a file that `t3d
            export` wrote. The weights of a model by name are random, which does not change its speed.
        batch_size: Clips per forward pass, or `auto` to search for the fastest. The reference always has one.
        peers: Also measure textbook versions of the network and, if torchvision is installed, its video
            networks.
        precision: Numbers to compute with: `fp32`, `bf16`, `int8`. Default: fp32, and bf16 if the device
            computes it in hardware. For `int8` the model is calibrated on random clips, so use it for its
            speed only.
        runtimes: Programs that compute: `torch`, `compile` (torch.compile, whose start takes minutes),
            `openvino`, `onnx`. Default: torch, and those of OpenVINO and ONNX Runtime that are installed.
            With `peers` also compile.
        layers: Also show the time of each kind of layer in OpenVINO.

    Raises:
        ConfigError: A value that cannot work.
    """

    precision: tuple[Numbers, ...] = ()
    runtimes: tuple[Program, ...] = ()
    layers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for precision in self.precision:
            one_of("precision", precision, get_args(Numbers))
        for runtime in self.runtimes:
            one_of("runtimes", runtime, get_args(Program))
        if self.layers and self.runtimes and "openvino" not in self.runtimes:
            raise ConfigError(
                f"`layers` is set and `runtimes` is {' '.join(self.runtimes)}; the times of layers are those "
                "of OpenVINO: add openvino to `runtimes`, or remove `layers`"
            )


@dataclass(frozen=True)
class TrainBenchConfig(NetworkBenchConfig):
    """Benchmark of training steps.

    Args:
        batch_size: Clips per step, or `auto` to search for the fastest.
        compile: Also measure torch.compile, whose start takes minutes.

    Raises:
        ConfigError: A value that cannot work.
    """

    batch_size: str = "2"
    compile: bool = False


@dataclass(frozen=True)
class PredictBenchConfig:
    """Benchmark of `t3d predict`, step by step.

    Args:
        model: Weights file, the folder of a finished training run, or a file that `t3d export` wrote.
        videos: Video files, folders of videos, and lists of videos.
        count: Maximum number of videos, spread evenly over the list.
        threads: Threads that compute. Default: as many as torch uses.
        device: Device to compute on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda` or
            `cuda:1`.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    videos: tuple[str, ...]
    count: int = 32
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        at_least("count", self.count, 1)
        check_threads(self.threads)


@dataclass(frozen=True)
class DecodeBenchConfig:
    """Benchmark of reading video files.

    Args:
        videos: Video files, folders of videos, and lists of videos.
        count: Maximum number of videos, spread evenly over the list.
        num_frames: Frames per random clip.
        clips: Random clips per video.
        seconds: Time of the alternating runs in seconds. Each reader reads every video at least three times.

    Raises:
        ConfigError: A value that cannot work.
    """

    videos: tuple[str, ...]
    count: int = 8
    num_frames: int = 16
    clips: int = 4
    seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("count", "num_frames", "clips"):
            at_least(name, getattr(self, name), 1)
        check_seconds(self.seconds)


@dataclass(frozen=True)
class GrowthConfig:
    """Growth of time and memory with the size of clips, of batches and of networks.

    Args:
        model: Name of a model.
        out: File of the plot, `.svg` or `.png`. Default: only the table is printed.
        frames: Numbers of frames to measure, at a side of 112 pixels.
        sides: Sides to measure in pixels, at 16 frames.
        batches: Batch sizes to measure, at 16 frames of 112 × 112.
        depths: Other models to measure, at 16 frames of 112 × 112.
        training: Measure training steps instead of scoring.
        threads: Threads that compute. Default: as many as torch uses.
        seconds: Time of the alternating runs of each of the four parts, in seconds.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    out: str | None = None
    frames: tuple[int, ...] = (8, 16, 32, 64, 128)
    sides: tuple[int, ...] = (112, 160, 224, 320)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    depths: tuple[str, ...] = ("densenet3d121", "densenet3d169", "densenet3d201", "t3d121", "t3d169")
    training: bool = False
    threads: int | None = None
    seconds: float = 20.0

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check_seconds(self.seconds)
        for name in ("frames", "sides", "batches"):
            for value in getattr(self, name):
                at_least(name, value, 1)
        if self.out is not None and not self.out.endswith((".svg", ".png")):
            raise ConfigError(f"out is {self.out}; the plot is a picture, so it must end in .svg or .png")


def check_threads(threads: int | None) -> None:
    """Raise an error for fewer than one thread.

    Raises:
        ConfigError: `threads` is below 1.
    """
    if threads is not None:
        at_least("threads", threads, 1)


def check_seconds(seconds: float) -> None:
    """Raise an error for a time that is not above 0.

    Raises:
        ConfigError: It is not.
    """
    if not seconds > 0:
        raise ConfigError(f"seconds is {seconds:g}; it must be above 0")


def check_batch(batch_size: str) -> None:
    """Raise an error for a batch size that is neither a number nor `auto`.

    Raises:
        ConfigError: It is not.
    """
    if not batch_size.isascii() or not batch_size.isdigit() or int(batch_size) < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be a whole number of at least 1, or auto")
