"""Does transfer help? The runs behind docs/results.md, "Supervision transfer".

    python benchmarks/transfer_study.py DATA OUT 'pretrain/*' 'tune/ucf101_11-20-*'

DATA holds ucf101_11, hockey_fights, arid6, unlabelled and teachers. Jobs whose names match a pattern are run,
in order; what is finished is not run again, and what was killed goes on where it was, so that several of
these processes may share the work, each with patterns of its own. `--list` names the jobs; `--table` prints
what there is so far. Each job leaves OUT/NAME/result.json.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import re
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t3d.data.catalogue import open_manifest
from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.frames import FrameStore
from t3d.data.sampling import ClipSpec
from t3d.evaluate import each_clip
from t3d.models.weights import load_model
from t3d.testing import run_test
from t3d.train.config import ModelConfig, OptimConfig, TrainConfig
from t3d.train.logging import read_log
from t3d.train.loop import train
from t3d.train.run_folder import RunFolder
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.loop import transfer
from t3d.transfer.probe import fit_linear, outcome_of, student_vectors, teacher_vectors
from t3d.transfer.teacher import open_teacher

OBJECTIVES = ("match", "contrastive", "regress", "sum")
CLIP = ClipSpec(num_frames=16, stride=4, size=64, resize=72, tail="shift")
AUGMENT = AugmentConfig(crop="random_resized", min_area=0.5, flip=0.5, color=0.2)
# Few labels make few steps an epoch: budgets in epochs, the same for every start.
EPOCHS = {5: 120, 20: 40, 100: 24}
SETS = {"ucf101_11": (5, 20, 100), "hockey_fights": (5, 100), "arid6": (100,)}
SEEDS = (0, 1, 2)
LISTS = {
    "ucf101_11": ("ucf101_11/splits/trainlist01.txt", "ucf101_11/splits/testlist01.txt", None),
    "hockey_fights": ("hockey_fights/train", "hockey_fights/test", None),
    "arid6": ("arid6/train", "arid6/val", r"_(\d+)_\d+$"),
}


def jobs(pretrain_epochs: int) -> dict[str, dict[str, Any]]:
    """All jobs by name, in the order they are worth running in."""
    found: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        for objective in OBJECTIVES:
            found[f"pretrain/{objective}-p{seed}"] = {
                "objective": objective,
                "seed": seed,
                "epochs": pretrain_epochs,
            }
    for name, percents in SETS.items():
        for percent in percents:
            for seed in SEEDS:
                for start in ("scratch", *(f"{o}-p{p}" for o in OBJECTIVES for p in SEEDS)):
                    found[f"tune/{name}-{percent}-{start}-s{seed}"] = {
                        "set": name,
                        "percent": percent,
                        "start": start,
                        "seed": seed,
                    }
    for name in SETS:
        for start in ("teacher", *(f"{o}-p0" for o in OBJECTIVES)):
            found[f"probe/{name}-{start}"] = {"set": name, "start": start}
    return found


def pool_table(data: Path, out: Path) -> Path:
    """The unlabelled pool: training clips of the three sets and the unlabelled ones, never a test clip.

    Clips that may show the same scene share a source: UCF101's groups, ARID's scenes, and each of the kinds
    of unlabelled clips that were filmed in few places.
    """
    rows = []
    listed = (data / "ucf101_11/splits/trainlist01.txt").read_text().split()
    names = {Path(line).stem for line in listed if line.endswith(".avi")}
    for path in sorted((data / "ucf101_11/videos").rglob("*.mp4")):
        if path.stem in names:
            rows.append((path, re.sub(r"_c\d+$", "", path.stem)))
    for folder in ("hockey_fights/train", "arid6/train", "unlabelled"):
        for path in sorted((data / folder).rglob("*.mp4")):
            parts = path.stem.split("_")
            if folder == "arid6/train":
                source = f"arid {'_'.join(parts[:2])}"
            elif parts[0] in ("sign", "hands", "machine"):
                source = parts[0]
            else:
                source = path.stem
            rows.append((path, source))
    table = out / "pool.csv"
    if not table.exists():
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "source"), *rows])
    return table


def run_pretrain(job: dict[str, Any], folder: Path, data: Path, out: Path) -> dict[str, Any]:
    """Teach a student."""
    config = TransferConfig(
        out=str(folder / "run"),
        seed=job["seed"],
        data=PoolConfig(
            videos=str(pool_table(data, out)),
            val_fraction=0.08,
            cache=str(out / "cache"),
            cache_gb=40,
            workers=0,
        ),
        clip=CLIP,
        augment=AUGMENT,
        model=ModelConfig(name="t3d_tiny"),
        teacher=TeacherConfig(
            name=str(data / "teachers/mobilenet_v2_imagenet.onnx"),
            size=128,
            frames=4,
            cache=str(out / "features"),
            frame_step=8,
        ),
        pairs=PairConfig(objective=job["objective"], negatives="one"),
        optim=OptimConfig(
            name="adamw",
            lr=3e-3,
            weight_decay=0.05,
            decay_norm=False,
            epochs=job["epochs"],
            batch_size=32,
            schedule="cosine",
            warmup_epochs=1,
            ema=0.99,
            clip_grad=1.0,
        ),
    )
    run = RunFolder(transfer(config, resume=RunFolder(config.out).config.exists()))
    lines = read_log(run.log)
    return {"held_out": [line for line in lines if line["kind"] == "val"], "minutes": spent(lines)}


def run_tune(job: dict[str, Any], folder: Path, data: Path, out: Path) -> dict[str, Any]:
    """Fine-tune, or train from scratch, and test once."""
    videos, test, pattern = LISTS[job["set"]]
    init = None if job["start"] == "scratch" else out / f"pretrain/{job['start']}/run/model.safetensors"
    config = TrainConfig(
        out=str(folder / "run"),
        seed=job["seed"],
        data=DataConfig(
            train=str(data / videos),
            videos=str(data / "ucf101_11/videos") if videos.endswith(".txt") else None,
            source_pattern=pattern,
            label_fraction=job["percent"] / 100,
            label_seed=job["seed"],
            val_fraction=0.0 if job["set"] == "arid6" else 0.1,  # ARID's few scenes cannot be held out
            cache=str(out / "cache"),
            cache_gb=40,
            workers=0,
        ),
        clip=CLIP,
        augment=replace(AUGMENT, flip=0.0) if job["set"] == "arid6" else AUGMENT,
        model=ModelConfig(name="t3d_tiny", init=None if init is None else str(init)),
        optim=OptimConfig(
            name="adamw",
            lr=3e-3,
            weight_decay=0.05,
            decay_norm=False,
            epochs=EPOCHS[job["percent"]],
            batch_size=16,
            schedule="cosine",
            warmup_epochs=2,
            label_smoothing=0.1,
            ema=0.99,
            clip_grad=1.0,
        ),
        eval_every=max(1, EPOCHS[job["percent"]] // 8),
    )
    run = RunFolder(train(config, resume=RunFolder(config.out).config.exists()))
    lines = read_log(run.log)
    result: dict[str, Any] = {"minutes": spent(lines), "val": [x for x in lines if x["kind"] == "val"]}
    listed = str(data / "ucf101_11/videos") if test.endswith(".txt") else None
    for order in ("normal", "shuffled", "static"):
        metrics = run_test(
            run.weights, str(data / test), videos=listed, frames=order, cache=str(out / "cache")
        ).metrics
        result[order] = metrics.video_top1
    result["clips"] = len(run.read_videos()[0])
    return result


def run_probe(job: dict[str, Any], folder: Path, data: Path, out: Path) -> dict[str, Any]:
    """Linear classifiers on one net's frozen features, for all shares of the labels and seeds."""
    del folder
    listed = str(data / "ucf101_11/videos") if job["set"] == "ucf101_11" else None
    train_list, test_list, pattern = LISTS[job["set"]]
    known = open_manifest(str(data / train_list), videos=listed, source_pattern=pattern)
    asked = open_manifest(str(data / test_list), videos=listed).with_classes(known.classes)
    if job["start"] == "teacher":
        teacher = open_teacher(str(data / "teachers/mobilenet_v2_imagenet.onnx"), size=128)
        spec = replace(CLIP, size=128, resize=128)
        function = teacher_vectors(teacher, torch.device("cpu"))
    else:
        net, card = load_model(out / f"pretrain/{job['start']}/run/model.safetensors")
        spec, function = card.clip, student_vectors(net, card.clip, bf16=False)
    store = FrameStore(spec)
    train_rows, _ = each_clip(function, known, spec=spec, store=store)
    test_rows, bad = each_clip(function, asked, spec=spec, store=store)
    result: dict[str, Any] = {}
    for percent in SETS[job["set"]]:
        result[str(percent)] = []
        for seed in SEEDS if percent < 100 else (0,):
            labelled = known
            if job["set"] != "arid6":  # as the training runs have it
                labelled, _ = known.split_by_source(0.1, seed=seed)
            part = labelled.label_subset(percent / 100, seed=seed)
            chosen = {(entry.path, entry.start) for entry in part}
            rows = [row for row in train_rows if (known[row[0]].path, known[row[0]].start) in chosen]
            outcome = outcome_of(fit_linear(known, rows), asked, test_rows, bad)
            result[str(percent)].append(outcome.metrics.video_top1)
    return result


def spent(lines: list[dict[str, Any]]) -> float:
    """Minutes between the first and the last line of a log."""
    return (lines[-1]["time"] - lines[0]["time"]) / 60


def table(out: Path) -> None:
    """Print mean and standard deviation over seeds of all that is finished."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(out.glob("tune/*/result.json")):
        name, percent, start, _ = [*file.parent.name.split("-", 2), ""]
        start = re.sub(r"(-p\d+)?-s\d+$", "", start)
        groups[f"{name} {percent} %", start].append(json.loads(file.read_text()))
    for (what, start), results in groups.items():
        row = []
        for order in ("normal", "shuffled", "static", "minutes"):
            values = [r[order] * (1 if order == "minutes" else 100) for r in results]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            row.append(f"{order} {statistics.mean(values):.1f} ± {spread:.1f}")
        print(f"{what:20} {start:12} n={len(results)}  " + "  ".join(row))
    for file in sorted(out.glob("probe/*/result.json")):
        result = json.loads(file.read_text())
        shares = [key for key in result if key.isdigit()]
        print(file.parent.name, *(f"{s} %: " + " ".join(f"{100 * v:.1f}" for v in result[s]) for s in shares))
    for file in sorted(out.glob("pretrain/*/result.json")):
        result = json.loads(file.read_text())
        print(file.parent.name, f"{result['minutes']:.1f} min", result["held_out"][-1])


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--epochs", type=int, default=10, help="of pre-training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    if chosen.table:
        table(chosen.out)
        return
    for pattern in chosen.patterns or ["*"]:
        for name, job in jobs(chosen.epochs).items():
            result = chosen.out / name / "result.json"
            if not fnmatch.fnmatch(name, pattern) or result.exists():
                continue
            if chosen.list:
                print(name)
                continue
            print(f"=== {name}", flush=True)
            run = {"pretrain": run_pretrain, "tune": run_tune, "probe": run_probe}[name.partition("/")[0]]
            found = run(job, result.parent, chosen.data, chosen.out)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps({**job, **found}, indent=1))


if __name__ == "__main__":
    main()
