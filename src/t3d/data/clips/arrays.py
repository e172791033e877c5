"""One video in any form: a file, an open `Video`, or frames that are in memory already.

Legend: T frames, C channels, H height, W width, N clips.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from t3d.clip import ClipSpec
from t3d.data.clips.frames import DecodedFrames, FrameImages, Frames, FrameStore, Resize, resize_with_torch
from t3d.data.clips.shapes import resized_shape
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, VideoError
from t3d.video.image_names import is_image_folder
from t3d.video.video import Images, Video

if TYPE_CHECKING:
    import torch

FrameArray: TypeAlias = "npt.NDArray[np.uint8] | torch.Tensor"
"""RGB frames, uint8 [T, H, W, C] or [T, C, H, W]."""
OneVideo: TypeAlias = "str | os.PathLike[str] | Video | FrameArray"
"""One video: the path of a file, an open `Video`, or frames."""
NAME = "frames in memory"
"""Path of such frames in a manifest and in messages."""


def frames_first(frames: FrameArray) -> torch.Tensor:
    """Return frames as a tensor uint8 [T, C, H, W], with the colors of a pixel adjacent in memory.

    Args:
        frames: See `colors_last`.

    Raises:
        ConfigError: See `colors_last`.

    Example:
        >>> frames_first(np.zeros((16, 240, 320, 3), np.uint8)).shape
        torch.Size([16, 3, 240, 320])
    """
    import torch

    return torch.from_numpy(colors_last(frames)).permute(0, 3, 1, 2)


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Return whether a value is a torch tensor. Does not import torch: there is no tensor without it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def colors_last(frames: FrameArray) -> Images:
    """Return frames as a contiguous array uint8 [T, H, W, C].

    Args:
        frames: RGB, uint8 [T, H, W, 3] or [T, 3, H, W], at least one frame.

    Raises:
        ConfigError: Another shape or type, or a shape that could be either.

    Example:
        >>> colors_last(np.zeros((16, 3, 240, 320), np.uint8)).shape
        (16, 240, 320, 3)
    """
    shape, dtype = tuple(frames.shape), str(frames.dtype).removeprefix("torch.")
    # Before any conversion: torch has no counterpart of some types, such as objects.
    if dtype != "uint8" or len(shape) != 4 or 3 not in (shape[1], shape[3]) or 0 in shape:
        raise ConfigError(
            f"got frames {dtype} {list(shape)}; give RGB frames as uint8 [T, H, W, 3] or "
            "[T, 3, H, W], with values from 0 to 255"
        )
    if shape[1] == shape[3]:
        raise ConfigError(
            f"got frames {list(shape)}, which could be [T, 3, H, W] or [T, H, W, 3]; frames of 3 pixels "
            "cannot be told apart from colors: resize them first"
        )
    images: Images = frames.cpu().numpy() if is_tensor(frames) else np.asarray(frames)
    # A copy if the array is a view that runs backward (BGR turned into RGB) or cannot be written to.
    array = np.ascontiguousarray(images if shape[3] == 3 else images.transpose(0, 2, 3, 1))
    return array if array.flags.writeable else array.copy()


class ArrayStore(FrameStore):
    """A store whose only video is an array of frames.

    Args:
        frames: See `colors_last`.
        spec: `resize` and `resize_mode` say how frames are resized.
        fps: Frames per second. Needed if `spec.fps` is set.
        resize: Function that resizes them.

    Raises:
        ConfigError: The array has another shape or type, or its frame rate is needed and missing or invalid.
    """

    def __init__(
        self,
        frames: FrameArray,
        spec: ClipSpec,
        *,
        fps: float | None = None,
        resize: Resize = resize_with_torch,
    ) -> None:
        super().__init__(spec, resize=resize)
        self.frames = colors_last(frames)
        if fps is not None and not 0 < fps < math.inf:
            raise ConfigError(f"fps is {fps}; it must be above 0")
        if fps is None and spec.fps is not None:
            raise ConfigError(
                f"this model samples {spec.fps:g} frames per second (clip.fps), and frames in memory do not "
                "say their rate; give their frames per second as `fps`"
            )
        self.fps = 1.0 if fps is None else fps  # only rows with a time span and `spec.fps` ask for seconds

    def open(self, path: Path) -> Frames:  # noqa: ARG002 (there is one video)
        """Return the frames."""
        return _ArrayFrames(self.frames, self)

    def manifest(self) -> Manifest:
        """Return a list of one unlabeled video, which this store opens."""
        columns = {
            "path": pa.array([NAME]),
            "label": pa.nulls(1, pa.int32()),
            "start": pa.nulls(1, pa.float64()),
            "end": pa.nulls(1, pa.float64()),
            "source": pa.array([NAME]),
        }
        return Manifest((), pa.table(columns))


class _VideoStore(FrameStore):
    """A store whose only video is an open `Video`."""

    def __init__(self, video: Video, spec: ClipSpec, *, resize: Resize) -> None:
        super().__init__(spec, resize=resize)
        self.video = video

    def open(self, path: Path) -> Frames:  # noqa: ARG002 (there is one video)
        return DecodedFrames(self.video, self.spec, resize=self.resize)


def open_one(video: OneVideo, store: FrameStore, *, fps: float | None = None) -> tuple[Manifest, FrameStore]:
    """Open one video in any form.

    Args:
        video: The path of a file, an open `Video`, or RGB frames, uint8 [T, H, W, 3] or [T, 3, H, W].
        store: Store that opens files, with the size of the frames.
        fps: Frames per second of frames in memory. Needed if clips are sampled by time (`spec.fps`).

    Returns:
        A list of the one unlabeled video, and the store that opens it.

    Raises:
        ConfigError: Another type, frames of another shape or type, or their rate is needed and missing.
        VideoError: The path is a folder.
        ManifestError: The path is a URL.

    Example:
        >>> spec = ClipSpec(num_frames=8, size=112, resize=112)
        >>> videos, _ = open_one(np.zeros((40, 120, 160, 3), np.uint8), FrameStore(spec))
        >>> len(videos)
        1
    """
    if isinstance(video, np.ndarray) or is_tensor(video):
        array = ArrayStore(video, store.spec, fps=fps, resize=store.resize)
        return array.manifest(), array
    if isinstance(video, Video):
        return Manifest.from_files([video.path]), _VideoStore(video, store.spec, resize=store.resize)
    if not isinstance(video, str | os.PathLike) or isinstance(os.fspath(video), bytes):
        several = "; `Predictor.many` takes several paths" if isinstance(video, list | tuple) else ""
        raise ConfigError(
            f"got a video of type {type(video).__name__}; give the path of a file, a t3d.Video, or RGB "
            f"frames as a uint8 array or tensor [T, H, W, 3] or [T, 3, H, W]{several}"
        )
    if Path(video).is_dir() and not is_image_folder(video):
        raise VideoError(video, "is a folder; give one video file. `Predictor.many` takes folders")
    return Manifest.from_files([video]), store


def load_clips(
    video: OneVideo, spec: ClipSpec, *, device: str | torch.device = "cpu", fps: float | None = None
) -> torch.Tensor:
    """Return the clips of a video that testing and prediction use, ready for a model.

    These are the clips of the paper's protocol: they do not overlap, and their center is cropped. Strides
    count frames, so frames in memory need the frame rate of the videos that the model was trained on. With
    `spec.fps`, any rate is right if `fps` says it.

    Args:
        video: The path of a file, an open `Video`, or RGB frames, uint8 [T, H, W, 3] or [T, 3, H, W].
        spec: What a clip is; the card of a weights file has it.
        device: Where the clips are put.
        fps: Frames per second of frames in memory. Needed if `spec.fps` is set.

    Returns:
        Normalized clips, float32 [N, C, T, H, W], at least one.

    Raises:
        ConfigError: Another type, frames of another shape or type, or their rate is needed and missing.
        VideoError: The video cannot be read, or is too short for `spec.short = error`.

    Example:
        >>> frames = np.zeros((40, 120, 160, 3), np.uint8)
        >>> load_clips(frames, ClipSpec(num_frames=8, size=112, resize=112)).shape
        torch.Size([2, 3, 8, 112, 112])
    """
    from t3d.data.clips.dataset import ClipItem, VideoClips
    from t3d.data.clips.transforms import normalize, stack

    manifest, store = open_one(video, FrameStore(spec), fps=fps)
    items = list(VideoClips(manifest, spec, store=store))
    clips = [item.frames for item in items if isinstance(item, ClipItem)]
    for item in items:
        if not isinstance(item, ClipItem):
            raise VideoError(item.path, item.reason)
    return normalize(stack(clips).to(device), spec)


class _ArrayFrames(FrameImages):
    """The resized frames of an array uint8 [N, H, W, C]."""

    def __init__(self, frames: Images, store: ArrayStore) -> None:
        self._frames = frames
        self._store = store
        self.times = np.arange(len(frames)) / store.fps
        self.duration = len(frames) / store.fps

    def images(self, indices: npt.NDArray[np.int64]) -> Images:
        unique, where = np.unique(indices, return_inverse=True)
        height, width = resized_shape(self._frames.shape[1], self._frames.shape[2], self._store.spec)
        return self._store.resize(self._frames[unique], height, width)[where]
