"""Views of a video that are scored: the number of clips, and of crops per clip.

The paper's protocol, all clips that do not overlap and the center crop of each, is the default. Others take
more views:

- Spread clips: K clips evenly spaced over the video, whatever its length (Wang et al. 2018, "Non-local neural
  networks": 10).
- 3 crops along the longer side (Feichtenhofer et al. 2019, "SlowFast networks": 10 clips × 3 crops, as high
  as the frames are). Here a crop has the size that the net was trained with.
- 5 crops, the corners and the center; 10, these and their mirror images (Simonyan and Zisserman 2014,
  "Two-stream convolutional networks": 25 evenly spaced frames × 10 crops).

I3D (Carreira and Zisserman 2017) is tested by center crops throughout the video, as the paper's nets are.
The probabilities of all views of a video are averaged, each with the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from t3d.clip import ClipSpec
from t3d.data.clips.sampling import Extent, Indices, clips_of, spread_clips
from t3d.errors import ConfigError, at_least

Crops = Literal[1, 3, 5, 10]
FrameOrder = Literal["normal", "shuffled", "reversed", "static"]
"""Order of the frames within each clip. The last three show how much of the accuracy depends on time."""


@dataclass(frozen=True)
class Views:
    """The views of a video that are scored.

    Args:
        clips: Number of clips, spread evenly over each video. By default each video is cut into clips that do
            not overlap.
        crops: Number of crops per clip: 1 (the center), 3 (along the longer side), 5 (corners and center) or
            10 (these and their mirror images).

    Raises:
        ConfigError: A number that is not allowed.

    Example:
        >>> views = Views(clips=3, crops=10)
        >>> [clip.tolist() for clip in views.clips_of(9, ClipSpec(num_frames=2, stride=2))]
        [[0, 2], [3, 5], [6, 8]]
        >>> print(views)
        clips: 3, crops: 10
    """

    clips: int | None = None
    crops: Crops = 1

    def __post_init__(self) -> None:
        if self.clips is not None:
            at_least("clips", self.clips, 1)
        if self.crops not in get_args(Crops):
            raise ConfigError(
                f"crops is {self.crops}; it must be 1 (the center), 3 (along the longer side), 5 (corners "
                "and center) or 10 (these and their mirror images)"
            )

    def __str__(self) -> str:
        return f"clips: {'all' if self.clips is None else self.clips}, crops: {self.crops}"

    def check(self, spec: ClipSpec) -> None:
        """Refuse views that do not go with a clip spec.

        Raises:
            ConfigError: Clips are to be spread over a video that the spec divides into segments, or there is
                nothing to choose crops from.
        """
        if self.clips is not None and spec.segments > 1:
            raise ConfigError(
                f"clips is {self.clips}, but this model sees {spec.segments} segments of a video "
                "(clip.segments) as one clip; leave clips out (crops may be chosen)"
            )
        if self.crops > 1 and spec.resize_mode == "square" and spec.resize == spec.size:
            raise ConfigError(
                f"crops is {self.crops}, and frames are resized to the {spec.size} × {spec.size} pixels of a "
                "crop (clip.resize_mode = square), so that there is one place to crop at; leave crops out"
            )

    def clips_of(self, video: Extent, spec: ClipSpec) -> list[Indices]:
        """The clips of a video, each int64 [S·T].

        Args:
            video: Number of its frames, or their times.
            spec: What a clip is.

        Raises:
            ConfigError: The video is shorter than a clip and `spec.short` is `error`, or it has no frame.
        """
        return clips_of(video, spec) if self.clips is None else spread_clips(video, spec, count=self.clips)


PAPER_VIEWS = Views()
"""All clips that do not overlap, center crop: the paper's protocol, and that of validation and prediction."""
