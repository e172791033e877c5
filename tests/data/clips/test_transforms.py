from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from t3d.clip import ClipSpec
from t3d.data.clips.transforms import (
    _random_box,
    center_view,
    crop_views,
    normalize,
    random_view,
    resize_frames,
    resized_shape,
    stack,
)
from t3d.data.config import AugmentConfig
from t3d.errors import ConfigError

PLAIN = AugmentConfig(flip=0.0)


def places(height: int, width: int, *, frames: int = 1) -> torch.Tensor:
    """Frames whose pixels say where they are: red is the row, green the column, blue the frame."""
    rows = torch.arange(height).view(1, height, 1).expand(frames, height, width)
    columns = torch.arange(width).view(1, 1, width).expand(frames, height, width)
    number = torch.arange(frames).view(frames, 1, 1).expand(frames, height, width)
    return torch.stack([rows, columns, number], 1).to(torch.uint8)  # T C H W


def noise(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def square(size: int, *, resize: int | None = None) -> ClipSpec:
    return ClipSpec(num_frames=2, size=size, resize=resize or size)


@pytest.mark.parametrize(
    ("height", "width"),
    [(240, 320), (320, 240), (97, 131), (131, 97), (64, 64), (50, 2000), (2000, 50), (1, 9)],
)
def test_the_short_side_becomes_what_is_asked_and_the_shape_stays(height: int, width: int) -> None:
    spec = ClipSpec(size=16, resize=56)
    new_height, new_width = resized_shape(height, width, spec)
    assert min(new_height, new_width) == 56
    assert (new_height >= new_width) == (height >= width)
    # Rounding the long side may move its ratio by half a pixel, no more.
    assert abs(max(new_height, new_width) - 56 * max(height, width) / min(height, width)) <= 0.5
    assert resize_frames(noise(2, height, width), spec).shape == (2, 3, new_height, new_width)


def test_square_gives_up_the_shape() -> None:
    spec = ClipSpec(size=16, resize=40, resize_mode="square")
    assert resize_frames(noise(3, 50, 90), spec).shape == (3, 3, 40, 40)


@pytest.mark.parametrize(("height", "width", "resize"), [(90, 120, 45), (60, 41, 23), (30, 40, 77)])
def test_resizing_is_antialiased_bilinear(height: int, width: int, resize: int) -> None:
    frames = noise(2, height, width)
    spec = ClipSpec(size=8, resize=resize)
    shape = resized_shape(height, width, spec)
    exact = F.interpolate(frames.double(), shape, mode="bilinear", antialias=True, align_corners=False)
    off = (resize_frames(frames, spec).double() - exact).abs()
    assert off.max() <= 1  # of 255, by rounding twice


def test_frames_of_the_right_size_are_left_alone() -> None:
    frames = noise(2, 32, 48)
    assert resize_frames(frames, ClipSpec(size=8, resize=32)) is frames


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 60), (61, 40), (41, 43), (40, 200), (200, 40)])
def test_the_five_crops_are_the_corners_and_the_center(height: int, width: int) -> None:
    spec = square(33)
    seen = set()
    for seed in range(100):
        view = random_view(places(height, width), spec, augment=PLAIN, rng=np.random.default_rng(seed))
        assert view.shape == (1, 3, 33, 33)
        seen.add((int(view[0, 0, 0, 0]), int(view[0, 1, 0, 0])))
        # Nothing but a shift: rows and columns go up by one.
        assert torch.equal(view[0, :2] - view[0, :2, :1, :1], places(33, 33)[0, :2])
    bottom, right = height - 33, width - 33
    corners = {(top, left) for top in (0, bottom) for left in (0, right)}
    view = center_view(places(height, width), spec)
    center = (int(view[0, 0, 0, 0]), int(view[0, 1, 0, 0]))
    assert abs(center[0] - bottom / 2) <= 0.5
    assert abs(center[1] - right / 2) <= 0.5
    assert seen == corners | {center}


def corner_of(view: torch.Tensor) -> tuple[int, int]:
    return int(view[0, 0, 0, 0]), int(view[0, 1, 0, 0])


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 61), (61, 40), (33, 70), (200, 33)])
def test_three_crops_lie_along_the_longer_side(height: int, width: int) -> None:
    spec = square(33)
    views = list(crop_views(places(height, width), spec, crops=3))
    (top, left), center, (bottom, right) = map(corner_of, views)
    assert center == corner_of(center_view(places(height, width), spec))
    if height > width:
        assert (top, bottom, {left, right}) == (0, height - 33, {center[1]})
    else:
        assert (left, right, {top, bottom}) == (0, width - 33, {center[0]})
    for view in views:
        assert torch.equal(view[0, :2] - view[0, :2, :1, :1], places(33, 33)[0, :2])


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (33, 70)])
def test_five_crops_are_corners_and_center_and_ten_their_mirror_images_too(height: int, width: int) -> None:
    frames, spec = places(height, width, frames=3), square(33)
    bottom, right = height - 33, width - 33
    ten = list(crop_views(frames, spec, crops=10))
    five = list(crop_views(frames, spec, crops=5))
    assert sorted(map(corner_of, five[:4])) == sorted([(0, 0), (0, right), (bottom, 0), (bottom, right)])
    assert torch.equal(five[4], center_view(frames, spec))
    assert len(ten) == 10
    for k, view in enumerate(five):
        assert torch.equal(ten[k], view)
        assert torch.equal(ten[k + 5], torch.from_numpy(view.numpy()[..., ::-1].copy()))


def test_every_crop_is_packed_and_one_crop_is_the_center() -> None:
    frames, spec = noise(4, 40, 56), square(32)
    (only,) = crop_views(frames, spec, crops=1)
    assert torch.equal(only, center_view(frames, spec))
    for view in crop_views(frames, spec, crops=10):
        assert view.shape == (4, 3, 32, 32)
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.untyped_storage().nbytes() == view.numel()


def test_the_five_crops_are_equally_frequent() -> None:
    frames, spec, rng = places(40, 60), square(20), np.random.default_rng(1)
    views = [random_view(frames, spec, augment=PLAIN, rng=rng)[0, :2, 0, 0].tolist() for _ in range(2000)]
    _, counts = np.unique(views, axis=0, return_counts=True)
    assert len(counts) == 5
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("crop", ["five", "random_resized"])
def test_flips_have_the_stated_probability(crop: str, probability: float) -> None:
    augment = AugmentConfig(crop=crop, flip=probability)  # type: ignore[arg-type]
    frames, rng, draws = places(24, 24), np.random.default_rng(2), 1500
    flips = 0
    for _ in range(draws):
        columns = random_view(frames, square(16), augment=augment, rng=rng)[0, 1, 0].tolist()
        flips += columns[0] > columns[-1]
    if probability in (0.0, 1.0):
        assert flips == probability * draws
    assert stats.binomtest(flips, draws, probability).pvalue > 1e-3


def test_a_flip_mirrors_and_does_nothing_else() -> None:
    frames = noise(3, 16, 16)
    flipped = random_view(frames, square(16), augment=AugmentConfig(flip=1.0), rng=np.random.default_rng(0))
    assert torch.equal(flipped, frames.flip(-1))


ALL = AugmentConfig(crop="random_resized", min_area=0.2, flip=0.5, color=0.4)


def test_a_view_follows_from_the_generator_alone() -> None:
    frames, spec = noise(4, 40, 56), square(32)
    torch.manual_seed(1)
    np.random.seed(1)  # the global generators must not matter
    first = random_view(frames, spec, augment=ALL, rng=np.random.default_rng(7))
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first, random_view(frames, spec, augment=ALL, rng=np.random.default_rng(7)))
    others = [random_view(frames, spec, augment=ALL, rng=np.random.default_rng(seed)) for seed in range(5)]
    assert all(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize("augment", [AugmentConfig(), ALL, AugmentConfig(color=0.9)])
def test_all_frames_of_a_clip_change_in_the_same_way(augment: AugmentConfig) -> None:
    still = noise(1, 40, 56).expand(6, -1, -1, -1)
    for seed in range(20):
        view = random_view(still, square(32), augment=augment, rng=np.random.default_rng(seed))
        assert torch.equal(view, view[:1].expand_as(view))


def test_a_frame_changes_the_same_regardless_of_other_frames() -> None:
    clip = noise(6, 40, 56)
    whole = random_view(clip, square(32), augment=ALL, rng=np.random.default_rng(3))
    for i in range(6):
        alone = random_view(clip[i : i + 1], square(32), augment=ALL, rng=np.random.default_rng(3))
        assert torch.equal(alone[0], whole[i])


def test_input_frames_are_not_modified() -> None:
    frames = noise(4, 40, 56)
    before = frames.clone()
    for seed in range(10):
        random_view(frames, square(32), augment=ALL, rng=np.random.default_rng(seed))
        center_view(frames, square(32))
    normalize(frames[None], ClipSpec())
    assert torch.equal(frames, before)


def test_without_color_no_pixel_value_is_touched() -> None:
    frames, spec = noise(2, 30, 44), square(20)
    windows = {
        frames[..., top : top + 20, left : left + 20].numpy().tobytes()
        for top in range(11)
        for left in range(25)
    }
    windows |= {
        frames[..., top : top + 20, left : left + 20].flip(-1).contiguous().numpy().tobytes()
        for top in range(11)
        for left in range(25)
    }
    for seed in range(20):
        view = random_view(frames, spec, augment=AugmentConfig(), rng=np.random.default_rng(seed))
        assert view.contiguous().numpy().tobytes() in windows


def test_color_scales_brightness_by_factors_within_its_strength() -> None:
    gray = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)  # contrast and saturation leave plain gray alone
    augment = AugmentConfig(flip=0.0, color=0.4)
    rng = np.random.default_rng(0)
    values = [int(random_view(gray, square(8), augment=augment, rng=rng)[0, 0, 0, 0]) for _ in range(400)]
    # Each of the three changes rounds down.
    assert 57 <= min(values) < 65
    assert 135 < max(values) <= 140
    assert stats.kstest([(value + 1) / 100 for value in values], stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(40, 40), (32, 400), (400, 32), (33, 250), (32, 43)])
def test_a_random_box_is_in_the_picture_and_is_as_large_as_asked(height: int, width: int) -> None:
    augment = AugmentConfig(crop="random_resized", min_area=0.3, flip=0.0)
    frames, spec, rng = places(height, min(width, 250)), square(32), np.random.default_rng(4)
    height, width = frames.shape[-2:]
    for _ in range(300):
        view = random_view(frames, spec, augment=augment, rng=rng)[0].double()
        assert view.shape == (3, 32, 32)
        # Rows and columns of the box, read off its own pixels: the outer ones are 0.5 steps inside.
        extents = []
        for plane, axis, whole in ((view[0], 0, height), (view[1], 1, width)):
            line = plane.mean(1 - axis)
            step = float(line[-2] - line[1]) / 29
            assert 0 <= line.min() <= line.max() <= whole - 1
            extents.append(32 * step)
        if max(height, width) <= 4 / 3 * min(height, width):
            assert 0.3 * 0.85 <= extents[0] * extents[1] / (height * width) <= 1.1
        assert 3 / 4 * 0.9 <= extents[1] / extents[0] <= 4 / 3 * 1.1


def test_random_boxes_reach_every_edge_and_none_beyond() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((20, 24), (12, 90), (90, 12), (1, 7)):
        boxes = np.array([_random_box(height, width, 0.3, rng) for _ in range(3000)])
        top, left, h, w = boxes.T
        assert boxes[:, :2].min() >= 0
        assert boxes[:, 2:].min() >= 1
        assert (top + h).max() <= height
        assert (left + w).max() <= width
        if height == 20:
            assert top.min() == left.min() == 0
            assert ((top + h).max(), (left + w).max()) == (height, width)
            # Every position of a box is equally likely.
            place = (top + rng.uniform(size=3000)) / (height - h + 1)
            assert stats.kstest(place, "uniform").pvalue > 1e-3
    assert _random_box(10, 1000, 0.9, rng) == (0, 495, 10, 10)  # no such box: the largest square


def test_normalize_matches_numpy() -> None:
    clips = torch.stack([noise(5, 12, 14, seed) for seed in range(3)])  # B T C H W
    spec = ClipSpec(mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.9))
    x = normalize(clips, spec)
    scaled = clips.numpy().astype(np.float64) / 255
    expected = (scaled - np.array(spec.mean).reshape(3, 1, 1)) / np.array(spec.std).reshape(3, 1, 1)
    assert x.shape == (3, 3, 5, 12, 14)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(x.numpy(), expected.transpose(0, 2, 1, 3, 4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.1}, {"flip": -0.1}, {"min_area": 0}, {"color": 1.0}, {"color": float("nan")}]
)
def test_variations_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"augment.{next(iter(wrong))} is"):
        AugmentConfig(**wrong)  # type: ignore[arg-type]


# --- modality --------------------------------------------------------------------------------------------


def test_differences_show_only_what_moves() -> None:
    clips = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    spec = ClipSpec(modality="diff", std=(0.5, 0.25, 0.2))
    x = normalize(clips, spec)
    assert x.shape == (2, 3, 4, 5, 6)
    for b in range(2):
        for c in range(3):
            assert torch.equal(x[b, c, 0], torch.zeros(5, 6))
            for t in range(1, 4):
                now, before = clips[b, t, c].double(), clips[b, t - 1, c].double()
                expected = (now - before) / 255 / spec.std[c]
                torch.testing.assert_close(x[b, c, t].double(), expected, atol=1e-5, rtol=0)
    still = clips[:, :1].expand(-1, 4, -1, -1, -1)
    assert not normalize(still, spec).any()


def test_gray_is_the_same_in_all_channels() -> None:
    clips = torch.randint(0, 256, (1, 2, 3, 4, 4), dtype=torch.uint8)
    spec = ClipSpec(modality="gray")
    x = normalize(clips, spec)[0].double()
    red, green, blue = clips[0].double().div(255).unbind(1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue  # T H W
    for c in range(3):
        torch.testing.assert_close(x[c], (gray - spec.mean[c]) / spec.std[c], atol=1e-5, rtol=0)


def test_stack_joins_clips_without_turning_them_round() -> None:
    clips = [noise(4, 6, 5, seed=seed).contiguous(memory_format=torch.channels_last) for seed in range(3)]
    joined = stack(clips)
    assert torch.equal(joined, torch.stack(clips))
    assert joined.permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.parametrize("crop", ["five", "random_resized"])
def test_views_are_contiguous_regardless_of_memory_layout(crop) -> None:
    spec = square(16, resize=20)
    frames = noise(4, 20, 30)
    packed = frames.contiguous(memory_format=torch.channels_last)
    augment = AugmentConfig(crop=crop, color=0.4)
    views = [random_view(x, spec, augment=augment, rng=np.random.default_rng(3)) for x in (frames, packed)]
    views += [center_view(x, spec) for x in (frames, packed)]
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[2], views[3])
    for view in views:
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.untyped_storage().nbytes() == view.numel()
