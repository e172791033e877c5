"""Compare the processor time per clip of T3D's reader and of torchcodec on its own.

    pip install torchcodec
    OMP_NUM_THREADS=1 python benchmarks/peers.py VIDEO …

A clip has 16 frames at stride 1 to 4, at a random place of a random file. Its time includes opening the file:
T3D without an index (`raw`) and with an index entry (`indexed`), torchcodec in its two seek modes. `exact`
reads all packets to know where the frames are, as `raw` does. `approximate` trusts the header.

Frames are returned in full size (`full`), or as training takes them (`112 px`): the short side resized to
128, the center 112, by T3D's and torchvision's resizing. All readers use one thread.

A process that trains uses one reader only. So each reader reads several clips (`--turn`) before the next
one's turn, in a new order each time. With `--turn 1` every reader finds the processor's caches filled by
another one. The time at a place is that of the quickest round, because the machine may be shared. Figures are
medians over places; a speed is the time of `torchcodec, exact` divided by the reader's.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from decoders import Indices, Reader, indexed, raw
from torchvision.transforms import v2

from t3d.clip import ClipSpec
from t3d.data.clips.transforms import center_view, resize_frames
from t3d.prepare.examine import examine
from t3d.video.facts import VideoFacts

FRAMES, SHORT, CROP = 16, 128, 112
PEER = "torchcodec, exact"

Place = tuple[Path, VideoFacts, Indices]


def torchcodec(seek_mode: str) -> Reader:
    """The package torchcodec, which gets nothing but the file."""
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, facts: VideoFacts, wanted: Indices) -> torch.Tensor:  # noqa: ARG001
        decoder = VideoDecoder(str(path), seek_mode=seek_mode, num_ffmpeg_threads=1)
        frames: torch.Tensor = decoder.get_frames_at(wanted.tolist()).data
        return frames

    return read


def resized(read: Reader, *, peer: bool) -> Reader:
    """Return a reader of small frames, with torchvision's resizing for torchcodec."""
    spec = ClipSpec(num_frames=FRAMES, size=CROP, resize=SHORT)
    view = v2.Compose([v2.Resize(SHORT, antialias=True), v2.CenterCrop(CROP)])
    if peer:
        return lambda path, facts, wanted: view(read(path, facts, wanted))
    return lambda path, facts, wanted: center_view(resize_frames(read(path, facts, wanted), spec), spec)


def draw(paths: list[Path], count: int, rng: np.random.Generator) -> list[Place]:
    """Draw clips: a file, its index entry, and frame numbers."""
    known = {path: VideoFacts.of_row(examine(str(path))) for path in paths}
    paths = [path for path in paths if len(known[path].table.pts) >= 4 * FRAMES]
    if not paths:
        raise SystemExit(f"all files are shorter than {4 * FRAMES} frames")
    places = []
    for _ in range(count):
        path = paths[int(rng.integers(len(paths)))]
        steps = np.arange(FRAMES) * int(rng.integers(1, 5))
        places.append((path, known[path], steps + int(rng.integers(len(known[path].table.pts) - steps[-1]))))
    return places


def measure(
    readers: dict[str, Reader], places: list[Place], *, rounds: int, turn: int, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float64]]:
    """Return milliseconds of every reader at each place."""
    spent: dict[str, list[list[float]]] = {name: [[] for _ in places] for name in readers}
    for first in range(0, len(places), turn):
        for round_ in range(rounds + 1):
            for name in rng.permutation(list(readers)):
                for place in range(first, min(first + turn, len(places))):
                    began = time.process_time()
                    readers[name](*places[place])
                    if round_:  # the first visit fills the file cache
                        spent[name][place].append(time.process_time() - began)
    return {name: np.array([min(each) for each in all_]) * 1e3 for name, all_ in spent.items()}


def main() -> None:
    """Time all readers at the same places."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("videos", type=Path, nargs="+", help="video files")
    parser.add_argument("--places", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=int, default=10, help="clips that a reader reads in its turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    places = draw(options.videos, options.places, rng)
    readers: dict[str, Reader] = {"T3D, raw": raw, "T3D, indexed": indexed}
    readers |= {PEER: torchcodec("exact"), "torchcodec, approximate": torchcodec("approximate")}
    print(", ".join(f"{name} {version(name)}" for name in ("av", "torch", "torchvision", "torchcodec")))
    apart = max(int((indexed(*place).int() - readers[PEER](*place).int()).abs().max()) for place in places)
    print(f"largest difference of a pixel: {apart} of 255\n")
    print("| Frames | Reader | ms per clip | speed, of torchcodec exact | quartiles |\n|---|---|---|---|---|")
    for size in ("full", f"{CROP} px"):
        chosen = readers
        if size != "full":
            chosen = {name: resized(read, peer="T3D" not in name) for name, read in readers.items()}
        times = measure(chosen, places, rounds=options.rounds, turn=options.turn, rng=rng)
        for name, each in times.items():
            low, middle, high = np.quantile(times[PEER] / each, (0.25, 0.5, 0.75))
            print(
                f"| {size} | {name} | {np.median(each):.1f} | {middle:.2f} | {low:.2f} … {high:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
