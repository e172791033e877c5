"""Ring of frames in shared memory: one process writes frames, another one reads the newest.

The writer never waits. A frame that was not read in time is overwritten, so the memory never grows.

Legend: N places, T frames of a clip, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t3d.errors import WriteError
from t3d.live.schedule import Place
from t3d.video.video import Images

_COUNTERS = ("writing", "written", "beats", "packets", "frames", "skipped")
_PLACE = np.dtype([("frame", "<i8"), ("epoch", "<i8"), ("time", "<f8"), ("arrived", "<f8")])
_TRIES = 3
_MEMORY = "/dev/shm"  # where Linux keeps shared memory


@dataclass(frozen=True)
class RingPlan:
    """Name and sizes of a ring, with which another process opens it.

    Args:
        name: Name of the shared memory.
        places: Frames that it holds, N.
        size: Height and width of a frame, in pixels.
    """

    name: str
    places: int
    size: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return 3 * self.size**2

    @property
    def total_bytes(self) -> int:
        """Bytes of the ring."""
        return 8 * len(_COUNTERS) + self.places * (_PLACE.itemsize + self.frame_bytes)


class Samples(NamedTuple):
    """The newest frames of a ring, in their order.

    Args:
        images: The frames, uint8 [T, H, W, C].
        first: Place of the first frame.
        last: Place of the last frame.
        arrived: Time at which the last frame arrived, by `time.monotonic`.
    """

    images: Images
    first: Place
    last: Place
    arrived: float


class FrameRing:
    """Ring of frames in shared memory.

    Use `create` in the process that reads, and `attach` in the one that writes. `close` both; the memory is
    freed with the first.

    Args:
        memory: The shared memory.
        plan: Its sizes.
        owner: Whether `close` frees the memory.
    """

    def __init__(self, memory: SharedMemory, plan: RingPlan, *, owner: bool) -> None:
        self.plan = plan
        self._memory = memory
        self._owner = owner
        counters, places = 8 * len(_COUNTERS), plan.places * _PLACE.itemsize
        self._counters = np.ndarray(len(_COUNTERS), np.int64, memory.buf)
        self._places = np.ndarray(plan.places, _PLACE, memory.buf, counters)
        shape = (plan.places, plan.size, plan.size, 3)
        self._images: Images = np.ndarray(shape, np.uint8, memory.buf, counters + places)

    @classmethod
    def create(cls, places: int, size: int) -> FrameRing:
        """Create a ring of N places.

        Raises:
            WriteError: Shared memory is full.
        """
        total = RingPlan("", places, size).total_bytes
        try:
            memory = SharedMemory(create=True, size=total)
            try:
                _allocate(memory.name, total)
            except BaseException:
                memory.close()
                memory.unlink()
                raise
        except OSError as error:
            raise WriteError(
                f"shared memory cannot hold {total / 1e6:,.0f} MB of frames: {error.strerror}",
                "Enlarge it (`docker run --shm-size=1g`), or free some of it",
            ) from error
        return cls(memory, RingPlan(memory.name, places, size), owner=True)

    @classmethod
    def attach(cls, plan: RingPlan) -> FrameRing:
        """Open the ring that another process created."""
        return cls(SharedMemory(plan.name), plan, owner=False)

    def close(self) -> None:
        """Close the memory, and free it if this process created it."""
        del self._counters, self._places, self._images  # they refer to the memory
        self._memory.close()
        if self._owner:
            self._memory.unlink()

    def add(self, counter: str, count: int = 1) -> None:
        """Add to one of the counters `beats`, `packets`, `frames` and `skipped`."""
        self._counters[_COUNTERS.index(counter)] += count

    def count(self, counter: str) -> int:
        """Return one of the counters; `written` is the number of frames that were ever written."""
        return int(self._counters[_COUNTERS.index(counter)])

    def write(self, image: Images, *, frame: int, epoch: int, time: float, arrived: float) -> None:
        """Write a frame over the oldest one.

        Args:
            image: uint8 [H, W, C].
            frame: See `Place`.
            epoch: See `Place`.
            time: See `Place`.
            arrived: See `Samples`.
        """
        index = self.count("written")
        self._counters[0] = index + 1
        place = index % self.plan.places
        self._images[place] = image
        self._places[place] = (frame, epoch, time, arrived)
        self._counters[1] = index + 1

    def newest_place(self) -> Place | None:
        """Return the place of the newest frame; None if there is no frame."""
        written = self.count("written")
        return None if written == 0 else self._place(written - 1)

    def newest(self, count: int) -> Samples | None:
        """Copy the newest T frames. None if there are fewer, or a break between them.

        Args:
            count: T. The ring must have more places.
        """
        for _ in range(_TRIES):
            written = self.count("written")
            first, last = written - count, written - 1
            if first < 0:
                return None
            numbers = np.arange(first, written) % self.plan.places
            images = self._images[numbers]
            samples = Samples(
                images,
                self._place(first),
                self._place(last),
                float(self._places["arrived"][last % self.plan.places]),
            )
            # Otherwise the writer has started to overwrite the first of them meanwhile.
            if self.count("writing") - self.plan.places <= first:
                return samples if samples.first.epoch == samples.last.epoch else None
        return None

    def _place(self, index: int) -> Place:
        row = self._places[index % self.plan.places]
        return Place(index, int(row["frame"]), float(row["time"]), int(row["epoch"]))


def _allocate(name: str, size: int) -> None:
    """Reserve the memory now: a process that writes to memory that is not there is killed."""
    file = Path(_MEMORY, name.lstrip("/"))
    if not hasattr(os, "posix_fallocate") or not file.exists():
        return
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        with suppress(OSError):
            os.close(descriptor)
