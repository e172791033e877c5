"""Fonts that have the characters of class names, for text in pictures and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from unicodedata import bidirectional, category, normalize

import matplotlib as mpl
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont, features

from t3d.errors import printable

_OURS = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Fonts that have a sign for every character, but not its shape; and fonts of colored pictures.
_USELESS = ("lastresort", "adobeblank", "coloremoji", "unifont_upper")


@dataclass(frozen=True)
class Lettering:
    """Text and font of each class name.

    Args:
        texts: Text of each name.
        fonts: Font file of each name.
        replaced: Names that no font on this machine has, with the text that stands for each.
    """

    texts: dict[str, str]
    fonts: dict[str, Path]
    replaced: dict[str, str] = field(default_factory=dict)

    def remark(self) -> str | None:
        """Return one sentence about the names that cannot be drawn; None if there are none."""
        if not self.replaced:
            return None
        listed = ", ".join(f"{text} for {printable(name)}" for name, text in list(self.replaced.items())[:10])
        more = f" and {len(self.replaced) - 10} more" if len(self.replaced) > 10 else ""
        return (
            f"no font on this machine can draw some class names, so the video shows {listed}{more}; install "
            "a font that has them, such as Noto Sans CJK"
        )

    def font(self, name: str, size: int) -> ImageFont.FreeTypeFont:
        """Return the font of a name in a size, in pixels."""
        return _font(self.fonts.get(name, _OURS), size)

    def fitted(self, name: str, size: int, width: float) -> str:
        """Return the text of a name, shortened to a width in pixels."""
        return shortened_to(self.texts.get(name, name), self.font(name, size), width)


def lettering_of(names: Sequence[str]) -> Lettering:
    """Find a font for each class name, first the one that is installed with T3D, then those of the system.

    Args:
        names: Class names. A name that no font has is written as `class N`, with its place among the names.
    """
    texts: dict[str, str] = {}
    fonts: dict[str, Path] = {}
    replaced: dict[str, str] = {}
    shaping = features.check("raqm")
    for number, name in enumerate(names, 1):
        text = normalize("NFC", printable(name))
        needed = {ord(char) for char in text if not char.isspace()}
        font = None
        if shaping or not _needs_shaping(text):
            font = next((path for path in _candidates() if needed <= _characters(path)), None)
        if font is None:
            text, font = f"class {number}", _OURS
            replaced[name] = text
        texts[name], fonts[name] = text, font
    return Lettering(texts, fonts, replaced)


def shortened_to(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return text that is not wider than a number of pixels, with … if it is shortened."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…" if low else ""


def _needs_shaping(text: str) -> bool:
    """Return whether characters change their shape or order next to others, as in Arabic or Devanagari."""
    return any(bidirectional(char) in ("R", "AL") or category(char) in ("Mn", "Mc") for char in text)


def _candidates() -> Iterator[Path]:
    yield _OURS
    yield from _system_fonts()


@cache
def _system_fonts() -> tuple[Path, ...]:
    paths: Iterable[Path] = sorted(
        map(Path, findSystemFonts()), key=lambda path: ("Regular" not in path.stem, path)
    )
    return tuple(path for path in paths if not any(word in path.stem.lower() for word in _USELESS))


@cache
def _characters(path: Path) -> frozenset[int]:
    """Return the characters of a font file; none if it cannot be read."""
    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (RuntimeError, OSError, ValueError):
        return frozenset()


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)
