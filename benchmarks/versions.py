"""Compare the processor time per clip of two versions of the video reader, in turn in one process.

    git worktree add ../old v0.1                        # or any other checkout
    python benchmarks/versions.py ../old/src VIDEO …

A clip has 32 frames at stride 2. Its time includes opening the file, without an index (`raw`) and with an
index entry that the same version made (`indexed`), and decoding to RGB. The places are drawn from all files
that are long enough. At each place the versions take turns. A ratio is the median over places of new to old,
each the median of several rounds.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FRAMES, STRIDE = 32, 2


def load(source: Path) -> tuple[Any, Any, Any]:
    """Import `Video`, `VideoFacts` and `examine` of a checkout, in addition to those already imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "t3d"]:
        del sys.modules[name]
    sys.path.insert(0, str(source))
    try:
        video = importlib.import_module("t3d.video.video")
        facts = importlib.import_module("t3d.video.facts")
        examine = importlib.import_module("t3d.prepare.examine")
    finally:
        sys.path.remove(str(source))
    if not Path(str(video.__file__)).is_relative_to(source):
        raise SystemExit(f"{source} has no t3d/video/video.py")
    return video.Video, facts.VideoFacts, examine.examine


def main() -> None:
    """Time both versions at the same places."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("old", type=Path, help="the folder src of the other version")
    parser.add_argument("videos", type=Path, nargs="+", help="video files")
    parser.add_argument("--places", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    new = Path(__file__).resolve().parents[1] / "src"
    versions = {"old": load(options.old.resolve()), "new": load(new)}
    known: dict[tuple[str, Path], Any] = {}
    lengths = {}
    for path in options.videos:
        for name, (video, facts, examine) in versions.items():
            known[name, path] = facts.of_row(examine(str(path)))
            with video(path) as opened:
                lengths[path] = len(opened)
    paths = [path for path in options.videos if lengths[path] > FRAMES * STRIDE]
    rng = np.random.default_rng(0)
    ratios: dict[str, list[float]] = {"raw": [], "indexed": []}
    totals: dict[str, list[float]] = {"raw": [], "indexed": []}
    for place in range(options.places):
        path = paths[place % len(paths)]
        wanted = np.arange(FRAMES) * STRIDE + int(rng.integers(lengths[path] - FRAMES * STRIDE))
        for kind in ratios:
            spent: dict[str, list[float]] = {"old": [], "new": []}
            for round_ in range(options.rounds + 1):
                for name in rng.permutation(list(versions)):
                    facts = known[name, path] if kind == "indexed" else None
                    began = time.process_time()
                    with versions[name][0](path, facts=facts) as opened:
                        opened.frames_at(wanted)
                    if round_:  # the first visit fills the file cache
                        spent[name].append(time.process_time() - began)
            ratios[kind].append(statistics.median(spent["new"]) / statistics.median(spent["old"]))
            totals[kind].append(statistics.median(spent["new"]) * 1e3)
    for kind, each in ratios.items():
        low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
        ms = statistics.median(totals[kind])
        print(f"{kind:8} {ms:6.1f} ms per clip, new / old {middle:.3f} (quartiles {low:.3f} … {high:.3f})")


if __name__ == "__main__":
    main()
