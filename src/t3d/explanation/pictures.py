"""Pictures of explanations: frames with heat, and a contact sheet of them.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Images = npt.NDArray[np.uint8]
_LEAST = 1 / 3  # heat below which nothing is drawn
_STRONGEST = 0.65  # opacity of the color at heat 1
_PER_CLIP = 8  # frames of a clip in the sheet
_SIDE = 144  # largest side of a frame in the sheet, in pixels
_GAP = 4


class PicturedClip(Protocol):
    """Frames of a clip with heat, see `t3d.explanation.result.ClipExplanation`."""

    @property
    def frames(self) -> Images:
        """Pictures, uint8 [T, H, W, 3]."""
        ...

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds, [T]."""
        ...

    @property
    def heat(self) -> npt.NDArray[np.float32] | None:
        """In [0, 1], [T, H, W]."""
        ...


def with_heat(images: Images, heat: npt.NDArray[np.float32]) -> Images:
    """Return pictures with heat drawn onto them: nothing below a third, and from purple to yellow at 1.

    The opacity rises with the heat, so that the picture below stays visible.

    Args:
        images: RGB, uint8 [..., H, W, 3].
        heat: In [0, 1], [..., H, W].
    """
    above = np.clip((heat - _LEAST) / (1 - _LEAST), 0, 1)
    levels = (above * 255).astype(np.uint8)
    opacity = (_STRONGEST * above)[..., None]
    mixed = images * (1 - opacity) + _colors()[levels] * opacity
    return np.round(mixed).astype(np.uint8)


@cache
def _colors() -> Images:
    """Return the color of each level of heat, uint8 [256, 3]."""
    from matplotlib import colormaps

    # The darkest colors of the map would look like shadows.
    return np.round(255 * colormaps["inferno"](np.linspace(0.35, 1, 256))[:, :3]).astype(np.uint8)


def pictures_of(clip: PicturedClip, count: int) -> list[tuple[float, Image.Image]]:
    """Return frames that are spread over a clip, with their heat, and the time of each in seconds.

    Args:
        clip: The clip.
        count: Number of frames. Shorter clips have fewer.
    """
    places = np.unique(np.linspace(0, len(clip.frames) - 1, count).round().astype(int))
    images = clip.frames[places]
    if clip.heat is not None:
        images = with_heat(images, clip.heat[places])
    return [
        (float(clip.times[place]), Image.fromarray(image))
        for place, image in zip(places, images, strict=True)
    ]


@cache
def heat_legend() -> str:
    """Return a picture of the colors from no heat to the strongest, on gray, as a data URI."""
    heat = np.tile(np.linspace(0, 1, 180, dtype=np.float32), (12, 1))
    strip = with_heat(np.full((12, 180, 3), 128, np.uint8), heat)
    return picture_uri(Image.fromarray(strip), side=180)


def contact_sheet(clips: Sequence[PicturedClip]) -> Image.Image:
    """Return a picture with one row of frames per clip, with their heat."""
    rows = [[image for _, image in pictures_of(clip, _PER_CLIP)] for clip in clips]
    side = min(rows[0][0].width, _SIDE)
    columns = max(map(len, rows))
    size = (columns * (side + _GAP) - _GAP, len(rows) * (side + _GAP) - _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            sheet.paste(image.resize((side, side)), (column * (side + _GAP), row * (side + _GAP)))
    return sheet


def picture_uri(image: Image.Image, *, side: int = _SIDE) -> str:
    """Return a picture as WebP in a data URI.

    Args:
        image: The picture.
        side: Largest width and height in pixels; larger pictures are reduced.
    """
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=60)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
