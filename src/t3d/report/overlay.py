"""Drawing on the frames of a classified video: classes with bars, and a strip of the whole video.

Legend: H height, W width of a frame, N clips, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from t3d.clip import Targets
from t3d.evaluation.result import ClipPrediction
from t3d.evaluation.scores import THRESHOLD
from t3d.evaluation.timeline import borders
from t3d.report.lettering import Lettering, shortened_to

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

_TOP = 3  # classes of a moment, for one label per video
_PALETTE: tuple[Color, ...] = (
    (255, 127, 14),
    (31, 145, 220),
    (60, 190, 60),
    (225, 70, 60),
    (170, 120, 220),
    (190, 140, 110),
    (240, 130, 200),
    (210, 205, 50),
    (40, 205, 220),
    (255, 190, 120),
)
_REST: Color = (150, 150, 150)  # of all other classes
_WHITE = (255, 255, 255, 255)
_DARK = (0, 0, 0, 150)  # below text
_GROUND = (45, 45, 45, 200)  # of the strip
_SHADE = (255, 255, 255, 24)  # the part of a bar that is empty


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels, in proportion to the video.

    Args:
        font: Height of the text.
        margin: Distance from the borders of the frame.
        panel: Width of the panel of classes.
        row: Height of a class in the panel.
        rows: Most classes in the panel.
        strip: Height of the strip of time.
    """

    font: int
    margin: int
    panel: int
    row: int
    rows: int
    strip: int

    @classmethod
    def of(cls, height: int, width: int) -> Layout:
        """Return the sizes for a frame."""
        side = min(height, width)
        font = max(8, round(0.034 * side + 3))
        margin = max(2, font // 2)
        strip = min(max(4, round(0.045 * side)), max(height // 6, 1))
        row = round(1.75 * font)
        rows = max((round(0.6 * height) - strip - margin) // row, 1)
        return cls(font, margin, max(min(width - 2 * margin, 17 * font), 1), row, rows, strip)


class Overlay:
    """Drawing for the frames of one video.

    Args:
        height: Height of the frames.
        width: Width of the frames.
        clips: The clips in their order, N.
        seconds: Length of the video.
        targets: `single`: the three most probable classes of the moment are shown. `multi`: all classes that
            apply.
        lettering: Texts and fonts of the class names.
        threshold: Smallest probability of a class that is shown. Default: none for one label per video, 0.5
            for several.
    """

    def __init__(
        self,
        height: int,
        width: int,
        clips: Sequence[ClipPrediction],
        *,
        seconds: float,
        targets: Targets,
        lettering: Lettering,
        threshold: float | None = None,
    ) -> None:
        self.layout = Layout.of(height, width)
        self._clips = clips
        self._seconds = max(seconds, 1e-9)
        self._most = self.layout.rows if targets == "multi" else min(_TOP, self.layout.rows)
        default = THRESHOLD if targets == "multi" else 0.0
        self._threshold = default if threshold is None else threshold
        self._lettering = lettering
        self._edges = borders(np.array([[clip.start, clip.end] for clip in clips]))
        times: defaultdict[str, float] = defaultdict(float)
        for clip, length in zip(clips, np.diff(self._edges), strict=True):
            times[clip.classes[0]] += float(length)
        for clip in clips[:1]:  # the classes of the panel get colors, too, as far as they go
            for name in clip.classes[: len(_PALETTE)]:
                times[name] += 0.0
        self._colors = dict(zip(sorted(times, key=lambda name: -times[name]), _PALETTE, strict=False))
        self._strip = self._drawn_strip(width)
        self._panel = lru_cache(maxsize=2)(self._drawn_panel)

    def draw(self, image: Picture, seconds: float) -> None:
        """Draw onto a frame, uint8 H W 3.

        Args:
            image: The frame, which is changed.
            seconds: When it is shown, from the first frame.
        """
        margin, strip = self.layout.margin, self.layout.strip
        _blend(image, self._panel(self.clip_at(seconds)), top=margin, left=margin)
        top = image.shape[0] - strip
        _blend(image, self._strip, top=top, left=0)
        width = image.shape[1]
        thick = max(round(strip / 6), 1)
        at = min(round(width * seconds / self._seconds), width - 1)
        image[top:, max(at - thick, 0) : at + thick + 1] = 0
        image[top:, max(at - thick // 2, 0) : at - thick // 2 + thick] = 255

    def clip_at(self, seconds: float) -> int:
        """Return the number of the clip that is nearest to a time."""
        place = int(np.searchsorted(self._edges, seconds, side="right")) - 1
        return min(max(place, 0), len(self._clips) - 1)

    def shown(self, number: int) -> list[tuple[str, float]]:
        """Return the classes that the panel shows during a clip, with their probabilities."""
        return self._clips[number].top(self._most, threshold=self._threshold)

    def color(self, name: str) -> Color:
        """Return the color of a class, the same in the panel and in the strip."""
        return self._colors.get(name, _REST)

    def _drawn_panel(self, number: int) -> Picture:
        """Return the panel of a clip, RGBA."""
        look, pairs = self.layout, self.shown(number)
        pad = max(look.font // 4, 1)
        height = max(len(pairs), 1) * look.row + pad
        panel = Image.new("RGBA", (look.panel, height), _DARK)
        pen = ImageDraw.Draw(panel)
        if not pairs:
            font = self._lettering.font("", look.font)
            text = shortened_to(f"none above {self._threshold:.0%}", font, look.panel - 2 * pad)
            pen.text((pad, pad), text, fill=_WHITE, font=font)
        for place, (name, prob) in enumerate(pairs):
            top = place * look.row + pad
            numbers = self._lettering.font("", look.font)
            share = f"{prob:.0%}"
            left = look.panel - pad - numbers.getlength(share)
            if left >= 6 * look.font:
                pen.text((left, top + look.font), share, fill=_WHITE, font=numbers, anchor="ls")
            else:
                left = look.panel  # too narrow for both: the bar has to do
            text = self._lettering.fitted(name, look.font, left - 2 * pad)
            font = self._lettering.font(name, look.font)
            pen.text((pad, top + look.font), text, fill=_WHITE, font=font, anchor="ls")
            bottom = top + look.row - pad
            bar = bottom - max(look.row - round(1.3 * look.font) - pad, 2)
            length = look.panel - 2 * pad
            if length > 0:
                pen.rectangle((pad, bar, pad + length, bottom - 1), fill=_SHADE)
            if (filled := round(length * min(prob, 1.0))) > 0:
                pen.rectangle((pad, bar, pad + filled, bottom - 1), fill=(*self.color(name), 255))
        return np.array(panel)

    def _drawn_strip(self, width: int) -> Picture:
        """Return the strip, RGBA: in each column the most probable class, as high as it is probable."""
        height = self.layout.strip
        strip = np.zeros((height, width, 4), np.uint8)
        strip[:] = _GROUND
        places = (np.arange(width) + 0.5) / width * self._seconds
        for column, number in enumerate(map(self.clip_at, places)):
            clip = self._clips[number]
            filled = max(round(height * min(clip.probs[0], 1.0)), 1)
            strip[height - filled :, column] = (*self.color(clip.classes[0]), 255)
        return strip


def _blend(image: Picture, picture: Picture, *, top: int, left: int) -> None:
    """Put a picture RGBA onto an image RGB, as far as it fits."""
    place = image[top : top + picture.shape[0], left : left + picture.shape[1]]
    part = picture[: place.shape[0], : place.shape[1]]
    share = part[..., 3:].astype(np.uint16)
    mixed = (part[..., :3] * share + place * (255 - share) + 127) // 255
    place[:] = mixed.astype(np.uint8)
