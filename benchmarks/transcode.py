"""Measure the cost of `t3d prepare transcode`, and of reading clips before and after it.

    python benchmarks/transcode.py ORIGINALS OUT

ORIGINALS is a folder of videos. The three sets are its AVI files, its MP4 files, and its long AVI files (at
least 200 frames) encoded again. The encoding uses the defaults of x264: preset medium, a key frame every 250
frames. Each set is
transcoded with several `--crf`, in this process. Then random clips of 16 frames, stride 2, are read from the
sources and from the new files, with an index. Times are processor times, because the machine may be shared.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import numpy as np

from t3d.prepare.examine import examine
from t3d.prepare.rewrite import TranscodeSpec, rewrite
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.video import Video

CLIPS = 5  # of each file
CRFS = (18, 20, 23)


def long_groups(files: list[Path], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for file in files:
        with Video(file) as video:
            if len(video) >= 200:
                frames = video.frames_at(range(len(video)))
                target = out / f"{file.stem}.mp4"
                made.append(write_video(target, frames, crf=23, keyframe_interval=250))
    return made


def transcoded(files: list[Path], out: Path, crf: int) -> list[Path]:
    new = [out / f"{file.stem}.mp4" for file in files]
    began = time.process_time()
    done = [
        rewrite(source, target, TranscodeSpec(crf=crf)) for source, target in zip(files, new, strict=True)
    ]
    took = time.process_time() - began
    frames = sum(each.row["frames"] for each in done)
    seconds = sum(each.row["duration"] for each in done)
    before, after = sum(each.size for each in done), sum(each.row["size"] for each in done)
    print(
        f"  crf {crf}: {len(files)} files, {frames} frames, {seconds:.0f} s; "
        f"{before / 1e6:.2f} MB before, {after / 1e6:.2f} MB after; {frames / took:.0f} frames per second",
        flush=True,
    )
    return new


def time_clips(name: str, files: list[Path]) -> None:
    draw = random.Random(0)
    times, groups = [], []
    for file in files:
        facts = VideoFacts.of_row(examine(str(file)))
        count = len(facts.table.pts)
        keys = np.flatnonzero(np.isin(facts.table.pts, facts.table.key_pts))
        groups.append(int(np.diff(keys, append=count).max()))
        for _ in range(CLIPS):
            first = draw.randrange(max(count - 31, 1))
            began = time.process_time()
            with Video(file, facts=facts) as video:
                video.frames_at(range(first, min(first + 32, count), 2))
            times.append(time.process_time() - began)
    took, group = 1000 * statistics.median(times), statistics.median(groups)
    print(f"  {name}: {took:.1f} ms per clip, longest group of the median file {group:g}", flush=True)


def main(originals: Path, out: Path) -> None:
    films = sorted(originals.glob("*.avi"))
    sets = {
        "AVI": films,
        "MP4": sorted(originals.glob("*.mp4")),
        "H.264, long groups": long_groups(films, out / "long"),
    }
    for name, files in sets.items():
        if not files:
            continue
        print(name, flush=True)
        new = {crf: transcoded(files, out / f"{name} {crf}", crf) for crf in CRFS}
        time_clips("source", files)
        time_clips("new, crf 20", new[20])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("originals", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    main(chosen.originals, chosen.out)
