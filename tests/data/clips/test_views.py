from __future__ import annotations

from dataclasses import replace

import pytest

from t3d.clip import ClipSpec
from t3d.data.clips.sampling import clips_of, spread_clips
from t3d.data.clips.views import PAPER_VIEWS, Views
from t3d.errors import ConfigError

SPEC = ClipSpec(num_frames=4, stride=2, size=16, resize=20)


def test_the_papers_views_are_clips_that_do_not_overlap_and_their_centers() -> None:
    assert Views() == PAPER_VIEWS == Views(clips=None, crops=1)
    for total in (1, 7, 40):
        shown = [clip.tolist() for clip in PAPER_VIEWS.clips_of(total, SPEC)]
        assert shown == [clip.tolist() for clip in clips_of(total, SPEC)]


def test_a_number_of_clips_is_spread() -> None:
    shown = [clip.tolist() for clip in Views(clips=5).clips_of(40, SPEC)]
    assert shown == [clip.tolist() for clip in spread_clips(40, SPEC, count=5)]
    assert shown != [clip.tolist() for clip in clips_of(40, SPEC)]


@pytest.mark.parametrize("crops", [-1, 0, 2, 4, 6, 9, 11])
def test_other_numbers_of_crops_are_refused(crops: int) -> None:
    with pytest.raises(ConfigError, match=rf"crops is {crops}; it must be 1 .*, 3 .*, 5 .* or 10"):
        Views(crops=crops)  # type: ignore[arg-type]


@pytest.mark.parametrize("clips", [0, -3])
def test_less_than_a_clip_is_refused(clips: int) -> None:
    with pytest.raises(ConfigError, match=f"clips is {clips}; it must be at least 1"):
        Views(clips=clips)


def test_segments_give_one_clip_which_may_be_cropped() -> None:
    segments = replace(SPEC, segments=3)
    Views(crops=10).check(segments)
    with pytest.raises(ConfigError, match=r"clips is 10, but this model sees 3 segments.*leave clips out"):
        Views(clips=10).check(segments)


def test_crops_of_squares_without_a_margin_are_refused() -> None:
    for mode, resize, refused in (("square", 16, True), ("square", 20, False), ("short_side", 16, False)):
        spec = replace(SPEC, resize_mode=mode, resize=resize)  # type: ignore[arg-type]
        Views(clips=10).check(spec)
        if refused:
            with pytest.raises(ConfigError, match=r"crops is 3.* 16 × 16 .*one place to crop"):
                Views(clips=10, crops=3).check(spec)
        else:
            Views(clips=10, crops=3).check(spec)
