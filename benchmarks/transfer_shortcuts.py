"""Find the cues of transferred students: measure held-out pairs on clips with some information removed.

    python benchmarks/transfer_shortcuts.py OUT match contrastive regress sum

OUT is that of `transfer_study.py`, with `pretrain/START-p0` finished. The teacher's frames do not change. The
clips lose their color, their detail (a mosaic of 4 × 4 or 2 × 2 tiles), their motion (only the middle frame),
or the order of their frames. A student with the same result on a mosaic uses colors and light, not objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from t3d.data.clips.frames import FrameStore
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.transforms import normalize
from t3d.models.registry import create_model
from t3d.models.weights import read_tensors
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import CollatePairs, TeacherView, TransferClips
from t3d.transfer.features import FeatureStore
from t3d.transfer.metrics import PairMetrics
from t3d.transfer.pairs import allowed_pairs, source_groups
from t3d.transfer.step import first_of
from t3d.transfer.student import TransferNet
from t3d.transfer.teachers.open import open_teacher

BATCH = 32  # clips, so that `top1` is out of about 32 for every start


def mosaic(clips: Tensor, tiles: int) -> Tensor:
    """Replace each frame by `tiles` × `tiles` tiles of their mean color, uint8 [B, T, C, H, W]."""
    flat = clips.flatten(0, 1).float()
    coarse = F.interpolate(F.adaptive_avg_pool2d(flat, tiles), size=flat.shape[-2:], mode="nearest")
    return coarse.round().byte().view_as(clips)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda clips: clips,
    "gray": lambda clips: clips.float().mean(2, keepdim=True).round().byte().expand_as(clips),
    "4 × 4 tiles": lambda clips: mosaic(clips, 4),
    "2 × 2 tiles": lambda clips: mosaic(clips, 2),
    "static": lambda clips: clips[:, clips.shape[1] // 2, None].expand_as(clips),
    "shuffled": lambda clips: clips[:, np.random.default_rng(0).permutation(clips.shape[1])],
}


def load(run: RunFolder, config: TransferConfig, teacher_features: int) -> TransferNet:
    """Load the network and its heads from the run's checkpoint (averaged over the steps)."""
    student = create_model(config.model.name, num_classes=0, options=config.model.options)
    net = TransferNet(student, teacher_features, config.pairs)
    kept, prefix = read_tensors(run.checkpoint)[0], "ema.module."
    net.load_state_dict({key: kept[prefix + key] for key in net.state_dict()})
    return net.eval()


@torch.inference_mode()
def figures(run: RunFolder) -> dict[str, dict[str, float]]:
    """`auc` and `top1` of the run's held-out pairs for every view."""
    config = run.read_config(TransferConfig)
    _, videos = run.read_videos()
    assert videos is not None
    assert config.teacher.cache is not None
    asked = config.teacher
    teacher = open_teacher(
        asked.name, weights=asked.weights, size=asked.size, normalization=asked.normalization
    )
    store = FrameStore(config.clip, cache=config.data.cache, cache_gb=config.data.cache_gb)
    kept = FeatureStore(config.teacher.cache, digest=teacher.digest, step=config.teacher.frame_step)
    clips = TransferClips(
        videos,
        config.clip,
        store=store,
        augment=None,
        seed=config.seed,
        teacher=TeacherView(store, config.teacher.frames, kept),  # the store is not asked
    )
    net = load(run, config, teacher.num_features)
    groups = torch.from_numpy(source_groups(videos))
    order = np.random.default_rng(0).permutation(len(videos))
    metrics = {name: PairMetrics(threshold=None) for name in VIEWS}
    for at in range(0, len(order) - 1, BATCH):
        batch = CollatePairs(other_time=False)(
            [clips[SampleKey(0, int(row))] for row in order[at : at + BATCH]]
        )
        assert batch.frames is not None
        masks = allowed_pairs(groups[batch.videos], None)
        for name, change in VIEWS.items():
            scores = net(normalize(change(batch.frames), config.clip), batch.teacher.mean(1))
            metrics[name].add(scores[first_of(scores)], *masks)
    return {name: one.figures() for name, one in metrics.items()}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("starts", nargs="+")
    chosen = parser.parse_args()
    print("| AUC (top-1 of 32) | " + " | ".join(VIEWS) + " |\n|---" + "|---" * len(VIEWS) + "|")
    for start in chosen.starts:
        measured = figures(RunFolder(chosen.out / f"pretrain/{start}-p0/run"))
        cells = [f"{one['auc']:.3f} ({one['top1']:.0%})" for one in measured.values()]
        print(f"| `{start}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
