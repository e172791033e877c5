"""Compare the speed of two decoders: PyAV inside `Video`, and torchcodec with the same table of frames.

    pip install torchcodec
    python benchmarks/decoders.py ORIGINALS OUT

ORIGINALS is a folder of MPEG-4 AVI files as published by UCF101. Files of at least 200 frames are read
unchanged, and as H.264, HEVC and VP9 of 340 × 256 pixels, which OUT keeps. x264 writes a key frame every 250
frames (its default) and every 16. x265 and libvpx use their defaults. Clips are random, with 32 frames and
stride 2, read in one thread. The time of a clip includes opening the file with its index entry, and decoding
to RGB. `raw` opens the file without an index. torchcodec has no `raw` measurement.

Readers take turns at every clip. Times are processor times, because the machine may be shared. A ratio is the
median over clips of the median over rounds. torchcodec also gets the table of frames, so that it does not
scan the file. The times of its frames are checked as in `Video`. Its pixels are compared with PyAV's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

from t3d.prepare.examine import examine
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.frame_table import FrameTable
from t3d.video.video import Video

FRAMES, STRIDE = 32, 2

Indices = npt.NDArray[np.int64]
Reader = Callable[[Path, VideoFacts, Indices], torch.Tensor]


def raw(path: Path, facts: VideoFacts, wanted: Indices) -> torch.Tensor:  # noqa: ARG001
    with Video(path) as video:
        return video.frames_at(wanted)


def indexed(path: Path, facts: VideoFacts, wanted: Indices) -> torch.Tensor:
    with Video(path, facts=facts) as video:
        return video.frames_at(wanted)


def torchcodec(path: Path, facts: VideoFacts, wanted: Indices) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    table = facts.table
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, custom_frame_mappings=mapping(table))
    batch = decoder.get_frames_at(wanted.tolist())
    stamps = np.rint(batch.pts_seconds.numpy() / float(table.time_base)).astype(np.int64)
    if not np.array_equal(stamps, table.pts[wanted]):
        raise RuntimeError(f"{path}: torchcodec returned frames with other times than those of {wanted}")
    frames: torch.Tensor = batch.data
    return frames


def mapping(table: FrameTable) -> str:
    """Write the table as JSON in torchcodec's format."""
    lengths = np.diff(table.pts, append=table.pts[-1] + table.last).tolist()
    keys = np.isin(table.pts, table.key_pts).tolist()
    rows = zip(table.pts.tolist(), lengths, keys, strict=True)
    frames = [{"pts": pts, "duration": length, "key_frame": int(key)} for pts, length, key in rows]
    return json.dumps({"frames": frames})


READERS: dict[str, Reader] = {"PyAV, indexed": indexed, "PyAV, raw": raw, "torchcodec, indexed": torchcodec}


def encode(path: Path, frames: torch.Tensor, codec: str) -> None:
    """Write a file with an encoder, at the encoder's default quality."""
    quick = {"deadline": "realtime", "cpu-used": "4"}
    options = {"x265-params": "log-level=none"} if codec == "libx265" else quick
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = frames.shape[2], frames.shape[3], "yuv420p"
        for image in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))


def prepare(originals: Path, out: Path) -> dict[str, list[Path]]:
    """Return the files to time, by kind."""
    kinds: dict[str, list[Path]] = {
        "MPEG-4 AVI": [],
        "H.264, a key frame every 250": [],
        "H.264, every 16": [],
        "HEVC": [],
        "VP9": [],
    }
    for path in sorted(originals.glob("*.avi")):
        with Video(path) as video:
            if len(video) < 200:
                continue
            frames = video.frames_at(range(len(video)))
        frames = torch.nn.functional.interpolate(frames, size=(256, 340), mode="bilinear", antialias=True)
        made = [
            out / name / f"{path.stem}{end}"
            for name, end in (("long", ".mp4"), ("short", ".mp4"), ("hevc", ".mp4"), ("vp9", ".webm"))
        ]
        for target in made:
            target.parent.mkdir(parents=True, exist_ok=True)
        for target, interval in zip(made[:2], (250, 16), strict=True):
            if not target.exists():
                write_video(target, frames, crf=23, keyframe_interval=interval)
        for target, codec in zip(made[2:], ("libx265", "libvpx-vp9"), strict=True):
            if not target.exists():
                encode(target, frames, codec)
        for kind, file in zip(kinds, (path, *made), strict=True):
            kinds[kind].append(file)
    return kinds


def measure(paths: list[Path], *, places: int, rounds: int) -> dict[str, tuple[float, float, int]]:
    """Return milliseconds per clip, time relative to PyAV, and the pixel difference of every reader."""
    known = {path: VideoFacts.of_row(examine(str(path))) for path in paths}
    rng = np.random.default_rng(0)
    spent: dict[str, list[float]] = {name: [] for name in READERS}
    apart = dict.fromkeys(READERS, 0)
    for place in range(places):
        path = paths[place % len(paths)]
        first = int(rng.integers(len(known[path].table.pts) - STRIDE * (FRAMES - 1)))
        wanted = np.arange(FRAMES) * STRIDE + first
        truth = indexed(path, known[path], wanted).int()
        times: dict[str, list[float]] = {name: [] for name in READERS}
        for round_ in range(rounds + 1):
            for name in rng.permutation(list(READERS)):
                began = time.process_time()
                clip = READERS[name](path, known[path], wanted)
                if round_:  # the first visit fills the file cache
                    times[name].append(time.process_time() - began)
                else:
                    apart[name] = max(apart[name], int((clip.int() - truth).abs().max()))
        for name, each in times.items():
            spent[name].append(statistics.median(each) * 1e3)
    base = np.array(spent["PyAV, indexed"])
    return {
        name: (statistics.median(each), float(np.median(np.array(each) / base)), apart[name])
        for name, each in spent.items()
    }


def main() -> None:
    """Time both decoders on every kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("originals", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--places", type=int, default=27, help="clips per kind of file")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kinds = prepare(chosen.originals, chosen.out)
    print("| ms per clip | " + " | ".join(READERS) + " | pixels apart |")
    print("|---" * (len(READERS) + 2) + "|")
    for kind, paths in kinds.items():
        rows = measure(paths, places=chosen.places, rounds=chosen.rounds)
        cells = [f"{rows[name][0]:.1f} (× {rows[name][1]:.2f})" for name in READERS]
        apart = rows["torchcodec, indexed"][2]
        print(f"| {kind} ({len(paths)} files) | {' | '.join(cells)} | {apart} |", flush=True)


if __name__ == "__main__":
    main()
