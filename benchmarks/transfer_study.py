"""Study of transfer: the runs of docs/project/results.md, "Supervision transfer".

    python benchmarks/transfer_study.py DATA OUT 'pretrain/*-p0' 'tune/ucf101_11/20/*'

DATA contains ucf101_11, hockey_fights, arid6, unlabeled and teachers. START is an objective or a variant of
one, with its seed (-pSEED). The names of the jobs are:

    pretrain/START                        teach a student

    select/START                          test frozen features on UCF101's training list: a linear
                                          classifier, cross-validated, and class means of few videos

    tune/SET/PERCENT/START/RECIPE/sSEED   learn from PERCENT of SET's training labels, validated on others

    test/SET/PERCENT/START/RECIPE/sSEED   that net on SET's test list, frames in order, shuffled, and static

    probe/SET/START                       linear classifiers on the frozen features of a student or a teacher

Jobs whose names match a pattern are run, pattern by pattern. Finished jobs are skipped, and interrupted jobs
resume. Several of these processes may share the work. `--list` prints the names of the jobs. Each job writes
OUT/NAME/result.json. `transfer_report.py` makes tables from these files.

Options are chosen by `select` and by `tune`'s validation videos, which are from the training list. `test` is
only for reported results, once per row.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from study import LISTS, Job, draw_labels, open_list, run_jobs, spent, videos_of

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.config import AugmentConfig, DataConfig
from t3d.device import Compute, pick_device
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import run_test
from t3d.evaluation.scoring import each_clip, pooled_features
from t3d.io.files import content_digest
from t3d.models.registry import create_model
from t3d.models.weights import load_model
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.frozen import teacher_vectors
from t3d.transfer.linear import fit_linear
from t3d.transfer.probe import result_of
from t3d.transfer.run import transfer
from t3d.transfer.teachers.normalization import NAMED
from t3d.transfer.teachers.open import open_teacher

CLIP = ClipSpec(num_frames=16, stride=4, size=64, resize=72, tail="shift")
SCALES = {
    "laptop": ("t3d_tiny", CLIP, 0),
    "gpu": ("t3d121", replace(CLIP, size=112, resize=128), 12),
}
"""The student, its clips, and the number of reader processes."""
AUGMENT = AugmentConfig(crop="random_resized", min_area=0.5, flip=0.5, color=0.2)
LEARN = OptimConfig(
    name="adamw",
    lr=3e-3,
    weight_decay=0.05,
    decay_norm=False,
    schedule="cosine",
    warmup_epochs=1,
    ema_decay=0.99,
    max_grad_norm=1.0,
)
STARTS: dict[str, dict[str, Any]] = {
    "match": {"objective": "match"},
    "contrastive": {"objective": "contrastive"},
    "regress": {"objective": "regress", "batch_size": 16},
    "sum": {"objective": "sum"},
    "match-all": {"objective": "match", "negatives": "all", "batch_size": 16},
    "match-time": {"objective": "match", "negatives": "all", "other_time": True},
    "match-low": {"objective": "match", "lr": 1e-3},
    "contrastive-teacher": {"objective": "contrastive", "space": "teacher"},
    "regress-32": {"objective": "regress"},
    "regress-color": {"objective": "regress", "batch_size": 16, "color": 0.4, "min_area": 0.3},
    "regress-plain": {"objective": "regress", "batch_size": 16, "color": 0.0, "min_area": 0.8},
}
"""Pre-training per name of a start: options of `pairs`, `augment` and `optim`."""
RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "low": {"lr": 1e-3},
    "long": {"epochs": 3},  # times as many
    "decay": {"layer_decay": 0.7},
    "gentle": {"lr": 1e-3, "layer_decay": 0.7},
    "gentle-long": {"lr": 1e-3, "layer_decay": 0.7, "epochs": 3},
    "mix": {"mixup_alpha": 0.4},
}
"""Supervised training: changes to `LEARN`."""
# Few labels make few steps per epoch: budgets in epochs, the same for every start.
EPOCHS = {5: 120, 20: 40, 100: 24}
SETS = {"ucf101_11": (20, 5, 100), "hockey_fights": (5, 100), "arid6": (100,)}
SEEDS = (0, 1, 2, 3, 4)
PRETRAIN_SEEDS = (0, 1, 2)


def jobs(epochs: int) -> dict[str, Job]:
    """All jobs by name."""
    jobs_by_name: dict[str, Job] = {}
    starts = [f"{name}-p{seed}" for seed in PRETRAIN_SEEDS for name in STARTS]
    for start in starts:
        name, _, seed = start.rpartition("-p")
        jobs_by_name[f"pretrain/{start}"] = {"pairs": STARTS[name], "seed": int(seed), "epochs": epochs}
    for start in ("random", *starts):
        jobs_by_name[f"select/{start}"] = {"start": start}
    for stage in ("tune", "test"):
        for videos, percents in SETS.items():
            for percent in percents:
                for start in ("scratch", *starts):
                    for recipe in RECIPES:
                        for seed in SEEDS:
                            name = f"{stage}/{videos}/{percent}/{start}/{recipe}/s{seed}"
                            jobs_by_name[name] = {
                                "set": videos,
                                "percent": percent,
                                "start": start,
                                "recipe": recipe,
                                "seed": seed,
                            }
    for videos in SETS:
        for start in ("teacher", "teacher64", *starts):
            jobs_by_name[f"probe/{videos}/{start}"] = {"set": videos, "start": start}
    return jobs_by_name


def few_shot(features: np.ndarray, labels: np.ndarray, sources: np.ndarray, shots: int) -> float:
    """Return the accuracy of the nearest class mean (cosine), from `shots` videos of different sources.

    The result is the mean over 100 draws. Videos of the sources of the shots are not tested.
    """
    features = StandardScaler().fit_transform(features)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rng, right = np.random.default_rng(0), []
    for _ in range(100):
        means, used = [], np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            chosen = rng.choice(np.unique(sources[labels == label]), shots, replace=False)
            rows = [rng.choice(np.flatnonzero(sources == source)) for source in chosen]
            means.append(features[rows].mean(0))
            used |= np.isin(sources, chosen)
        units = np.stack(means) / np.linalg.norm(means, axis=1, keepdims=True)
        right.append(np.mean((features[~used] @ units.T).argmax(1) == labels[~used]))
    return float(np.mean(right))


class Study:
    """Folders of the study, and a runner per kind of job.

    Args:
        data: The folder of clips and teachers.
        out: Where results go.
        scale: A key of `SCALES`.
    """

    def __init__(self, data: Path, out: Path, *, scale: str) -> None:
        self.student, self.clip, self.workers = SCALES[scale]
        self.data = data.resolve()
        self.out = out.resolve()
        self.run: dict[str, Callable[[str, Job], dict[str, Any]]] = {
            "pretrain": self.pretrain,
            "select": self.select,
            "tune": self.tune,
            "test": self.test,
            "probe": self.probe,
        }

    def pretrain(self, name: str, job: Job) -> dict[str, Any]:
        """Teach a student."""
        pairs = dict(job["pairs"])
        views = {key: pairs.pop(key) for key in ("color", "min_area") if key in pairs}
        steps = {key: pairs.pop(key) for key in ("batch_size", "lr") if key in pairs}
        config = TransferConfig(
            out=str(self.out / name / "run"),
            seed=job["seed"],
            data=PoolConfig(videos=str(self.pool()), val_fraction=0.08, **self._reading()),
            clip=self.clip,
            augment=replace(AUGMENT, **views),
            model=ModelConfig(name=self.student),
            teacher=TeacherConfig(
                name=self._teacher(),
                size=128,
                normalize="imagenet",
                frames=4,
                cache=str(self.out / "features"),
                frame_step=8,
            ),
            pairs=PairConfig(**pairs),
            optim=replace(LEARN, **{"epochs": job["epochs"], "batch_size": 32} | steps),
        )
        run = RunFolder(transfer(config, resume=RunFolder(config.out).config.exists()))
        lines = read_log(run.log)
        return {"held_out": [line for line in lines if line["kind"] == "val"], "minutes": spent(lines)}

    def select(self, name: str, job: Job) -> dict[str, Any]:
        """Measure frozen features with a linear classifier on UCF101's training list."""
        del name
        if job["start"] == "random":
            torch.manual_seed(0)
            net, clip = create_model(self.student, num_classes=0).to(pick_device()), self.clip
        else:
            weights = self.out / f"pretrain/{job['start']}/run/last.safetensors"
            net, card = load_model(weights, device=pick_device())
            clip = card.clip
        net.eval()
        known = open_list(self.data, "ucf101_11", 0)
        store = FrameStore(clip, cache=str(self.out / "cache"), cache_gb=40)
        rows, _ = each_clip(pooled_features(net, clip, bf16=False), known, Protocol(clip), store=store)
        videos = np.array([row[0] for row in rows])
        seen = np.unique(videos)
        vectors = np.stack([row[2] for row in rows])
        features = np.stack([vectors[videos == video].mean(0) for video in seen])
        labels = known.labels[seen]
        sources = np.array(known.table["source"].to_pylist(), dtype=object)[seen]
        folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
        linear = max(
            cross_val_score(
                make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)),
                features,
                labels,
                groups=sources,
                cv=folds,
            ).mean()
            for strength in (1e-3, 1e-2)
        )
        return {"linear": linear} | {
            f"{shots}-shot": few_shot(features, labels, sources, shots) for shots in (3, 10)
        }

    def tune(self, name: str, job: Job) -> dict[str, Any]:
        """Fine-tune, or train from scratch."""
        init = None
        if job["start"] != "scratch":
            init = str(self.out / f"pretrain/{job['start']}/run/last.safetensors")
        known, held = draw_labels(self.data, self.out, job["set"], job["percent"], job["seed"])
        changes = dict(RECIPES[job["recipe"]])
        epochs = EPOCHS[job["percent"]] * changes.pop("epochs", 1)
        config = TrainConfig(
            out=str(self.out / name / "run"),
            seed=job["seed"],
            data=DataConfig(
                train=str(known), val=None if held is None else str(held), val_fraction=0.0, **self._reading()
            ),
            clip=self.clip,
            augment=replace(AUGMENT, flip=0.0) if job["set"] == "arid6" else AUGMENT,
            model=ModelConfig(name=self.student, init=init),
            optim=replace(
                LEARN, epochs=epochs, batch_size=16, warmup_epochs=2, label_smoothing=0.1, **changes
            ),
            eval_every=epochs // 4,
        )
        run = RunFolder(train(config, resume=RunFolder(config.out).config.exists()))
        lines = read_log(run.log)
        curve = {line["epoch"]: line["top1"] for line in lines if line["kind"] == "val"}
        return {"minutes": spent(lines), "clips": len(run.read_videos()[0]), "val": curve}

    def test(self, name: str, job: Job) -> dict[str, Any]:
        """Test the weights of `tune`."""
        weights = RunFolder(self.out / name.replace("test/", "tune/", 1) / "run").last
        _, listed, _ = LISTS[job["set"]]
        result = {}
        for order in ("normal", "shuffled", "static"):
            outcome = run_test(
                TestConfig(
                    str(weights),
                    str(self.data / listed),
                    frame_order=order,
                    reading=Reading(root=videos_of(self.data, job["set"]), cache=str(self.out / "cache")),
                    compute=Compute(workers=self.workers),
                )
            )
            result[order] = outcome.metrics.video_top1
        return result

    def probe(self, name: str, job: Job) -> dict[str, Any]:
        """Linear classifiers on one net's frozen features, for the labels of every fine-tuning."""
        del name
        if job["start"].startswith("teacher"):
            size = 64 if job["start"] == "teacher64" else 128
            teacher = open_teacher(self._teacher(), size=size, normalization=NAMED["imagenet"][0])
            function = teacher_vectors(teacher, torch.device("cpu"), "mean")
            spec = replace(self.clip, size=size, resize=size)
        else:
            device = pick_device()
            net, card = load_model(self.out / f"pretrain/{job['start']}/run/last.safetensors", device=device)
            spec, function = card.clip, pooled_features(net, card.clip, bf16=False)
        known = open_list(self.data, job["set"], 0)
        asked = open_list(self.data, job["set"], 1).with_classes(known.classes)
        store = FrameStore(spec)
        train_rows, _ = each_clip(function, known, Protocol(spec), store=store)
        test_rows, bad = each_clip(function, asked, Protocol(spec), store=store)
        result: dict[str, Any] = {}
        for percent in SETS[job["set"]]:
            result[str(percent)] = []
            for seed in SEEDS if percent < 100 else (0,):
                used = {entry.path for entry in known.label_subset(percent / 100, seed=seed)}
                rows = [row for row in train_rows if known[row[0]].path in used]
                outcome = result_of(fit_linear(known, rows).classifier, asked, test_rows, bad)
                result[str(percent)].append(outcome.metrics.video_top1)
        return result

    def pool(self) -> Path:
        """The unlabeled pool: training clips of the three sets and the unlabeled ones, never a test clip.

        Clips that may show the same scene share a source: UCF101's groups, ARID's scenes, and each of the
        kinds of unlabeled clips that were filmed in few places. Copies of test clips under
        other names are left out.
        """
        table = self.out / "pool.csv"
        if table.exists():
            return table
        listed = (self.data / "ucf101_11/splits/trainlist01.txt").read_text().split()
        names = {Path(line).stem for line in listed if line.endswith(".avi")}
        asked = {content_digest(entry.path) for name in LISTS for entry in open_list(self.data, name, 1)}
        rows = []
        for path in sorted((self.data / "ucf101_11/videos").rglob("*.mp4")):
            if path.stem in names:
                rows.append((path, re.sub(r"_c\d+$", "", path.stem)))
        for folder in ("hockey_fights/train", "arid6/train", "unlabeled"):
            for path in sorted((self.data / folder).rglob("*.mp4")):
                parts = path.stem.split("_")
                if folder == "arid6/train":
                    source = f"arid {'_'.join(parts[:2])}"
                elif parts[0] in ("sign", "hands", "machine"):
                    source = parts[0]
                else:
                    source = path.stem
                rows.append((path, source))
        kept = [(path, source) for path, source in rows if content_digest(path) not in asked]
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "source"), *kept])
        return table

    def _reading(self) -> dict[str, Any]:
        return {"cache": str(self.out / "cache"), "cache_gb": 40, "workers": self.workers}

    def _teacher(self) -> str:
        return str(self.data / "teachers/mobilenet_v2_imagenet.onnx")


def main() -> None:
    """Run the selected jobs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("patterns", nargs="+")
    parser.add_argument("--scale", choices=SCALES, default="laptop", help="gpu: t3d121 at 16 × 112 × 112")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of pre-training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    study = Study(chosen.data, chosen.out, scale=chosen.scale)
    run_jobs(
        jobs(chosen.epochs),
        lambda name, job: study.run[name.partition("/")[0]](name, job),
        chosen.out,
        chosen.patterns,
        only_list=chosen.list,
    )


if __name__ == "__main__":
    main()
