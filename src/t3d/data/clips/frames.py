"""Read resized frames of video files, through a cache of decoded frames if there is one.

Training, validation, testing and prediction all use a `FrameStore`. Cached and decoded frames are
bit-identical, so a cache changes only the speed of a run. A frame that cannot be decoded is replaced by the
nearest one that can, unless more than 10 % of the video's frames cannot be decoded.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from t3d.clip import ClipSpec
from t3d.data.clips.shapes import SQUARE_PIXELS, resized_shape
from t3d.data.clips.spans import Timed
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.prefetch import Shards
from t3d.errors import ConfigError, VideoError
from t3d.io.files import ABANDONED, FileDigests, atomic_path, is_temporary, writable_folder
from t3d.io.video_cache import ensure_local
from t3d.video.image_names import IMAGE_FPS, images_digest
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits
from t3d.video.video import Images, Video

if TYPE_CHECKING:
    import torch

Resize = Callable[[Images, int, int], Images]
"""Function that resizes frames uint8 [N, H, W, C] to a height and a width."""

_FORMAT = 3  # raise it when cached frames would differ: old entries are then never read
_CHUNK = 16  # frames decoded at a time, so that a long video does not fill the memory
_ENTRY = re.compile(r"[0-9a-f]{32}\.safetensors")
# Other processes write as well: what one finds free, it takes this share of before it looks again.
_SHARE = 0.05


def resize_with_torch(images: Images, height: int, width: int) -> Images:
    """Resize frames as training does. Imports torch when it is called."""
    from t3d.data.clips.pixels import resize_images

    return resize_images(images, height, width)


class Frames(Timed, Protocol):
    """The resized frames of one open video."""

    def images(self, indices: npt.NDArray[np.int64]) -> Images:
        """Return the frames at these indices, any order and repeats, uint8 [T, H, W, C]."""
        ...

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return these frames as uint8 [T, C, H, W], `channels_last` in memory."""
        ...


class FrameImages(ABC):
    """Base class of `Frames` that come as NumPy images."""

    @abstractmethod
    def images(self, indices: npt.NDArray[np.int64]) -> Images:
        """Return frames, see `Frames.images`."""

    def get(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return frames as a tensor, see `Frames.get`."""
        import torch  # not above: exported models run without it

        return torch.from_numpy(self.images(indices)).permute(0, 3, 1, 2)


class FrameStore:
    """Opens videos as resized frames.

    Args:
        spec: `resize` and `resize_mode` say how frames are resized.
        cache: Folder for decoded frames; None decodes every time.
        cache_gb: Largest size of that folder, in GB. Processes that fill it at the same time may exceed it by
            one video each. The oldest entries are evicted, but none of this run. A video that does not fit is
            decoded every time.
        index: Index of the files, which makes opening them fast.
        limits: Limits of reading one file.
        image_fps: Frames per second of folders of images. None: the rate in the index, or else 25.
        resize: Function that resizes frames. Another one than the default must not share its cache.

    Raises:
        ConfigError: The cache folder cannot be created or written to.
    """

    def __init__(
        self,
        spec: ClipSpec,
        *,
        cache: str | None = None,
        cache_gb: float = 20.0,
        index: VideoIndex | None = None,
        limits: ReadLimits = DEFAULT_LIMITS,
        image_fps: float | None = None,
        resize: Resize = resize_with_torch,
    ) -> None:
        self.spec = spec
        self.resize = resize
        self.image_fps = image_fps
        self.folder = writable_folder(cache, name="data.cache") if cache else None
        self.max_bytes = cache_gb * 1e9
        self.index = VideoIndex.empty() if index is None else index
        self.limits = limits
        what = [_FORMAT, spec.resize, spec.resize_mode, *spec.variant]
        self._digests = FileDigests(json.dumps(what).encode(), known=self._known_digest)
        self._begun = time.time() - 1  # file systems' clocks lag a little
        self._free = 0.0  # bytes that this process may write before it measures the folder again

    def open(self, path: Path) -> Frames:
        """Open a video.

        Raises:
            VideoError: It cannot be read.
            ConfigError: Its entry in the cache is damaged.
        """
        entry = self._entry(path)
        if entry is not None:
            with suppress(FileNotFoundError):  # not prepared, or another run has made room
                return _CachedFrames(entry)
        return DecodedFrames(self._video(path), self.spec, resize=self.resize)

    def shards(self, manifest: Manifest) -> Shards | None:
        """Return the shards of the videos, or None if they are read from files or from the cache."""
        return None if self.folder else self.index.shards(manifest.table["path"].to_pylist())

    def prepare(self, path: Path) -> bool:
        """Decode a video into the cache, unless the cache has it or is full.

        Returns:
            Whether the cache now holds the video.

        Raises:
            VideoError: It cannot be read from its first frame to its last.
            WriteError: Its entry in the cache cannot be written.
        """
        entry = self._entry(path)
        if entry is None:
            return False
        if entry.exists():
            with suppress(OSError):  # another user's entry, or another run has just made room
                os.utime(entry)
            return True
        with self._video(path) as video:
            if not self._make_room(3 * math.prod(self._shape(video)) + 8 * len(video)):
                return False
            with atomic_path(entry) as temporary:
                self._write(temporary, video)
        return True

    def _video(self, path: Path) -> Video:
        facts = self.index.facts(path)
        video = Video(
            path, facts=facts, limits=self.limits, image_fps=self.image_fps, tonemap=self.spec.tonemap
        )
        frames = min(self.spec.num_frames * self.spec.segments, len(video))
        _, height, width = self._shape(video)
        self.limits.check_clip(path, frames=frames, height=height, width=width)
        return video

    def _known_digest(self, path: Path) -> str | None:
        """Return what identifies an indexed file, or a folder of images at its rate; None for other files."""
        digest = self.index.digest(path)
        if not path.is_dir():
            return digest
        rate = self.image_fps
        if rate is None:
            facts = self.index.facts(path)
            rate = IMAGE_FPS if facts is None else float(1 / facts.table.time_base)
        return f"{digest or images_digest(path)} {rate!r}"

    def _shape(self, video: Video) -> tuple[int, int, int]:
        return len(video), *_shape_of(video, self.spec)

    def _write(self, path: Path, video: Video) -> None:
        """Write all frames as a safetensors file in chunks; its own writer needs them all in memory."""
        count, height, width = self._shape(video)
        times = np.append(video.times, video.duration).astype("<f8").tobytes()
        last, end = 8 * count, len(times) + count * 3 * height * width
        layout = {
            "times": {"dtype": "F64", "shape": [count], "data_offsets": [0, last]},
            "duration": {"dtype": "F64", "shape": [1], "data_offsets": [last, len(times)]},
            "frames": {"dtype": "U8", "shape": [count, height, width, 3], "data_offsets": [len(times), end]},
        }
        header = json.dumps(layout).encode()
        header += b" " * (-len(header) % 8)  # so that the times are aligned
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header + times)
            resize = _resizing(video, self.spec, self.resize)
            for first in range(0, count, _CHUNK):
                chunk = range(first, min(first + _CHUNK, count))
                file.write(video.images_at(chunk, missing="nearest", transform=resize).tobytes())
        if len(video) != count:
            raise VideoError(video.path, f"seemed to hold {count} frames, but {len(video)} can be decoded")

    def _entry(self, path: Path) -> Path | None:
        """Return the cache file of a video, named by the content of the video and the resizing."""
        if self.folder is None:
            return None
        ensure_local(path)
        try:
            return self.folder / f"{self._digests(path)}.safetensors"
        except OSError as error:
            raise VideoError(path, f"cannot be read: {error.strerror}") from error

    def _make_room(self, wanted: int) -> bool:
        """Evict old entries if needed, and return whether `wanted` bytes fit."""
        if wanted > self._free:
            free = self._measure_and_evict(wanted)
            if wanted > free:
                return False
            self._free = max(_SHARE * free, wanted)
        self._free -= wanted
        return True

    def _measure_and_evict(self, wanted: int) -> float:
        """Evict entries of earlier runs until `wanted` bytes are free, and return the free bytes."""
        assert self.folder is not None
        free, old = self.max_bytes, []
        abandoned = time.time() - ABANDONED
        for entry in os.scandir(self.folder):
            half = is_temporary(entry.name)
            with suppress(FileNotFoundError):  # another process finished or deleted it just now
                if half or _ENTRY.fullmatch(entry.name):
                    stat = entry.stat()
                    free -= stat.st_size
                    if stat.st_mtime < (abandoned if half else self._begun):
                        old.append((stat.st_mtime, stat.st_size, entry.path))
        if free + sum(size for _, size, _ in old) < wanted:
            return free
        for _, size, path in sorted(old):
            if free >= wanted:
                break
            Path(path).unlink(missing_ok=True)
            free += size
        return free


def _shape_of(video: Video, spec: ClipSpec) -> tuple[int, int]:
    """Return the height and the width of the resized frames of a video."""
    # The shape of a pixel is not read from the file unless it is needed.
    aspect = SQUARE_PIXELS if spec.pixel_aspect == "ignore" else video.pixel_aspect
    return resized_shape(video.height, video.width, spec, pixel_aspect=aspect)


def _resizing(video: Video, spec: ClipSpec, resize: Resize) -> Callable[[Images], Images]:
    """Return a function that resizes the frames of a video as the clip spec asks."""
    height, width = _shape_of(video, spec)
    return lambda images: resize(images, height, width)


class DecodedFrames(FrameImages):
    """The resized frames of an open video, decoded when they are requested.

    Args:
        video: The video.
        spec: `resize` and `resize_mode` say how frames are resized.
        resize: Function that resizes them.
    """

    def __init__(self, video: Video, spec: ClipSpec, *, resize: Resize = resize_with_torch) -> None:
        self._video = video
        self._resize = _resizing(video, spec, resize)
        self.times = self._video.times
        self.duration = self._video.duration

    def images(self, indices: npt.NDArray[np.int64]) -> Images:
        """Return the frames at these indices, see `Frames.images`."""
        # A clip that wraps around or repeats a frame has indices twice: each frame is decoded once.
        unique, where = np.unique(indices, return_inverse=True)
        images = self._video.images_at(unique, missing="nearest", transform=self._resize)
        return images if np.array_equal(unique, indices) else images[where]


class _CachedFrames(FrameImages):
    """Frames from the cache: the file is mapped into memory, and only the requested frames are read."""

    def __init__(self, entry: Path) -> None:
        try:
            file: Any = safe_open(entry, framework="pt")
            self.times = file.get_tensor("times").numpy()
            self.duration = float(file.get_tensor("duration"))
            self._frames = file.get_slice("frames")
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"data.cache: {entry} is damaged ({error}); delete it, and it is decoded again"
            ) from error

    def images(self, indices: npt.NDArray[np.int64]) -> Images:
        first = int(indices.min())
        block: Images = self._frames[first : int(indices.max()) + 1].numpy()
        return block[indices - first]
