"""Folders of images as videos, against Pillow's pixels."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.dataset import ClipItem, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.listing import videos_below
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, VideoError
from t3d.prepare.index import index_videos
from t3d.video.image_names import are_frames, file_state, image_names, images_digest, is_image_folder
from t3d.video.limits import ReadLimits
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")


def pictures(count: int, *, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Pictures with a gradient, each brighter than the one before."""
    x = np.linspace(0, 60, width, dtype=np.uint8)[None, :, None]
    return [np.broadcast_to(x + 20 * i, (height, width, 3)).astype(np.uint8) for i in range(count)]


def frames_in(folder: Path, names: list[str], **options: object) -> list[np.ndarray]:
    """Write numbered pictures under these names, in order."""
    folder.mkdir(parents=True)
    images = pictures(len(names))
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name, **options)  # type: ignore[arg-type]
    return images


def rgb(video: Video) -> np.ndarray:
    return video[:].permute(0, 2, 3, 1).numpy()


@pytest.mark.situation(
    "Image sequences",
    "Folders of frames instead of video files",
    "One video per folder, in natural order",
)
@pytest.mark.parametrize(
    ("ending", "options", "slack"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tif", {}, 0),
        ("ppm", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 95, "subsampling": 0}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
    ],
)
@pytest.mark.parametrize("pattern", ["img_{:05}", "{}", "a 1 frame{:02}"])
def test_a_folder_of_images_is_a_video(
    tmp_path: Path, ending: str, options: dict[str, object], slack: int, pattern: str
) -> None:
    names = [f"{pattern.format(i)}.{ending}" for i in range(8, 12)]
    images = frames_in(tmp_path / "film", names, **options)
    (tmp_path / "film" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "film" / "Thumbs.db").write_bytes(b"x")
    with Video(tmp_path / "film") as video:
        assert (len(video), video.height, video.width, video.damage) == (4, 32, 48, None)
        assert video.times.tolist() == [0, 0.04, 0.08, 0.12]
        assert (video.duration, video.metadata.average_fps) == (0.16, 25)
        assert np.abs(rgb(video).astype(int) - np.stack(images)).max() <= slack
        for order in ([3, 0, 0, 2], [1], []):
            got = video.frames_at(order)
            assert got.shape == (len(order), 3, 32, 48)
            assert torch.equal(got, video[:][order])
        again = pickle.loads(pickle.dumps(video))
        assert torch.equal(again[:], video[:])
        assert torch.equal(video.frames_played_in(0.05, 0.1).data, video[1:3])


def test_the_rate_is_an_option(tmp_path: Path) -> None:
    frames_in(tmp_path / "film", [f"{i}.png" for i in range(6)])
    video = Video(tmp_path / "film", image_fps=30000 / 1001)
    assert video.times[3] == pytest.approx(3 * 1001 / 30000)
    assert video.metadata.average_fps == pytest.approx(29.97, abs=1e-3)
    for rate in (0, 1e-9, float("nan")):
        with pytest.raises(ConfigError, match=rf"image_fps is {rate}"):
            Video(tmp_path / "film", image_fps=rate)


@pytest.mark.situation(
    "Image sequences",
    "Numbers without padding, or with gaps",
    "Sorted as numbers; gaps are noted",
)
def test_numbers_count_as_numbers_and_gaps_are_damage(tmp_path: Path) -> None:
    names = ["f1.png", "f2.png", "f9.png", "f10.png", "f11.png", "f100.png"]
    frames_in(tmp_path / "film", names)
    assert image_names(tmp_path / "film") == names
    assert Video(tmp_path / "film").damage == (
        "94 images are missing between f2.png and f9.png and at 1 other places"
    )
    frames_in(tmp_path / "every_second", ["b_010.png", "b_012.png", "b_014.png"])
    assert Video(tmp_path / "every_second").damage is None
    frames_in(tmp_path / "no_numbers", ["a.png", "b.png"])
    assert Video(tmp_path / "no_numbers").damage is None


@pytest.mark.situation(
    "Image sequences",
    "Images of different sizes",
    "Scaled to the first; noted",
)
def test_images_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    frames_in(tmp_path / "film", ["1.png", "2.png", "3.png"])
    Image.fromarray(pictures(2, height=64, width=96)[1]).save(tmp_path / "film" / "2.png")
    video = Video(tmp_path / "film")
    assert video[1].shape == (3, 32, 48)
    assert np.abs(rgb(video)[1].astype(int) - pictures(2)[1]).max() <= 3
    assert video.damage == (
        "images of different sizes: 2.png is 96 × 64, the first is 48 × 32; all are scaled to the first"
    )


def test_alpha_palettes_and_gray_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    image = Image.fromarray(pictures(2)[1])
    for number, mode in enumerate(["RGB", "RGBA", "L", "P", "1"]):
        image.convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "film" / f"{number}.png")
    video = rgb(Video(tmp_path / "film")).astype(int)
    assert np.abs(video[1] - pictures(2)[1]).max() == 0
    assert np.abs(video[2:4] - pictures(2)[1]).max() <= 8
    assert set(np.unique(video[4])) <= {0, 255}


@pytest.mark.situation(
    "Image sequences",
    "Images rotated by an EXIF tag",
    "Displayed upright",
)
@pytest.mark.parametrize("tag", range(1, 9))
def test_images_are_turned_by_their_exif_tag(tmp_path: Path, tag: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (2, 3, 3)).astype(np.uint8)
    image = Image.fromarray(coarse.repeat(16, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[0x0112] = tag
    (tmp_path / "film").mkdir()
    for number in range(2):
        image.save(tmp_path / "film" / f"{number}.jpg", exif=exif, quality=95, subsampling=0)
    want = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "film/0.jpg")))
    video = Video(tmp_path / "film")
    assert (video.height, video.width) == want.shape[:2]
    assert np.abs(rgb(video)[1].astype(int) - want).mean() < 3


def test_folders_that_are_not_videos_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="is a folder, not a video file; a folder of at least 2 images"):
        Video(tmp_path / "empty")
    frames_in(tmp_path / "one", ["a.png"])
    with pytest.raises(VideoError, match="has 1 images"):
        Video(tmp_path / "one")
    frames_in(tmp_path / "mixed", ["a.png", "b.png"])
    (tmp_path / "mixed" / "notes.txt").touch()
    with pytest.raises(VideoError, match=r"holds 'notes\.txt'"):
        Video(tmp_path / "mixed")
    assert not any(is_image_folder(tmp_path / name) for name in ("empty", "one", "mixed", "missing"))
    assert are_frames(["a.png", "b.jpg"])


@pytest.mark.situation(
    "Image sequences",
    "One unreadable image",
    "The error names it",
)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not an image that can be read"),
        (b"text", "is not an image that can be read"),
        (b"\x89PNG\r\n\x1a\nrest", r"cannot be decoded|holds no picture"),
    ],
)
def test_one_bad_image_is_reported_and_the_others_are_read(tmp_path: Path, content: bytes, says: str) -> None:
    frames_in(tmp_path / "film", [f"{i}.png" for i in range(4)])
    (tmp_path / "film" / "2.png").write_bytes(content)
    video = Video(tmp_path / "film")
    with pytest.raises(VideoError, match=rf"film: 2\.png: .*({says})"):
        video.frames_at([1, 2])
    assert video.frames_at([3, 0]).shape == (2, 3, 32, 48)


def test_a_listing_takes_a_subfolder_of_images_as_one_video(tmp_path: Path) -> None:
    for name in ("a/one", "a/two", "b/three"):
        frames_in(tmp_path / "set" / name, [f"img_{i:03}.png" for i in range(9, 12)])
    (tmp_path / "set/b/four.mp4").touch()
    frames_in(tmp_path / "set/b/posters", ["x.png", "y.png"])
    (tmp_path / "set/b/posters/z.txt").touch()
    videos, skipped = videos_below(str(tmp_path / "set"))
    assert videos == ["a/one", "a/two", "b/four.mp4", "b/three"]
    assert skipped == {".png": 2, ".txt": 1}
    manifest = Manifest.from_folder(tmp_path / "set")
    assert manifest.class_counts() == {"a": 2, "b": 2}
    (alone,) = Manifest.from_files([tmp_path / "set/a/one"])
    assert alone.path == tmp_path / "set/a/one"


def test_clips_of_image_folders_with_and_without_a_cache(tmp_path: Path) -> None:
    frames_in(tmp_path / "film", [f"{i}.png" for i in range(11)])
    manifest = Manifest.from_files([tmp_path / "film"])
    spec = ClipSpec(num_frames=3, fps=5.0, size=16, resize=16)
    clips = {}
    for fps in (10.0, 15.0):
        plain = FrameStore(spec, image_fps=fps)
        cached = FrameStore(spec, image_fps=fps, cache=str(tmp_path / "cache"))
        assert cached.prepare(tmp_path / "film")
        items = [list(VideoClips(manifest, spec, store=store)) for store in (plain, cached)]
        for one, two in zip(*items, strict=True):
            assert isinstance(one, ClipItem)
            assert isinstance(two, ClipItem)
            assert torch.equal(one.frames, two.frames)
        clips[fps] = len(items[0])
    assert clips == {10.0: 2, 15.0: 1}
    assert len(list((tmp_path / "cache").iterdir())) == 2
    before = images_digest(tmp_path / "film")
    Image.fromarray(pictures(11)[8]).save(tmp_path / "film" / "0.png")
    assert images_digest(tmp_path / "film") != before


def test_transcoding_image_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/one", "b/two"):
        frames_in(tmp_path / "set" / name, [f"{i}.png" for i in range(6)])
    words = [
        "prepare",
        "transcode",
        str(tmp_path / "set"),
        "--out",
        str(tmp_path / "small"),
        "--image-fps",
        "10",
    ]
    assert main(words) == 0
    video = Video(tmp_path / "small/a/one.mp4")
    assert (len(video), video.height, video.width, video.metadata.average_fps) == (6, 32, 48, 10)
    assert np.abs(rgb(video).astype(int) - np.stack(pictures(6))).max() <= 12
    capsys.readouterr()
    assert main(words) == 0
    assert "0 transcoded now" in capsys.readouterr().out
    assert main(["prepare", "transcode", str(tmp_path / "set/a/one"), "--out", str(tmp_path / "single")]) == 0
    assert len(Video(tmp_path / "single/one.mp4")) == 6


@pytest.mark.situation(
    "Image sequences",
    "Folders of frames in an index",
    "Indexed with their rate; every command reads them from it",
)
def test_an_index_describes_folders_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = frames_in(tmp_path / "set/a/one", [f"{number}.png" for number in (2, 1, 3, 4)])
    frames_in(tmp_path / "set/b/two", [f"{number}.png" for number in range(12)])
    (tmp_path / "set/b/two/7.png").write_bytes(b"no image")
    one, index = tmp_path / "set/a/one", tmp_path / "index.parquet"
    words = ["prepare", "index", str(tmp_path / "set"), "--out", str(index), "--json"]

    def report(*options: str) -> dict[str, Any]:
        assert main([*words, *options]) == 0
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    first = report("--image-fps", "10")
    assert (first["frames"], first["seconds"], first["bad"]) == (16, 1.6, [])
    (damaged,) = first["damaged"]
    assert "1 of 12 images cannot be read: 7.png: is not an image" in damaged["reason"]
    assert report()["examined"] == 0  # keeps the rate
    assert report("--image-fps", "20")["examined"] == 2
    known = VideoIndex.read(index)
    facts = known.facts(one)
    assert facts is not None
    with Video(one, facts=facts) as video, Video(one, facts=facts, image_fps=4) as slower:
        assert (video.metadata.average_fps, slower.metadata.average_fps) == (20, 4)
        assert (rgb(video) == np.stack([images[at] for at in (1, 0, 2, 3)])).all()
        assert (video.height, video.width, video.metadata.codec) == (32, 48, "png")
    assert known.digest(one) == images_digest(one)
    Image.fromarray(images[0]).save(one / "5.png")
    assert known.digest(one) is None
    with pytest.raises(
        VideoError, match="has 5 images, and had 4 when it was indexed; run t3d prepare index"
    ):
        Video(one, facts=facts)
    assert report()["examined"] == 1
    assert main(["prepare", "transcode", str(index), "--out", str(tmp_path / "small"), "--json"]) == 1
    capsys.readouterr()
    assert VideoIndex.read(tmp_path / "small/index.parquet").rows([str(tmp_path / "small/a/one.mp4")])[
        "fps"
    ].to_pylist() == [20]
    assert main(["prepare", "shards", str(index), "--out", str(tmp_path / "shards")]) == 2
    assert "is a folder of images; make a video file of it first" in capsys.readouterr().err


def test_the_state_of_a_folder_changes_with_any_of_its_images(tmp_path: Path) -> None:
    frames_in(tmp_path / "film", ["1.png", "2.png"])
    before = file_state(tmp_path / "film")
    assert before[0] == sum((tmp_path / "film" / name).stat().st_size for name in ("1.png", "2.png"))
    image = tmp_path / "film/1.png"
    later = before[1] + 10**9
    os.utime(image, ns=(later, later))  # as if it was written again in place, with the same size
    assert file_state(tmp_path / "film") == (before[0], later)
    assert file_state(image) == (image.stat().st_size, later)
    image.rename(tmp_path / "film/3.png")
    assert file_state(tmp_path / "film")[0] == before[0]


def test_cached_frames_of_indexed_images_depend_on_the_rate(tmp_path: Path) -> None:
    frames_in(tmp_path / "set/a/one", [f"{number}.png" for number in range(6)])
    durations = {}
    for rate in (None, 10.0, 20.0):
        index_videos(
            Manifest.from_folder(tmp_path / "set"), tmp_path / "index.parquet", image_fps=rate, workers=1
        )
        store = FrameStore(
            ClipSpec(num_frames=2, size=16, resize=16, fps=5.0),
            cache=str(tmp_path / "cache"),
            index=VideoIndex.read(tmp_path / "index.parquet"),
        )
        assert store.prepare(tmp_path / "set/a/one")
        durations[rate] = store.open(tmp_path / "set/a/one").duration
    assert durations == {None: 6 / 25, 10.0: 0.6, 20.0: 0.3}


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    frames_in(tmp_path / "film", ["1.png", "2.png", "3.png", "4.png"])
    for number, side in ((2, 60), (3, 3000)):
        Image.new("L", (side, side)).save(tmp_path / f"film/{number}.png")
    Image.new("RGB", (60, 64)).save(tmp_path / "film/4.png", "tiff", compression="jpeg")
    video = Video(tmp_path / "film", limits=ReadLimits(max_megapixels=0.003))
    for number, size in ((1, "60 × 60"), (2, "3000 × 3000"), (3, "60 × 64")):
        with pytest.raises(VideoError, match=rf"{number + 1}.png: frames are {size}, .*`max_megapixels`"):
            video.frames_at([number])


def test_animations(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(image) for image in pictures(5)]
    for name, kind in (("a.apng", "PNG"), ("a.gif", "GIF"), ("a.webp", "WEBP")):
        first.save(tmp_path / name, kind, save_all=True, append_images=rest, duration=100)
    video = Video(tmp_path / "a.apng")
    assert np.array_equal(rgb(video), np.stack(pictures(5)))
    assert video.times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    with pytest.raises(
        VideoError, match=r"a\.webp: is an animated WebP, which FFmpeg cannot decode; convert it"
    ):
        Video(tmp_path / "a.webp")
    assert videos_below(str(tmp_path))[0] == ["a.apng", "a.gif"]


def test_frames_with_an_exif_block_are_read(tmp_path: Path) -> None:
    """PyAV fails to list the side data of such a frame."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in pictures(4):
        Image.fromarray(image).save(tmp_path / "one.jpg", exif=exif, quality=95, subsampling=0)
        with (tmp_path / "film.mjpg").open("ab") as film:
            film.write((tmp_path / "one.jpg").read_bytes())
    assert np.abs(rgb(Video(tmp_path / "film.mjpg")).astype(int) - np.stack(pictures(4))).max() <= 3


@pytest.mark.situation(
    "Image sequences",
    "TIFF images compressed as JPEG",
    "Their own colors",
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff_compressed_as_jpeg_has_its_colors(tmp_path, orientation):
    """FFmpeg takes their luma and chroma for red, green and blue."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24], image[:, 24:] = (200, 30, 40), (20, 60, 220)
    for number in range(2):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(image).save(tmp_path / f"{number}.tif", compression="jpeg", quality=95, exif=exif)
    with Video(tmp_path) as video:
        frame = rgb(video)[1].astype(int)
    wanted = image if orientation == 1 else np.rot90(image, -1)
    assert frame.shape == wanted.shape
    assert np.abs(frame - wanted).mean() < 6


@pytest.mark.parametrize("ending", ["pgm", "ppm"])
def test_gray_pgm_images(tmp_path, ending):
    for number in range(2):
        Image.new("L", (48, 32), 70 + number).save(tmp_path / f"{number}.pgm")
        (tmp_path / f"{number}.pgm").rename(tmp_path / f"{number}.{ending}")
    with Video(tmp_path) as video:
        assert rgb(video)[:, 0, 0].tolist() == [[70] * 3, [71] * 3]
