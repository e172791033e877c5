"""Frames by the package torchcodec: the second decoder that `t3d.video.video` can ask.

Legend: T frames, C = 3 channels (RGB), H height, W width.

The table of frames stays ours: torchcodec gets it, and every frame that it gives is checked against it. What
cannot be checked is kept from it. It says nothing of damage, so that only files go to it that an index knows
to be whole; and it is not asked where its way to a frame or to RGB is known to differ from ours.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
import torch

from t3d.errors import ConfigError
from t3d.video.frame_table import FrameTable, Int64s, read_table
from t3d.video.stream import Stream

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts

Decoder = Literal["pyav", "torchcodec"]
"""Who makes pixels of a file."""
TOLERANCE = 4
"""Largest difference of a pixel, of 255, from what PyAV's build of FFmpeg gives."""
# Of these, at an even height, both builds' swscale takes the same way to RGB. Of others (10 bits, odd
# heights) they widen the colour samples differently, by over 100 of 255 at sharp edges.
_PIXELS = frozenset({"yuv420p", "yuvj420p"})
# torchcodec's degrees, as (transpose, flip rows, flip columns) of `t3d.video.stream.orientation`.
_TURNS = {
    0: (False, False, False),
    -90: (True, False, True),
    90: (True, True, False),
    180: (False, True, True),
    -180: (False, True, True),
}
_log = logging.getLogger(__name__)
_given_up: set[Path] = set()  # files that torchcodec could not read: it is not asked again in this process
# Open decoders of a parent process: freeing them after a fork would wait for threads that are not there.
_left_by_fork: list[Any] = []


class UnfitError(Exception):
    """torchcodec cannot give these frames, or gives other ones."""


class TorchcodecReader:
    """Reads frames of one file by their numbers.

    It may be pickled and survives a fork, as `Video` does, which also keeps threads apart.

    Args:
        path: The file.
        table: Its frames; such a table as `is_fit` asks for.
        shape: Height and width of a frame as shown.
        orientation: How a stored frame is turned, see `t3d.video.stream.orientation`.
        threads: Decoding threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        table: FrameTable,
        shape: tuple[int, int],
        orientation: tuple[bool, bool, bool] = (False, False, False),
        threads: int = 1,
    ) -> None:
        self._path = path
        self._table = table
        self._shape = shape
        self._orientation = orientation
        self._threads = threads
        self._decoder: Any = None
        self._pid = os.getpid()

    def frames_at(self, numbers: Int64s) -> torch.Tensor:
        """Decode frames.

        Args:
            numbers: At least one frame number, all of the table's, in any order and with repeats.

        Returns:
            RGB, uint8 T C H W, `channels_last` in memory.

        Raises:
            UnfitError: It fails, or a frame has another time or size than the table says.
        """
        try:
            batch = self._open().get_frames_at(numbers.tolist())
        except (RuntimeError, ValueError, IndexError, OSError, TypeError, AttributeError) as error:
            # The last two: a version of torchcodec with other words.
            raise UnfitError(_first_line(error)) from error
        frames: torch.Tensor = batch.data
        stamps = np.rint(batch.pts_seconds.numpy() / float(self._table.time_base)).astype(np.int64)
        wrong = np.flatnonzero(stamps != self._table.pts[numbers])
        if wrong.size:
            raise UnfitError(f"another frame comes for frame {numbers[wrong[0]]}")
        if tuple(frames.shape[2:]) != self._shape:
            raise UnfitError(f"frames come in another size, {frames.shape[3]} × {frames.shape[2]}")
        return frames

    def close(self) -> None:
        """Let go of the file; `frames_at` opens it again."""
        if self._decoder is not None and self._pid != os.getpid():
            _left_by_fork.append(self._decoder)
        self._decoder = None

    def __del__(self) -> None:
        if "_decoder" in self.__dict__:
            self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decoder": None}

    def _open(self) -> Any:
        if self._pid != os.getpid():
            self.close()
        if self._decoder is None:
            from torchcodec.decoders import VideoDecoder

            decoder = VideoDecoder(
                f"file:{os.fspath(self._path)}",  # else a colon in the name is read as a protocol
                num_ffmpeg_threads=self._threads,
                custom_frame_mappings=_mapping(self._table),
            )
            pixels, turn = decoder.metadata.pixel_format, round(decoder.metadata.rotation or 0)
            if pixels not in _PIXELS:
                raise UnfitError(f"of {pixels} it may make other colours")
            if _TURNS.get(turn) != self._orientation:
                raise UnfitError("frames would be turned another way")
            self._decoder, self._pid = decoder, os.getpid()
        return self._decoder


def reader_of(path: Path, facts: VideoFacts | None, *, threads: int = 1) -> TorchcodecReader | None:
    """The reader of a file; None where torchcodec is not to be asked for it.

    Args:
        path: The file.
        facts: What an index knows of it.
        threads: Decoding threads.

    Raises:
        ConfigError: torchcodec does not work here.
    """
    require()
    if facts is None or not is_fit(facts) or path in _given_up:
        return None
    stored, how = facts.stored_size, facts.orientation
    shape = stored[::-1] if how[0] else stored
    return TorchcodecReader(path, table=facts.table, shape=shape, orientation=how, threads=threads)


def give_up(path: Path, error: UnfitError) -> None:
    """Ask torchcodec no more for a file in this process, and say so."""
    if path not in _given_up:
        _given_up.add(path)
        _log.warning("%s: torchcodec cannot read it (%s); PyAV decodes this file", path, error)


def is_fit(facts: VideoFacts) -> bool:
    """Whether torchcodec may be asked for a file's frames: what it gives can be checked then.

    Args:
        facts: What an index knows of the file.
    """
    table = facts.table
    # It goes to a key frame by its time of showing. Where frames are stored in another order, a container
    # that calls too many frames key frames leads it behind the right one, and decoders other than H.264's
    # then give frames that look wrong and have the right times.
    straight = facts.codec == "h264" or np.array_equal(table.key_pts, table.key_seek)
    begins = bool(np.isin(table.pts[0], table.key_pts))
    even = facts.stored_size[0] % 2 == 0
    alone = facts.offset is None  # not in a shard
    return alone and facts.damage is None and table.order is None and straight and begins and even


def require() -> None:
    """Refuse to go on where torchcodec cannot be used.

    Raises:
        ConfigError: `why_not` says why.
    """
    if reason := why_not():
        raise ConfigError(f"the decoder is torchcodec, which {reason}; or leave decoder out: PyAV decodes")


@functools.cache
def why_not() -> str | None:
    """Why torchcodec cannot be used here: missing, not loading, or giving other frames than PyAV.

    Found out once a process, by decoding two small videos with both. None if all is well.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except ImportError as error:
        return f"cannot be imported ({_first_line(error)}); pip install 't3d[torchcodec]'"
    except (RuntimeError, OSError) as error:
        return f"does not load ({_first_line(error)}); it needs FFmpeg's libraries, versions 4 to 9"
    # Two widths, since torchcodec takes another way to RGB where the width is no multiple of 32.
    for width, colours in ((64, (6, 1)), (72, (1, 2))):
        with tempfile.TemporaryDirectory() as folder:
            path = _write_probe(Path(folder) / "probe.mp4", width, *colours)
            stream = Stream(path)
            table = read_table(stream).table
            stream.close()
            stream = Stream(path)
            truth = np.stack([stream.rgb(frame) for frame in stream.frames()])  # T H W C
            stream.close()
            order = np.array([11, 0, 6, 7])
            try:
                frames = TorchcodecReader(path, table=table, shape=truth.shape[1:3]).frames_at(order)
            except UnfitError as error:
                return f"cannot read a small video ({error}); it needs FFmpeg's libraries, versions 4 to 9"
        apart = int(np.abs(frames.permute(0, 2, 3, 1).numpy().astype(int) - truth[order]).max())
        if apart > TOLERANCE:
            return f"gives other pixels than PyAV, up to {apart} of 255 apart, with the FFmpeg it found"
    return None


def _write_probe(path: Path, width: int, space: int, colour_range: int) -> Path:
    """Write 12 frames of moving colours, with FFmpeg's numbers of a colour space and a range."""
    y, x = np.mgrid[:48, :width]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = width, 48, "yuv420p"
        video.codec_context.gop_size = 5
        video.codec_context.colorspace, video.codec_context.color_range = space, colour_range
        for i in range(12):
            image = np.stack([3 * x + 8 * i, 5 * y + 16 * i, 2 * (x + y) + 20 * i], axis=2) % 256
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def _mapping(table: FrameTable) -> str:
    """The table in the form in which torchcodec takes it, so that it need not read through the file."""
    lengths = np.diff(table.pts, append=table.pts[-1] + table.last).tolist()
    keys = np.isin(table.pts, table.key_pts).tolist()
    rows = zip(table.pts.tolist(), lengths, keys, strict=True)
    frames = [{"pts": pts, "duration": length, "key_frame": int(key)} for pts, length, key in rows]
    return json.dumps({"frames": frames})


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(" .") or type(error).__name__
