"""Draw a synthetic video: a patterned object whose motion is the label, in a grayish, shaking scene.

The frame is a torus: what leaves at one edge comes back at the other. The object starts anywhere with equal
probability and nothing but its velocity depends on the motion class, so the picture in any single frame has
the same distribution for every class. Only time can tell the classes apart.

Legend: T frames, H height, W width (H = W = `spec.size`), positions are (x, y) in pixels, y downwards.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from t3d.errors import ConfigError, did_you_mean

Split = Literal["train", "val", "test"]
Track = npt.NDArray[np.float64]
Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Waves = Callable[[Floats, Floats], Floats]  # heights at places (x, y)

SPLITS: tuple[Split, ...] = get_args(Split)

MOTIONS: Mapping[str, str] = MappingProxyType(
    {
        "left": "short",
        "right": "short",
        "clockwise": "middle",
        "anticlockwise": "middle",
        "shake_fast": "middle",
        "shake_slow": "middle",
        "left_then_right": "long",
        "right_then_left": "long",
    }
)
"""The motion classes, and over which span of time each differs from its nearest neighbor."""

APPEARANCES = ("level", "upright", "slanted", "checks", "dots", "zigzag", "rings", "rays")
"""The appearance classes: the object's pattern, in any two colors, whatever the object does."""

ACTIONS = tuple(f"{pattern}_{motion}" for pattern in APPEARANCES for motion in ("left", "right"))
"""The action classes, as of real videos: a thing, which one frame shows, and what it does."""

# All motions share one range of speeds, so that how fast the object moves gives nothing away.
_SPEED = (0.028, 0.038)  # of the frame's side, per frame
_CIRCLE_PERIOD = (12.0, 16.0)  # frames
_FAST_PERIOD = (8.0, 10.0)
_SLOW_PERIOD = (20.0, 24.0)
_TURN = (0.4, 0.6)  # of the video
_TILT = 0.3  # radians off the horizontal
_RADIUS = (0.2, 0.25)  # of the frame's side
_WAVE = (0.1, 0.13)  # of the frame's side: the length of a wave of the pattern


@dataclass(frozen=True)
class SyntheticSpec:
    """Number and properties of the synthetic videos.

    Args:
        train: Training videos of each motion class. A multiple of 8 balances motion × appearance exactly.
        val: Validation videos of each motion class.
        test: Test videos of each motion class.
        frames: Frames in a video, T.
        size: Side of the square frame in pixels; even, because H.264 halves the color.
        fps: Frames per second.
        distractors: Gray moving objects in addition to the patterned one.
        clutter: Gray objects that stand still in the scene.
        camera_shake: The largest step of the scene between two frames, in pixels along each axis.
        seed: Seed of all videos, together with split, motion and index.

    Raises:
        ConfigError: A value that cannot work.

    Example:
        >>> SyntheticSpec(train=8, val=0, test=8).count
        128
    """

    train: int = 48
    val: int = 8
    test: int = 16
    frames: int = 40
    size: int = 80
    fps: int = 25
    distractors: int = 2
    clutter: int = 4
    camera_shake: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"train": 0, "val": 0, "test": 0, "frames": 8, "size": 32, "fps": 1}
        least |= {"distractors": 0, "clutter": 0, "camera_shake": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(
                    f"synthetic.{name} is {value!r}; it must be a whole number of at least {low}"
                )
        if self.size % 2:
            raise ConfigError(f"synthetic.size is {self.size}; it must be even, use {self.size + 1}")
        if self.count == 0:
            raise ConfigError("synthetic.train, synthetic.val and synthetic.test are all 0: nothing to draw")

    def per_class(self, split: Split) -> int:
        """Videos of each motion class in a split.

        Raises:
            ConfigError: An unknown split.
        """
        return (self.train, self.val, self.test)[_split_number(split)]

    @property
    def count(self) -> int:
        """Videos in the whole set."""
        return (self.train + self.val + self.test) * len(MOTIONS)


def motion_track(spec: SyntheticSpec, split: Split, motion: str, index: int) -> Track:
    """Return the patterned object's center in each frame: the ground truth of `draw_video`.

    Args:
        spec: The set.
        split: `train`, `val` or `test`.
        motion: One of `MOTIONS`.
        index: Number of the video in its class, from 0.

    Returns:
        Positions (x, y) on the torus, each in [0, size), camera shake included, float64 [T, 2].

    Raises:
        ConfigError: An unknown split or motion.

    Example:
        >>> motion_track(SyntheticSpec(), "train", "left", 0).shape
        (40, 2)
    """
    return _track(spec, motion, _generator(spec, split, motion, index))[0]


def appearance_of(spec: SyntheticSpec, split: Split, motion: str, index: int) -> str:
    """Return the appearance of a video's object: one of `APPEARANCES`, independent of the motion.

    Every 8 consecutive videos of a class show each appearance once, and the videos of one index show each
    appearance in one class, in an order that differs from split to split.

    Raises:
        ConfigError: An unknown split or motion.

    Example:
        >>> appearance_of(SyntheticSpec(), "test", "clockwise", 3) in APPEARANCES
        True
    """
    which = _motion_number(motion)
    block, place = divmod(index, len(APPEARANCES))
    order = np.random.default_rng((spec.seed, _split_number(split), block)).permutation(len(APPEARANCES))
    return APPEARANCES[int(order[(place + which) % len(APPEARANCES)])]


def draw_video(spec: SyntheticSpec, split: Split, motion: str, index: int) -> Frames:
    """Draw one video; the same arguments give the same bytes.

    Args:
        spec: The set.
        split: `train`, `val` or `test`.
        motion: One of `MOTIONS`.
        index: Number of the video in its class, from 0.

    Returns:
        RGB frames, uint8 [T, 3, H, W].

    Raises:
        ConfigError: An unknown split or motion.

    Example:
        >>> draw_video(SyntheticSpec(), "train", "left", 0).shape
        (40, 3, 80, 80)
    """
    rng = _generator(spec, split, motion, index)
    track, camera = _track(spec, motion, rng)
    pattern = appearance_of(spec, split, motion, index)
    light = _Light(contrast=rng.uniform(0.75, 1.1), brightness=rng.uniform(-22, 22))

    ground = np.rint(_background(spec.size, light, rng)).astype(np.uint8)[None]  # 1 3 H W
    for _ in range(spec.clutter):
        place = rng.uniform(0, spec.size, (1, 2))
        _draw(ground, place, _any_shape(rng), _radius(spec, rng, 0.25), light.gray(rng))

    side = spec.size
    torus = np.tile(ground[0], (2, 2))  # 3 2H 2W
    frames = np.stack([torus[:, y : y + side, x : x + side] for x, y in -camera % side])  # T 3 H W
    for _ in range(spec.distractors):
        path = _distractor_path(spec, rng) + camera
        _draw(frames, path, _any_shape(rng), _radius(spec, rng, 0.4), light.gray(rng))
    radius = _radius(spec, rng)
    ground_color, wave_color = (light.vivid(value, rng) for value in rng.permutation((0.45, 1.0)))
    _draw(frames, track, "disc", radius, ground_color)
    _draw(frames, track, "disc", radius, wave_color, _waves(pattern, spec, rng))
    return frames


def _split_number(split: str) -> int:
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}: {did_you_mean(split, SPLITS)}")
    return SPLITS.index(split)


def _motion_number(motion: str) -> int:
    if motion not in MOTIONS:
        raise ConfigError(f"unknown motion {motion!r}: {did_you_mean(motion, MOTIONS)}")
    return list(MOTIONS).index(motion)


def _generator(spec: SyntheticSpec, split: str, motion: str, index: int) -> np.random.Generator:
    return np.random.default_rng((spec.seed, _split_number(split), _motion_number(motion), index))


def _track(spec: SyntheticSpec, motion: str, rng: np.random.Generator) -> tuple[Track, npt.NDArray[np.int64]]:
    """The object's positions in the frames, and by how much the camera has moved the scene (whole pixels)."""
    start = rng.uniform(0, spec.size, 2)
    camera = np.zeros((spec.frames, 2), dtype=np.int64)
    steps = rng.integers(-spec.camera_shake, spec.camera_shake + 1, (spec.frames - 1, 2))
    camera[1:] = np.cumsum(steps, axis=0)
    path = np.zeros((spec.frames, 2))
    path[1:] = np.cumsum(_velocity(spec, motion, rng)[:-1], axis=0)
    return (start + path + camera) % spec.size, camera


def _velocity(spec: SyntheticSpec, motion: str, rng: np.random.Generator) -> Track:
    """Pixels a frame, [T, 2], constant in length."""
    t = np.arange(spec.frames)
    speed = rng.uniform(*_SPEED) * spec.size
    phase, tilt = rng.uniform(0, 1), rng.uniform(-_TILT, _TILT)
    if motion in ("left", "right"):
        angle = np.full(spec.frames, tilt)
        sign = np.full(spec.frames, 1 if motion == "right" else -1)
    elif motion in ("clockwise", "anticlockwise"):
        # y points down, so a growing angle turns clockwise on the screen.
        sense = 1 if motion == "clockwise" else -1
        angle = sense * 2 * math.pi * (t / rng.uniform(*_CIRCLE_PERIOD) + phase)
        sign = np.ones(spec.frames)
    elif motion in ("shake_fast", "shake_slow"):
        period = rng.uniform(*(_FAST_PERIOD if motion == "shake_fast" else _SLOW_PERIOD))
        angle = np.full(spec.frames, rng.uniform(0, 2 * math.pi))
        sign = np.where((t / period + phase) % 1 < 0.5, 1, -1)
    else:
        turned = t >= rng.uniform(*_TURN) * spec.frames
        angle = np.where(turned, tilt, rng.uniform(-_TILT, _TILT))
        sign = np.where(turned, 1, -1) * (1 if motion == "left_then_right" else -1)
    return (speed * sign)[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _distractor_path(spec: SyntheticSpec, rng: np.random.Generator) -> Track:
    """A jitter or a slow drift in any direction, whatever the class."""
    start = rng.uniform(0, spec.size, 2)
    if rng.random() < 0.5:
        return start + np.cumsum(rng.normal(0, 0.01 * spec.size, (spec.frames, 2)), axis=0)
    angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 1) * _SPEED[0] * spec.size
    direction = np.array((math.cos(angle), math.sin(angle)))
    return start + speed * np.arange(spec.frames)[:, None] * direction


@dataclass(frozen=True)
class _Light:
    """The brightness and contrast of one video."""

    contrast: float
    brightness: float

    def of(self, color: npt.NDArray[np.float64]) -> Floats:
        lit = 128 + self.brightness + self.contrast * (color - 128)
        return np.clip(lit, 0, 255).astype(np.float32)

    def gray(self, rng: np.random.Generator) -> Floats:
        return self.of(rng.uniform(75, 185) + rng.uniform(-8, 8, 3))

    def vivid(self, value: float, rng: np.random.Generator) -> Floats:
        """A color of any hue, dark or bright, far from gray."""
        return self.of(255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), 0.85, value)))


def _background(side: int, light: _Light, rng: np.random.Generator) -> Floats:
    """Smooth noise, stripes or checks in two grayish tones, seamless on the torus, float32 [3, H, W]."""
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    kind = rng.integers(3)
    if kind == 0:
        wave = np.minimum(np.arange(side), side - np.arange(side))
        low_pass = np.exp(-((np.hypot(wave[:, None], wave[None, :]) / rng.uniform(2, 6)) ** 2))
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * low_pass).real
        mix = 0.5 + 0.25 * noise / max(float(noise.std()), 1e-9)
    else:
        # Whole numbers of waves along both sides: no seam where the torus closes.
        a, b = rng.integers(1, 6, 2)
        shift = rng.uniform(0, 2 * math.pi, 2)
        turn = 2 * math.pi / side
        if kind == 1:
            mix = 0.5 + np.sin(turn * (a * x + rng.choice((-1, 1)) * b * y) + shift[0])
        else:
            mix = 0.5 + 3 * np.sin(turn * a * x + shift[0]) * np.sin(turn * b * y + shift[1])
    share: Floats = np.clip(mix, 0, 1).astype(np.float32)  # H W
    return light.gray(rng)[:, None, None] * (1 - share) + light.gray(rng)[:, None, None] * share


def _waves(pattern: str, spec: SyntheticSpec, rng: np.random.Generator) -> Waves:
    """A pattern as heights around its object's center, at any phase; what is above 0 is a crest."""
    turn = 2 * math.pi / (rng.uniform(*_WAVE) * spec.size)
    a, b = rng.uniform(0, 2 * math.pi, 2)
    side = rng.choice((-1, 1))
    waves: Mapping[str, Waves] = {
        "level": lambda _, y: np.sin(turn * y + a),
        "upright": lambda x, _: np.sin(turn * x + a),
        "slanted": lambda x, y: np.sin(turn * (x + side * y) / math.sqrt(2) + a),
        "checks": lambda x, y: np.sin(0.7 * turn * x + a) * np.sin(0.7 * turn * y + b),
        "dots": lambda x, y: np.sin(0.9 * turn * x + a) + np.sin(0.9 * turn * y + b) - 0.8,
        "zigzag": lambda x, y: np.sin(turn * y + a + 2.5 * np.arcsin(np.sin(0.5 * turn * x + b))),
        "rings": lambda x, y: np.sin(turn * np.hypot(x, y) + a),
        "rays": lambda x, y: np.sin(9 * np.arctan2(y, x) + a),
    }
    return waves[pattern]


def _any_shape(rng: np.random.Generator) -> str:
    return ("disc", "cross")[int(rng.integers(2))]


def _radius(spec: SyntheticSpec, rng: np.random.Generator, scale: float = 1.0) -> float:
    return float(rng.uniform(*_RADIUS)) * spec.size * scale


def _draw(
    frames: Frames, centers: Track, shape: str, radius: float, color: Floats, waves: Waves | None = None
) -> None:
    """Paint a shape with soft edges, or its crests alone where it has waves, around the torus.

    Args:
        frames: Painted into, [T, 3, H, W].
        centers: One per frame, [T, 2].
        shape: `disc` or `cross`.
        radius: In pixels.
        color: RGB.
        waves: Of the color, over the shape.
    """
    side = frames.shape[-1]
    reach = np.arange(-math.ceil(1.1 * radius + 1), math.ceil(1.1 * radius + 1) + 1)
    base = np.floor(centers).astype(np.int64)
    x, y = (base[:, axis, None] + reach for axis in (0, 1))  # T P each
    dx = (x - centers[:, :1]).astype(np.float32)[:, None, :]
    dy = (y - centers[:, 1:]).astype(np.float32)[:, :, None]
    if shape == "disc":
        outside = np.hypot(dx, dy) - radius
    else:
        long, wide, across, down = 1.1 * radius, 0.4 * radius, np.abs(dx), np.abs(dy)
        outside = np.minimum(np.maximum(across - long, down - wide), np.maximum(across - wide, down - long))
    cover = np.clip(0.5 - outside, 0, 1).astype(np.float32)  # T P P
    if waves is not None:
        cover *= np.clip(0.5 + 1.5 * waves(dx, dy), 0, 1).astype(np.float32)
    frame, row, column = np.arange(len(frames))[:, None, None], (y % side)[:, :, None], (x % side)[:, None, :]
    for channel in range(3):
        below = frames[frame, channel, row, column]  # T P P
        frames[frame, channel, row, column] = np.rint(below + cover * (color[channel] - below))
