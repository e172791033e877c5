"""Indexed facts about one video file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from t3d.io.tar_member import TarMember
from t3d.video.frame_table import SURE_CODECS, FrameTable, Int64s
from t3d.video.orientation import Orientation

CHECKS = 2
"""Number of the checks that a row has passed. Raise it when rows made before must not be trusted."""


@dataclass(frozen=True)
class VideoFacts:
    """Indexed facts about a readable video file, which make reading it through unnecessary.

    Args:
        size: Bytes of the file.
        modified: Modification time, in nanoseconds.
        digest: Digest of its bytes, 32 hexadecimal digits.
        codec: FFmpeg's name of the codec.
        table: When each frame is shown, and where decoding can start.
        stored_size: Height and width of a frame as stored.
        orientation: How a stored frame is rotated for display.
        damage: What is wrong with it, or None.
        offset: Byte offset in its shard, or None for a separate file.
        checked: Whether frames after a seek and time stamps were checked. False for rows of older indexes
            that may be wrong: a reader then reads the file through.
        pixel_aspect: Width of a displayed pixel divided by its height, or None if the row is older than this
            field.
    """

    size: int
    modified: int
    digest: str
    codec: str
    table: FrameTable
    stored_size: tuple[int, int]
    orientation: Orientation
    damage: str | None
    offset: int | None = None
    checked: bool = True
    pixel_aspect: Fraction | None = None

    def member(self, path: Path) -> TarMember | None:
        """Return where the video is in its shard, or None for a separate file."""
        return None if self.offset is None else TarMember(path, self.offset, self.size)

    def to_row(self) -> dict[str, object]:
        """Return the facts as a row of an index, without its column `looks`."""
        table = self.table
        height, width = self.orientation.size(self.stored_size)
        steps = np.diff(table.pts)
        begins = np.flatnonzero(np.diff(steps, prepend=steps[:1] - 1))
        ticks = int(table.pts[-1] - table.pts[0]) + table.last
        duration = float(ticks * table.time_base)
        return {
            "offset": self.offset,
            "size": self.size,
            "modified": self.modified,
            "digest": self.digest,
            "codec": self.codec,
            "frames": len(table.pts),
            "height": height,
            "width": width,
            "rotation": self.orientation.rotation,
            "mirrored": self.orientation.mirrored,
            "pixel_aspect": None if self.pixel_aspect is None else str(self.pixel_aspect),
            "fps": len(table.pts) / duration,
            "duration": duration,
            "time_base": str(table.time_base),
            "first": int(table.pts[0]),
            "steps": steps[begins].tolist(),
            "repeats": np.diff(begins, append=len(steps)).tolist(),
            "last": table.last,
            "counted": table.order is not None,
            "places": None if table.order is None or _plain(table.order) else table.order.tolist(),
            "key_times": table.key_pts.tolist(),
            "key_seeks": table.key_seek.tolist(),
            "damage": self.damage,
            "checked": CHECKS,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> VideoFacts:
        """Return the facts from a row that `to_row` made."""
        steps = np.repeat(_int64s(row["steps"]), _int64s(row["repeats"]))
        pts = np.concatenate([[row["first"]], row["first"] + np.cumsum(steps)]).astype(np.int64)
        orientation = Orientation(row["rotation"], row["mirrored"])
        aspect = row.get("pixel_aspect")
        return cls(
            size=row["size"],
            modified=row["modified"],
            digest=row["digest"],
            codec=row["codec"],
            table=FrameTable(
                pts=pts,
                time_base=Fraction(row["time_base"]),
                last=row["last"],
                key_pts=_int64s(row["key_times"]),
                key_seek=_int64s(row["key_seeks"]),
                order=_order(row, len(pts)),
            ),
            stored_size=orientation.size((row["height"], row["width"])),
            orientation=orientation,
            damage=row["damage"],
            offset=row["offset"],
            pixel_aspect=None if aspect is None else Fraction(aspect),
            checked=row.get("checked") is not None or (not row["counted"] and row["codec"] in SURE_CODECS),
        )


def _plain(order: Int64s) -> bool:
    return bool((order == np.arange(len(order))).all())


def _order(row: Mapping[str, Any], count: int) -> Int64s | None:
    if not row["counted"]:
        return None
    places = row.get("places")
    return np.arange(count, dtype=np.int64) if places is None else _int64s(places)


def _int64s(values: object) -> Int64s:
    return np.array(values, dtype=np.int64)
