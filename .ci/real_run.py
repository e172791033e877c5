"""Train a tiny net on a small real subset, test it on held-out videos, and predict: the numbers must agree.

Usage: python .ci/real_run.py DATA, where DATA holds `hockey_fights/{train,test}/{fight,no_fight}/*.mp4`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import binomtest

TRAIN, TEST = 120, 50  # videos of each class


def t3d(*words: str) -> str:
    """Run the command line as a user does."""
    print("t3d", *words[:6], "…" if len(words) > 6 else "", flush=True)
    done = subprocess.run(
        [Path(sys.executable).with_name("t3d"), *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"t3d {words[0]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def subset(folder: Path, count: int, table: Path) -> None:
    """Write a table of the first `count` videos of each class."""
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for label in ("fight", "no_fight"):
            videos = sorted((folder / label).glob("*.mp4"))[:count]
            assert len(videos) == count, f"{folder / label} holds {len(videos)} videos, {count} are needed"
            rows.writerows([str(video.resolve()), label] for video in videos)


def main(data: Path) -> None:
    """Run everything in a temporary folder."""
    hockey = data / "hockey_fights"
    if not hockey.is_dir():
        sys.exit(f"{hockey} is missing: the real-data run needs it")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        subset(hockey / "train", TRAIN, work / "train.csv")
        subset(hockey / "test", TEST, work / "test.csv")
        t3d(
            *("train", "--recipe", "modern", "--model", "densenet3d_tiny", "--workers", "1"),
            *("--videos", str(work / "train.csv"), "--data.val-fraction", "0"),
            *("--cache", str(work / "cache"), "--out", str(work / "run"), "--epochs", "15"),
        )
        weights = str(work / "run" / "last.safetensors")
        metrics = json.loads(t3d("test", weights, str(work / "test.csv"), "--out", str(work / "t"), "--json"))
        right = round(metrics["video_top1"] * metrics["videos"])
        p = binomtest(right, metrics["videos"], 0.5, alternative="greater").pvalue
        print(f"{right} of {metrics['videos']} held-out videos right, p = {p:.2g} against guessing")
        assert metrics["videos"] == 2 * TEST
        assert p < 0.01, "not better than guessing"

        with (work / "t" / "scores.csv").open() as file:
            scores = list(csv.DictReader(file))
        lines = t3d("predict", weights, *(row["path"] for row in scores), "--json", "--top", "2").splitlines()
        for row, line in zip(scores, lines, strict=True):
            classes = json.loads(line)["classes"]
            for label in ("fight", "no_fight"):
                assert abs(float(row[label]) - classes[label]) < 1e-5, (
                    f"{row['path']}: {row[label]}, {classes[label]}"
                )
        print(f"test and predict agree on {len(scores)} videos")


main(Path(sys.argv[1]))
