"""Videos with their classes drawn into them: frames, times and sound of the source, and what is drawn."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.resampler import AudioResampler

from t3d.errors import ConfigError, VideoError
from t3d.evaluation.parts import Part
from t3d.evaluation.result import ClipPrediction, Prediction
from t3d.report.annotated import annotated_files, write_annotated
from t3d.report.lettering import lettering_of, shortened_to
from t3d.report.overlay import Layout, Overlay
from t3d.video.video import Video

NAMES = ("run", "jump", "rest")
LEFT = (0.7, 0.2, 0.1)


def film(
    path: Path,
    ticks: Sequence[int],
    *,
    height: int = 120,
    width: int = 160,
    sound: str | None = "aac",
    sound_starts: float = 0.0,
    pixels: str = "yuv420p",
) -> Path:
    """Write gray frames at these milliseconds, the last one for 40, with a tone under them."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, pixels  # type: ignore[union-attr]
        video.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream(sound, rate=16_000, bit_rate=32_000) if sound else None
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(
                np.full((height, width, 3), 40 + 4 * (number % 40), np.uint8), "rgb24"
            )
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            file.mux(video.encode(frame))
        if audio is not None:
            samples = np.arange(round(16_000 * ticks[-1] / 1000) + 640)
            wave = (8000 * np.sin(samples * 0.2)).astype(np.int16)
            wave[: len(wave) // 2] = 0
            for first in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], "s16", "mono")
                part.sample_rate, part.pts = 16_000, first + round(16_000 * sound_starts)
                part.time_base = Fraction(1, 16_000)
                file.mux(audio.encode(part))
            file.mux(audio.encode(None))
        file.mux(video.encode(None))
    return path


def sound_of(path: Path) -> tuple[list[bytes], list[float]]:
    """Return the packets of the sound, and their times from the first frame."""
    with Video(path) as video:
        first = float(video.first_time)
    with av.open(str(path)) as file:
        packets = [each for each in file.demux(file.streams.audio) if each.size]
        times = [float((each.pts or 0) * (each.time_base or 1)) - first for each in packets]
        return [bytes(each) for each in packets], times


def prediction(path: Path, seconds: float, **options: Any) -> Prediction:
    """A video whose first half shows the first class, and whose second half the last one."""
    half = seconds / 2
    clips = (
        ClipPrediction(0, half, NAMES, LEFT),
        ClipPrediction(half, seconds, NAMES[::-1], (0.9, 0.06, 0.04)),
    )
    return Prediction(str(path), NAMES[::-1], (0.5, 0.4, 0.1), clips=2, per_clip=clips, **options)


EVEN = range(0, 2000, 40)
UNEVEN = [0, 33, 40, 140, 141, 300, 900, 950, 1000, 1800]


@pytest.mark.parametrize("ticks", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("names", [("a.mp4", "b.mp4"), ("a.mkv", "b.mkv"), ("a.mkv", "b.mp4")])
def test_times_and_sound_are_those_of_the_source(
    tmp_path: Path, ticks: Sequence[int], names: tuple[str, str]
) -> None:
    source, target = film(tmp_path / names[0], ticks), tmp_path / "new" / names[1]
    done = write_annotated(prediction(source, 2.0), target)
    assert (done.frames, done.sound, done.remarks) == (len(ticks), ("aac",), ())
    with Video(source) as old, Video(target) as new:
        assert (new.height, new.width) == (old.height, old.width)
        np.testing.assert_allclose(new.times, old.times, atol=1.1e-3, rtol=0)
        assert new.duration == pytest.approx(old.duration, abs=0.045)
    (old_packets, old_times), (new_packets, new_times) = sound_of(source), sound_of(target)
    assert new_packets == old_packets
    np.testing.assert_allclose(new_times, old_times, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("codec", "names"),
    [
        ("wmav2", ("a.avi", "b.mp4")),
        ("wmav2", ("a.wmv", "b.mp4")),
        ("pcm_s16le", ("a.mkv", "b.mp4")),
        ("pcm_s16le", ("a.mkv", "b.webm")),
        ("tta", ("a.mkv", "b.mp4")),
        ("mp2", ("a.avi", "b.webm")),
    ],
)
def test_sound_that_a_file_cannot_hold_is_encoded_again(
    tmp_path: Path, codec: str, names: tuple[str, str]
) -> None:
    source, target = film(tmp_path / names[0], EVEN, sound=codec), tmp_path / "new" / names[1]
    done = write_annotated(prediction(source, 2.0), target)
    assert (done.sound, done.encoded) == ((codec,), (codec,))
    assert done.sound_phrase() == f"sound encoded again ({codec} does not fit this kind of file)"
    (old_start, old_onset, old_end), (new_start, new_onset, new_end) = heard(source), heard(target)
    assert new_onset == pytest.approx(old_onset, abs=0.01)
    assert new_start == pytest.approx(old_start, abs=0.1)  # encoders start with silence
    assert new_end == pytest.approx(old_end, abs=0.1)


def heard(path: Path) -> tuple[float, float, float]:
    """Return when the sound starts, gets loud and ends, in seconds from the first frame."""
    with Video(path) as video:
        first = float(video.first_time)
    start, loud, end = np.inf, np.inf, -np.inf
    mono = AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(str(path)) as file:
        for frame in [part for each in file.decode(audio=0) for part in mono.resample(each)]:
            samples = np.abs(frame.to_ndarray().reshape(-1))
            time = end if frame.pts is None else float(frame.pts * frame.time_base) - first
            start, end = min(start, time), time + frame.samples / 16_000
            if (samples > 0.1).any():
                loud = min(loud, time + np.argmax(samples > 0.1) / 16_000)
    return start, loud, end


@pytest.mark.parametrize("starts", [0.5, 0.0])
def test_sound_stays_in_step(tmp_path: Path, starts: float) -> None:
    """The sound, or the pictures, may start later than the file."""
    ticks = EVEN if starts else [tick + 500 for tick in EVEN]
    source = film(tmp_path / "a.mkv", ticks, sound_starts=starts)
    _, old_times = sound_of(source)
    for name in ("b.mkv", "b.mp4"):
        write_annotated(prediction(source, 2.0), tmp_path / name)
        _, new_times = sound_of(tmp_path / name)
        np.testing.assert_allclose(new_times, old_times, atol=2e-3, rtol=0)
    assert abs(old_times[0] - (0.5 if starts else -0.5)) < 0.08


def test_classes_are_drawn_and_the_rest_of_a_frame_is_kept(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", EVEN, height=240, width=320)
    target = tmp_path / "b.mp4"
    write_annotated(prediction(source, 2.0), target)
    with Video(source) as old, Video(target) as new:
        before, after = (video.images_at([5, 40]).astype(int) for video in (old, new))
    look = Layout.of(240, 320)
    change = np.abs(after - before).max(3)
    bottom, right = look.margin + 4 * look.row, look.margin + look.panel + 4
    assert change[:, bottom : -look.strip - 4].max() < 25
    assert change[:, : 240 - look.strip - 4, right:].max() < 25
    assert change[:, look.margin : bottom, :right].max() > 60
    assert change[:, -look.strip + 2 :].max() > 60
    colors = [frame[-2, 300] for frame in after]  # the strip has the whole video in every frame
    np.testing.assert_allclose(colors[0], colors[1], atol=12)
    assert np.abs(after[0, -3, 40] - after[0, -3, 300]).max() > 60  # two classes
    playhead = (after[:, -3].min(2) > 180).argmax(1)
    np.testing.assert_allclose(playhead, [320 * 0.2 / 2, 320 * 1.6 / 2], atol=3)


@pytest.mark.parametrize(("height", "width"), [(47, 63), (2, 2), (1, 1), (64, 64), (400, 90)])
def test_any_size(tmp_path: Path, height: int, width: int) -> None:
    source = film(
        tmp_path / "a.mp4", range(0, 200, 40), height=height, width=width, sound=None, pixels="yuv444p"
    )
    done = write_annotated(prediction(source, 0.2), tmp_path / "b.mp4")
    assert done.sound == ()
    with Video(tmp_path / "b.mp4") as video:
        assert (video.height, video.width) == (height + height % 2, width + width % 2)
        assert len(video) == 5


def test_rotation_is_applied(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mp4", EVEN, height=96, width=160)
    data = source.read_bytes()
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    head, _, tail = data.partition(b"tkhd")
    source.write_bytes(head + b"tkhd" + tail.replace(upright, turned, 1))
    with Video(source) as video:
        assert (video.height, video.width) == (160, 96)
    write_annotated(prediction(source, 2.0), tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert (file.streams.video[0].height, file.streams.video[0].width) == (160, 96)
        frame = next(file.decode(video=0))
        assert frame.rotation == 0


def test_a_few_frames_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "a.mp4", EVEN, height=96, width=160)
    counts = []
    images_at = Video.images_at

    def counted(self: Video, indices: Any, **options: Any) -> npt.NDArray[np.uint8]:
        counts.append(len(indices))
        return images_at(self, indices, **options)

    monkeypatch.setattr(Video, "images_at", counted)
    write_annotated(prediction(source, 2.0), tmp_path / "b.mp4")
    assert sum(counts) == len(EVEN)
    assert max(counts) <= 16


def test_a_video_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "a.mp4", EVEN)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/b.mp4").write_bytes(b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Overlay, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        write_annotated(prediction(source, 2.0), tmp_path / "new/b.mp4")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.mp4"]
    assert (tmp_path / "new/b.mp4").read_bytes() == b"old"
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        write_annotated(prediction(tmp_path / "absent.mp4", 2.0), tmp_path / "new/c.mp4")


# --- names of files -----------------------------------------------------------------------------------------


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    film(tmp_path / "a.avi", EVEN[:5], sound=None)
    film(tmp_path / "a.mov", EVEN[:5])
    film(tmp_path / "c.mkv", EVEN[:5], sound="tta")
    film(tmp_path / "d.avi", EVEN[:5], sound="wmav2")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/broken.mp4").write_text("no video")
    parts = [
        Part(str(tmp_path / name))
        for name in ("a.avi", "a.mov", "c.mkv", "d.avi", "deep/broken.mp4", "a.avi")
    ]
    files = annotated_files(str(tmp_path / "out"), [*parts, Part("https://host/x.webm")], overwrite=False)
    names = {path: file.relative_to(tmp_path / "out").as_posix() for path, file in files.items()}
    assert [*names.values()] == ["a.mp4", "a-2.mp4", "c.mkv", "d.mp4", "deep/broken.mp4", "x.mp4"]
    assert [*files] == [*dict.fromkeys(part.path for part in parts), "https://host/x.webm"]


def test_files_that_cannot_be_written_are_refused_early(tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv", EVEN[:5], sound="tta")
    part = Part(str(source))
    with pytest.raises(ConfigError, match=r"2 videos are given; give a folder"):
        annotated_files(str(tmp_path / "b.mkv"), [part, Part("x.mp4")], overwrite=False)
    with pytest.raises(ConfigError, match="time span"):
        annotated_files(str(tmp_path / "b.mkv"), [replace_end(part)], overwrite=False)
    (tmp_path / "b.mkv").touch()
    with pytest.raises(ConfigError, match=r"b\.mkv already exists; .* `overwrite`"):
        annotated_files(str(tmp_path / "b.mkv"), [part], overwrite=False)
    files = annotated_files(str(tmp_path / "b.mkv"), [part], overwrite=True)
    assert write_annotated(prediction(source, 0.2), files[str(source)]).sound == ("tta",)
    with pytest.raises(ConfigError, match="the video itself"):
        annotated_files(str(source), [part], overwrite=True)
    with pytest.raises(ConfigError, match="the video itself"):
        annotated_files(str(tmp_path), [part], overwrite=True)


def replace_end(part: Part) -> Part:
    return part._replace(end=1.0)


# --- what is drawn ------------------------------------------------------------------------------------------


def overlay(names: Sequence[str] = NAMES, **options: Any) -> Overlay:
    clips = prediction(Path("a.mp4"), 4.0).per_clip
    assert clips is not None
    form = {"seconds": 4.0, "targets": "single", "lettering": lettering_of(names)} | options
    return Overlay(240, 320, clips, **form)


def test_the_classes_of_a_moment() -> None:
    single = overlay()
    assert [single.clip_at(time) for time in (-1, 0, 1.9, 2.1, 4, 9)] == [0, 0, 0, 1, 1, 1]
    assert single.shown(0) == [("run", 0.7), ("jump", 0.2), ("rest", 0.1)]
    assert overlay(threshold=0.15).shown(0) == [("run", 0.7), ("jump", 0.2)]
    assert overlay(targets="multi").shown(0) == [("run", 0.7)]
    assert len({single.color(name) for name in NAMES}) == 3
    none = np.zeros((240, 320, 3), np.uint8)
    overlay(threshold=0.99).draw(none, 0.0)
    some = np.zeros((240, 320, 3), np.uint8)
    single.draw(some, 0.0)
    assert 0 < (none[:200] > 60).sum() < (some[:200] > 60).sum()


def test_sizes_grow_with_the_video() -> None:
    looks = [Layout.of(height, width) for height, width in ((64, 64), (240, 320), (1080, 1920), (1920, 1080))]
    assert [look.font for look in looks] == sorted(look.font for look in looks)
    assert looks[2].font == looks[3].font
    for look, (height, width) in zip(looks, ((64, 64), (240, 320), (1080, 1920), (1920, 1080)), strict=True):
        assert look.margin + look.panel <= width
        assert look.margin + look.rows * look.row <= height - look.strip


def test_names_that_no_font_has_are_replaced_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.report.lettering._system_fonts", lambda: ())
    letters = lettering_of(["a", "Прыжок", "坐", "Ελλάδα", "a\nb"])
    assert letters.replaced == {"坐": "class 3"}
    assert [letters.texts[name] for name in ("a", "坐", "a\nb")] == ["a", "class 3", "a\\nb"]
    assert "class 3 for 坐" in str(letters.remark())
    assert lettering_of(["a"]).remark() is None
    monkeypatch.setattr("t3d.report.lettering.features.check", lambda _: False)
    assert lettering_of(["قفز", "a"]).replaced == {"قفز": "class 1"}  # needs text to be shaped


def test_long_names_are_shortened() -> None:
    letters = lettering_of(["Playing a very long musical instrument"])
    (name,) = letters.texts
    font = letters.font(name, 12)
    short = letters.fitted(name, 12, 90)
    assert short.startswith("Playing")
    assert short.endswith("…")
    assert font.getlength(short) <= 90
    assert letters.fitted(name, 12, 10_000) == name
    assert shortened_to("abc", font, 0) == ""
    assert replace(letters, texts={}).fitted("x", 12, 90) == "x"
