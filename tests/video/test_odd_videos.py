"""Odd real videos, and files as people report them, match their outcomes: a line per file in odd_videos.json.

The frames were inspected and compared with those of the FFmpeg command line. After an intended
change, remake the table and read the difference before committing it:

    python tests/video/test_odd_videos.py $T3D_REAL_DATA
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t3d.errors import VideoError
from t3d.video.video import Video

TABLE = Path(__file__).with_name("odd_videos.json")
CELLS = 4
# FFmpeg builds differ in how they widen chroma: 5.1 and 8.0 by up to 8 in a cell of these files.
COLOR_TOLERANCE = 10
SECONDS, MEMORY = 60, 1 << 30  # bounds for one file

Outcome = dict[str, Any]


def isolated(work: Callable[..., Any], *args: object, seconds: float = SECONDS) -> Any:
    """Run a function in a separate process: a crash, a hang or excessive memory use fails the test."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[5])
            bound = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        sender.send(work(*args))

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        assert receiver.poll(seconds), f"no answer within {seconds} s"
        return receiver.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the process died with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def colors(image: np.ndarray) -> str:
    """Mean color of each cell of a coarse grid over an image H W C, row by row, in HTML's notation."""
    height, width = image.shape[:2]

    def cell(place: int, length: int) -> slice:
        start = place * length // CELLS
        return slice(start, max((place + 1) * length // CELLS, start + 1))

    cells = [image[cell(y, height), cell(x, width)] for y in range(CELLS) for x in range(CELLS)]
    return " ".join(bytes(np.rint(part.mean(axis=(0, 1))).astype(np.uint8)).hex() for part in cells)


def outcome(path: Path) -> Outcome:
    """Read a file from start to end."""
    return _read(path)[0]


def outcome_in_any_order(path: Path) -> Outcome:
    """Read a file from start to end, then some of its frames again in another order."""
    outcome_read, images = _read(path)
    order = random.Random(0).sample(sorted(images), min(4, len(images)))
    if order:
        with Video(path) as video:
            for number in order:
                assert np.array_equal(_image(video, number), images[number]), f"frame {number} of {order}"
        _loop(path, images)
    return outcome_read


def _loop(path: Path, images: dict[int, np.ndarray | None]) -> None:
    """The first frames of a loop are those of `images`, up to one that cannot be decoded."""
    with Video(path) as video:
        frames = iter(video)
        for number in range(min(len(video), 60)):
            missing = number in images and images[number] is None
            try:
                frame = next(frames)
            except VideoError:
                assert missing or number not in images, f"frame {number} of a loop"
                return
            assert not missing, f"frame {number} of a loop"
            if number in images:
                assert np.array_equal(frame.permute(1, 2, 0).numpy(), images[number])


def _read(path: Path) -> tuple[Outcome, dict[int, np.ndarray | None]]:
    try:
        video = Video(path)
    except VideoError as error:
        return {"error": error.reason}, {}
    count = len(video)
    # All are decoded in passing; of large videos only some are turned into RGB, which takes longer.
    step = min(1 + count * video.height * video.width // 30_000_000, 6)
    numbers = sorted({*range(0, count, step), count // 2, count - 1})
    with video:
        images = {number: _image(video, number) for number in numbers}
        result = {
            "frames": len(video),
            "height": video.height,
            "width": video.width,
            "times": [round(float(video.times[i]), 4) for i in (1 % count, count // 2, -1)],
            "longest_gap": round(float(np.diff(video.times, append=video.duration).max()), 4),
            "damage": video.damage,
            "missing": [number for number, image in images.items() if image is None],
        }
    result["colors"] = {
        str(number): colors(image)
        for number in dict.fromkeys((0, count // 2, count - 1))
        if (image := images[number]) is not None
    }
    return result, images


def _image(video: Video, number: int) -> np.ndarray | None:
    try:
        return video.frames_at([number])[0].permute(1, 2, 0).numpy()  # H W C
    except VideoError:
        return None


def files(data: Path) -> list[str]:
    """Names of all files, as in the table: from the folder odd_videos, or beginning with reported/."""
    names = [path.relative_to(data / "odd_videos") for path in (data / "odd_videos").rglob("*")]
    names += [path.relative_to(data) for path in (data / "reported").glob("*")]
    return sorted(str(name) for name in names if place(data, str(name)).is_file() and name.suffix != ".md")


def place(data: Path, name: str) -> Path:
    """Path of a file of the table."""
    return data / name if name.startswith("reported/") else data / "odd_videos" / name


def read_table() -> dict[str, Outcome]:
    table: dict[str, Outcome] = json.loads(TABLE.read_text())
    return table


def write_table(data: Path) -> None:
    outcomes = {name: isolated(outcome, place(data, name)) for name in files(data)}
    lines = [f"{json.dumps(name)}: {json.dumps(result)}" for name, result in outcomes.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def assert_like(actual: Outcome, expected: Outcome) -> None:
    near = {"times", "longest_gap", "colors"}
    assert {key: actual[key] for key in actual.keys() - near} == {
        key: expected[key] for key in expected.keys() - near
    }
    for key in ("times", "longest_gap"):
        assert actual.get(key) == pytest.approx(expected.get(key), abs=1e-3), key
    seen, wanted = actual.get("colors", {}), expected.get("colors", {})
    assert seen.keys() == wanted.keys()
    for number, grid in seen.items():
        cells = np.array([list(bytes.fromhex(text)) for text in (grid, wanted[number])])
        assert np.ptp(cells, axis=0).max() <= COLOR_TOLERANCE, f"frame {number} is {grid}"


@pytest.mark.real
@pytest.mark.parametrize("name", read_table())
def test_outcome_is_that_of_the_table(real_data, capfd, name):
    assert_like(isolated(outcome_in_any_order, place(real_data, name)), read_table()[name])
    assert capfd.readouterr() == ("", "")


@pytest.mark.real
def test_table_lists_every_file(real_data):
    assert files(real_data) == sorted(read_table())


def test_a_crash_a_hang_and_a_flood_of_memory_are_failures():
    with pytest.raises(AssertionError, match="died with exit code -"):
        isolated(signal.raise_signal, signal.SIGKILL)
    with pytest.raises(AssertionError, match="no answer within"):
        isolated(time.sleep, SECONDS, seconds=0.1)
    if sys.platform == "linux":
        with pytest.raises(AssertionError, match="died with exit code 1"):
            isolated(bytearray, 2 * MEMORY)


def rotten(path: Path, seed: int, folder: Path) -> Path:
    """Copy a file with some bytes changed, or cut off, or both."""
    rng = random.Random(f"{path.name} {seed}")
    data = bytearray(path.read_bytes())
    kind = rng.choice(("header", "anywhere", "cut", "both"))
    if kind != "cut":
        reach = min(len(data), 2000) if kind == "header" else len(data)
        for _ in range(rng.choice((1, 5, 50))):
            data[rng.randrange(reach)] = rng.randrange(256)
    if kind in {"cut", "both"}:
        del data[rng.randrange(1, len(data)) :]
    copy = folder / f"{seed}{path.suffix}"
    copy.write_bytes(data)
    return copy


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "decord/tests/test_data/video_180.mov",
        "moviepy/media/transparent.webm",
        "mp4parse-rust/mp4parse_capi/tests/av1-clearkey-cbcs-video.mp4",
        "mp4parse-rust/mp4parse_capi/tests/no_timescale.mp4",
        "streamio-ffmpeg/spec/fixtures/movies/weird_aspect.small.mpg",
        "torchcodec/test/resources/discard_first_keyframe.mp4",
        "torchcodec/test/resources/h265_video.mp4",
        "torchcodec/test/resources/testsrc2_av1_10bit.mp4",
        "torchcodec/test/resources/testsrc2_odd_height_and_width_mpeg2.mp4",
        "torchcodec/test/resources/testsrc2_odd_height_and_width_vp9.mp4",
    ],
)
def test_rotten_copies_give_frames_or_an_error(real_data, tmp_path, capfd, name):
    for seed in range(3):
        result = isolated(outcome, rotten(real_data / "odd_videos" / name, seed, tmp_path))
        assert result.keys() in ({"error"}, read_table()[name].keys())
    assert capfd.readouterr() == ("", "")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
