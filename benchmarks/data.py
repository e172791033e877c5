"""Measure the speed of reading clips, compared with other readers.

    pip install torchcodec decord opencv-python-headless
    python benchmarks/data.py ORIGINALS OUT

ORIGINALS is a folder of MPEG-4 AVI files as published by UCF101. Files of at least 200 frames are read
unchanged, and as H.264 of 340 × 256 with a key frame every 250 frames (the default of x264), without and with
sound. OUT keeps these files, their index, and transcoded copies (`t3d prepare transcode`, short side 256: as
H.264 in files and in shards, and as JPEG). `data.json` contains the results.

Every reader reads the same random clips of the same files: 32 frames, stride 2, RGB, short side 256, crop
224, uint8 T C H W. A reader that is not installed is left out. Readers take turns at every clip, so that a
noisy machine affects all of them. A result is the median over clips of the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import v2

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import center_view
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.prepare.index import index_videos
from t3d.prepare.rewrite import TranscodeSpec
from t3d.prepare.shards import write_shards
from t3d.prepare.transcode import transcode_videos
from t3d.video.encode import write_video
from t3d.video.video import Video

FRAMES, STRIDE, SHORT, CROP = 32, 2, 256, 224
SPEC = ClipSpec(num_frames=FRAMES, stride=STRIDE, size=CROP, resize=SHORT)
PACKAGES = ("av", "torch", "torchvision", "torchcodec", "decord", "opencv-python-headless")

Indices = npt.NDArray[np.int64]
Reader = Callable[[Path, Indices], torch.Tensor]


def ours(index: Path | None = None) -> Reader:
    """This project, as training reads: open, find the frames, decode, resize, crop."""
    store = FrameStore(SPEC, index=None if index is None else VideoIndex.read(index))
    return lambda path, wanted: center_view(store.open(path).get(wanted), SPEC)


def prepared(paths: list[Path], folder: Path) -> dict[str, Reader]:
    """This project, on the same videos after `t3d prepare transcode` and `t3d prepare shards`."""
    readers: dict[str, Reader] = {}
    for name, codec in (("t3d, transcoded", "h264"), ("t3d, transcoded to JPEG", "jpeg")):
        spec = TranscodeSpec(short_side=SHORT, codec=codec)
        transcode_videos(Manifest.from_files(paths), folder / codec, spec=spec)
        index = folder / codec / "index.parquet"
        readers[name] = _renamed(ours(index), {path: folder / codec / f"{path.stem}.mp4" for path in paths})
    shards = folder / "shards"
    index = folder / "h264" / "index.parquet"
    write_shards(Manifest.from_index(index), VideoIndex.read(index), shards, shard_mb=8)
    packed = Manifest.from_index(shards / "index.parquet")
    where = {entry.path.stem.partition("-")[2]: entry.path for entry in packed}
    names = {path: where[path.stem] for path in paths}
    readers["t3d, transcoded, in shards"] = _renamed(ours(shards / "index.parquet"), names)
    return readers


def _renamed(read: Reader, names: dict[Path, Path]) -> Reader:
    return lambda path, wanted: read(names[path], wanted)


def torchcodec(seek_mode: str) -> Reader:
    """The package torchcodec, with torchvision's transforms."""
    from torchcodec.decoders import VideoDecoder

    view = v2.Compose([v2.Resize(SHORT, antialias=True), v2.CenterCrop(CROP)])

    def read(path: Path, wanted: Indices) -> torch.Tensor:
        decoder = VideoDecoder(path, seek_mode=seek_mode, num_ffmpeg_threads=1)
        return view(decoder.get_frames_at(wanted.tolist()).data)

    return read


def decord() -> Reader:
    """The package decord, which resizes while it decodes."""
    from decord import VideoReader

    def read(path: Path, wanted: Indices) -> torch.Tensor:
        width, height = sizes[path]
        reader = VideoReader(str(path), width=width, height=height, num_threads=1)
        frames = reader.get_batch(wanted).asnumpy()  # T H W C
        return v2.functional.center_crop(torch.from_numpy(frames).permute(0, 3, 1, 2), [CROP, CROP])

    return read


def opencv() -> Reader:
    """OpenCV: seek to the first frame, then grab every frame and keep every second one."""
    import cv2

    cv2.setNumThreads(1)

    def read(path: Path, wanted: Indices) -> torch.Tensor:
        reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        reader.set(cv2.CAP_PROP_POS_FRAMES, int(wanted[0]))
        frames = []
        for number in range(int(wanted[0]), int(wanted[-1]) + 1):
            if not reader.grab():
                raise RuntimeError(f"{path}: OpenCV finds no frame {number}")
            if (number - wanted[0]) % STRIDE == 0:
                image = cv2.cvtColor(reader.retrieve()[1], cv2.COLOR_BGR2RGB)
                if image.shape[1::-1] != sizes[path]:
                    image = cv2.resize(image, sizes[path], interpolation=cv2.INTER_AREA)
                frames.append(image)
        reader.release()
        images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        return v2.functional.center_crop(images, [CROP, CROP])

    return read


READERS: dict[str, Callable[[], Reader]] = {
    "t3d": ours,
    "torchcodec, exact": lambda: torchcodec("exact"),
    "torchcodec, approximate": lambda: torchcodec("approximate"),
    "decord": decord,
    "OpenCV": opencv,
}
sizes: dict[Path, tuple[int, int]] = {}
"""Width and height of each file once its shorter side is `SHORT`."""


def with_sound(source: Path, target: Path) -> None:
    """Copy a video and add a tone as sound."""
    rate = 44_100
    with av.open(str(source)) as video, av.open(str(target), "w") as out:
        pictures = video.streams.video[0]
        copied = out.add_stream_from_template(pictures)
        tone = out.add_stream("aac", rate=rate)
        for packet in video.demux(pictures):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
        seconds = float(pictures.duration * pictures.time_base)
        for first in range(0, int(seconds * rate), 1024):
            wave = np.sin(2 * np.pi * 440 * np.arange(first, first + 1024) / rate).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            out.mux(tone.encode(frame))
        out.mux(tone.encode(None))


def prepare(originals: Path, out: Path) -> dict[str, list[Path]]:
    """Return the files to time, by kind."""
    kinds: dict[str, list[Path]] = {"MPEG-4 AVI": [], "H.264, long GOP": [], "H.264 with sound": []}
    for path in sorted(originals.glob("*.avi")):
        with Video(path) as video:
            if len(video) < 200:
                continue
            plain, loud = (out / f"{path.stem}{kind}.mp4" for kind in ("", "_sound"))
            out.mkdir(exist_ok=True)
            if not plain.exists():
                frames = v2.functional.resize(video.frames_at(range(len(video))), [256, 340], antialias=True)
                write_video(
                    plain, frames, fps=round(video.metadata.average_fps), crf=23, keyframe_interval=250
                )
            if not loud.exists():
                with_sound(plain, loud)
            sizes[path] = (round(video.width * SHORT / video.height), SHORT)
            sizes[plain] = sizes[loud] = (340, 256)
        for kind, file in zip(kinds, (path, plain, loud), strict=True):
            kinds[kind].append(file)
    return kinds


def measure(
    readers: dict[str, Reader], paths: list[Path], *, places: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds per clip of each reader, as median and quartiles over clips, and its pixel differences."""
    rng = np.random.default_rng(0)
    spent: dict[str, list[float]] = {name: [] for name in readers}
    apart: dict[str, list[float]] = {name: [] for name in readers}
    for place in range(places):
        path = paths[place % len(paths)]
        with Video(path) as video:
            first = int(rng.integers(len(video) - STRIDE * (FRAMES - 1)))
        wanted = np.arange(FRAMES) * STRIDE + first
        times: dict[str, list[float]] = {name: [] for name in readers}
        truth = readers["t3d"](path, wanted).float()
        for round_ in range(rounds + 1):
            for name in rng.permutation(list(readers)):
                began = time.perf_counter()
                clip = readers[name](path, wanted)
                if round_:  # the first visit fills the file cache
                    times[name].append(time.perf_counter() - began)
                else:
                    apart[name].append((clip.float() - truth).abs().mean().item())
        for name, each in times.items():
            spent[name].append(statistics.median(each) * 1e3)
    return {
        name: {
            "ms": statistics.median(each),
            "low": float(np.quantile(each, 0.25)),
            "high": float(np.quantile(each, 0.75)),
            "apart": statistics.median(apart[name]),
        }
        for name, each in spent.items()
    }


def main() -> None:
    """Time every reader on every kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("originals", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--places", type=int, default=40, help="clips per kind of file")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    kinds = prepare(chosen.originals, chosen.out / "files")
    index = chosen.out / "index.parquet"
    index_videos(Manifest.from_files([path for paths in kinds.values() for path in paths]), index)
    readers: dict[str, Reader] = {"t3d, indexed": ours(index)}
    for name, make in READERS.items():
        try:
            readers[name] = make()
        except ImportError as error:
            print(f"without {name}: {error}")
    results: dict[str, object] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            results[package] = version(package)
        except PackageNotFoundError:
            results[package] = None
    for kind, paths in kinds.items():
        again = prepared(paths, chosen.out / "prepared" / kind)
        figures = measure(readers | again, paths, places=chosen.places, rounds=chosen.rounds)
        results[kind] = figures
        print(
            f"\n| {kind} ({len(paths)} files) | ms per clip | quartiles | clips/s | than t3d | pixels apart |"
        )
        print("|---|---|---|---|---|---|")
        for name, row in sorted(figures.items(), key=lambda item: item[1]["ms"]):
            ratio = row["ms"] / figures["t3d"]["ms"]
            print(
                f"| {name} | {row['ms']:.1f} | {row['low']:.1f}-{row['high']:.1f} | {1e3 / row['ms']:.1f} | "
                f"× {ratio:.2f} | {row['apart']:.2f} |"
            )
    (chosen.out / "data.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
