"""Do the paper's findings about nets and clips hold for small nets? The runs of docs/project/results.md.

    python benchmarks/nets_study.py DATA OUT 'motion/*' 'ucf101_11/*/0.001/s0'

DATA holds ucf101_11, hockey_fights and arid6; the set `motion`, files with short, middle and long motions,
is drawn into OUT. A job's name is SET/NET/CLIP/RATE/sSEED: a net out of `NETS`, clips of
FRAMESxSTRIDExSIDE, and the peak learning rate. Jobs whose names match a pattern are run, pattern by pattern,
once. Interrupted jobs resume, and several of these processes may share the work. `--list` prints the names
of the jobs. Each leaves OUT/NAME/result.json, of which `nets_report.py` makes tables.

Each job trains from scratch and tests once: the weights that validated best (of ARID, whose scenes are too
few to hold any out, the last). A seed draws the labels that are used and the weights to begin with; for one
seed the labels are the same for every net and clip.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from study import LISTS, Job, Result, draw_labels, run_jobs, spent, videos_of

from t3d.clip import ClipSpec
from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.synthetic.scene import MOTIONS, SyntheticSpec
from t3d.data.synthetic.videos import write_synthetic
from t3d.device import Compute
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.run_test import run_test
from t3d.evaluation.scores import Scores
from t3d.models.flops import model_size
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder

WITH_TTL = {
    "width": 0.25,
    "ttl_after": ["layer1", "layer2", "layer3"],
    "ttl_depths": [[1, 3, 6], [1, 3, 4], [1, 3, 4]],
    "ttl_channels": 32,
}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "t3d": ("t3d_tiny", {}),
    "densenet3d": ("densenet3d_tiny", {}),
    "densenet3d-equal-parameters": ("densenet3d_tiny", {"growth_rate": 31}),
    "densenet3d-equal-macs": ("densenet3d_tiny", {"growth_rate": 40}),
    "t3d-depths-1": ("t3d_tiny", {"ttl_depths": [[1, 1, 1]] * 3}),
    "t3d-depths-3": ("t3d_tiny", {"ttl_depths": [[3, 3, 3]] * 3}),
    "t3d-more-layers": ("t3d_tiny", {"block_config": [2, 4, 10, 10]}),  # as T3D-169 has more than T3D-121
    "resnet3d": ("resnet3d18", {"width": 0.25}),
    "resnet3d-ttl": ("resnet3d18", WITH_TTL),
    "resnet3d-ttl-in-place": ("resnet3d18", WITH_TTL | {"ttl_shortcut": False}),
    "resnet3d-equal-macs": ("resnet3d18", {"width": 0.34375}),
    "t3d121": ("t3d121", {}),
    "densenet3d121": ("densenet3d121", {}),
}
LEARN = OptimConfig(
    name="adamw",
    weight_decay=0.05,
    decay_norm=False,
    batch_size=16,
    schedule="cosine",
    warmup_epochs=2,
    label_smoothing=0.1,
    ema_decay=0.99,
    max_grad_norm=1.0,
)
VARIED = AugmentConfig(crop="random_resized", min_area=0.5, flip=0.5, color=0.2)
DRAWN = SyntheticSpec(train=96, val=16, test=64, distractors=0, clutter=2, camera_shake=0)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Part:
    """Part of a data set to train on, and the training length.

    Args:
        classes: Number of classes.
        percent: Percentage of the training labels used.
        epochs: Number of training epochs.
        augment: Augmentation of training clips.
        arms: Networks, clips and peak learning rates; every combination is trained.
    """

    classes: int
    percent: int
    epochs: int
    augment: AugmentConfig
    arms: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]], ...]


_ALL = tuple(name for name in NETS if not name.endswith("121"))
_THREE = ("t3d", "densenet3d", "densenet3d-equal-macs")
_TWO = ("t3d", "densenet3d")
_SWEPT = ("16x1x48", "16x2x48", "16x16x48", "8x2x48", "32x2x48", "8x8x48", "16x4x32", "16x4x64")
LOW, HIGH = 1e-3, 3e-3
PARTS = {
    "motion": Part(
        classes=8,
        percent=100,
        epochs=10,
        augment=AugmentConfig(flip=0.0),
        arms=(
            (_ALL, ("16x2x32",), (LOW,)),
            (_THREE, ("16x2x32",), (HIGH,)),
            (_THREE, ("8x4x32", "32x1x32", "16x1x32"), (LOW,)),
            (("t3d-depths-1", "t3d-depths-3"), ("32x1x32",), (LOW,)),
        ),
    ),
    "ucf101_11": Part(
        classes=11,
        percent=20,
        epochs=20,
        augment=VARIED,
        arms=(
            (_ALL, ("16x4x48",), (LOW,)),
            (_THREE, ("16x4x48",), (HIGH,)),
            (_TWO, _SWEPT, (LOW,)),
            (("densenet3d-equal-macs",), ("16x16x48",), (LOW,)),
            (_TWO, ("16x16x48",), (HIGH,)),
            (("t3d121", "densenet3d121"), ("16x4x112",), (LOW, HIGH)),  # for a GPU
        ),
    ),
    "hockey_fights": Part(2, 20, 20, VARIED, ((_THREE, ("16x2x48",), (LOW,)),)),
    "arid6": Part(6, 100, 30, replace(VARIED, flip=0.0), ((_THREE, ("16x2x48",), (LOW,)),)),
}


def jobs() -> dict[str, Job]:
    """All jobs by name."""
    jobs_by_name = {}
    for videos, part in PARTS.items():
        for seed, (nets, clips, rates) in itertools.product(SEEDS, part.arms):
            for clip, net, rate in itertools.product(clips, nets, rates):
                jobs_by_name[f"{videos}/{net}/{clip}/{rate:g}/s{seed}"] = {
                    "set": videos,
                    "percent": part.percent,
                    "net": net,
                    "clip": clip,
                    "lr": rate,
                    "seed": seed,
                }
    return jobs_by_name


def clip_of(name: str) -> ClipSpec:
    """Return the clip named FRAMES×STRIDE×SIDE; frames are resized to nine eighths of the side."""
    frames, stride, side = map(int, name.split("x"))
    resize = side if side == 32 else side * 9 // 8  # at 32 there is nothing to spare
    return ClipSpec(num_frames=frames, stride=stride, size=side, resize=resize, tail="shift")


class Study:
    """Folders of the study, and the runner of a job.

    Args:
        data: The folder of clips.
        out: Where results go.
        workers: Processes that read videos.
    """

    def __init__(self, data: Path, out: Path, *, workers: int) -> None:
        self.data, self.out, self.workers = data.resolve(), out.resolve(), workers

    def run(self, name: str, job: Job) -> Result:
        """Train and test."""
        part, clip = PARTS[job["set"]], clip_of(job["clip"])
        architecture, options = NETS[job["net"]]
        known, held, asked, videos = self._lists(job)
        config = TrainConfig(
            out=str(self.out / name / "run"),
            seed=job["seed"],
            data=DataConfig(
                train=known,
                val=held,
                val_fraction=0.0,
                cache=str(self.out / "cache"),
                cache_gb=40,
                workers=self.workers,
            ),
            clip=clip,
            augment=part.augment,
            model=ModelConfig(name=architecture, options=options),
            optim=replace(LEARN, lr=job["lr"], epochs=part.epochs),
            eval_every=part.epochs // 2,
        )
        folder = RunFolder(train(config, resume=RunFolder(config.out).config.exists()))
        lines = read_log(folder.log)
        size = model_size(
            architecture,
            num_classes=part.classes,
            options=options,
            num_frames=clip.num_frames,
            size=clip.size,
        )
        result: Result = {
            "parameters": size.parameters,
            "macs": size.macs,
            "epochs": part.epochs,
            "minutes": spent(lines),
            "val": {line["epoch"]: line["top1"] for line in lines if line["kind"] == "val"},
            "torch": torch.__version__,
        }
        for order in ("normal", "shuffled", "static"):
            outcome = run_test(
                TestConfig(
                    str(folder.path),
                    asked,
                    frame_order=order,
                    reading=Reading(root=videos, cache=str(self.out / "cache")),
                    compute=Compute(workers=self.workers),
                )
            )
            result[order] = outcome.single.video_top1
            if order == "normal" and job["set"] == "motion":
                result["spans"] = by_span(outcome.scores)
        return result

    def _lists(self, job: Job) -> tuple[str, str | None, str, str | None]:
        """Tables of training, validation and test videos, and the folder of the test videos."""
        name = job["set"]
        if name == "motion":
            drawn = write_synthetic(self.out / "motion", DRAWN)
            return str(drawn / "train.csv"), str(drawn / "val.csv"), str(drawn / "test.csv"), None
        known, held = draw_labels(self.data, self.out, name, job["percent"], job["seed"])
        return (
            str(known),
            None if held is None else str(held),
            str(self.data / LISTS[name][1]),
            videos_of(self.data, name),
        )


def by_span(scores: Scores) -> dict[str, float]:
    """Accuracy on the classes with short, medium and long motions."""
    right = scores.video_probs.argmax(1) == scores.labels
    spans = [MOTIONS[scores.classes[label]] for label in scores.labels]
    return {
        span: float(right[[name == span for name in spans]].mean()) for span in ("short", "middle", "long")
    }


def main() -> None:
    """Run the selected jobs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("patterns", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    study = Study(chosen.data, chosen.out, workers=chosen.workers)
    run_jobs(jobs(), study.run, chosen.out, chosen.patterns, only_list=chosen.list)


if __name__ == "__main__":
    main()
