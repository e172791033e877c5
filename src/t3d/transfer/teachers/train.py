"""Train a small 2D model on still images, for machines that cannot download an ImageNet model.

Legend: N images, S side of an image, K classes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_manifest, refuse_unused_root
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import ResumableBatchSampler, SampleKey
from t3d.data.clips.spans import frame_range
from t3d.data.clips.transforms import center_view, normalize, random_view, resize_frames
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest
from t3d.device import pick_device
from t3d.errors import ConfigError, DivergedError, ManifestError, VideoError, did_you_mean
from t3d.evaluation.figures import Accuracy, accuracy_interval
from t3d.io.files import writable_folder
from t3d.io.locks import alone_in
from t3d.models.tensor_files import write_tensors
from t3d.progress import track
from t3d.transfer.teachers.base import TEACHER_KEY
from t3d.transfer.teachers.config import TeacherTraining

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def train_teacher(config: TeacherTraining) -> tuple[Path, Accuracy]:
    """Train a 2D model to classify images, and write it for `open_teacher`.

    Args:
        config: All options.

    Returns:
        The weights file, and the accuracy on the held-out images.

    Raises:
        ConfigError: An option is invalid, or another run is writing to `config.out`.
        DivergedError: The loss is infinite or NaN.
        ManifestError: The images cannot be used.
    """
    import timm  # takes over a second; `t3d demo` imports this module long before it trains

    if config.name not in timm.list_models():
        raise ConfigError(f"no timm model {config.name!r}; {did_you_mean(config.name, timm.list_models())}")
    writable_folder(Path(config.out).parent, name="out")
    with alone_in(Path(config.out)):
        return _train(config)


def _train(config: TeacherTraining) -> tuple[Path, Accuracy]:
    import timm

    table = _open_images(config)
    training, held_out = table.split_by_source(config.val_fraction, seed=config.seed)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    net = timm.create_model(config.name, pretrained=False, num_classes=len(table.classes)).to(device)
    sampler = ResumableBatchSampler(
        len(training), batch_size=min(config.batch_size, len(training)), seed=config.seed
    )
    images = _Images(
        training, config, AugmentConfig("random_resized", min_area=config.min_area, flip=config.flip)
    )
    loader = Loader(
        images,
        batch_sampler=sampler,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=0.05)
    steps = config.epochs * sampler.steps_per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    accuracy = None
    for epoch in range(config.epochs):
        sampler.set_state(epoch=epoch, step=0)
        net.train()
        losses = []
        for frames, labels in track(
            loader, f"Training, epoch {epoch + 1} of {config.epochs}", unit="batches"
        ):
            loss = F.cross_entropy(net(_pixels(frames, images.spec, device)), _each(labels, frames, device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if not math.isfinite(sum(losses)):
            raise DivergedError(f"the training loss is {losses[-1]}; try a lower `lr` (now {config.lr})")
        accuracy = _accuracy(net, _Images(held_out, config, None), device)
        print(
            f"epoch {epoch + 1:>3}/{config.epochs}  loss {np.mean(losses):.3f}  "
            f"held-out images correct: {accuracy}",
            flush=True,
        )
    assert accuracy is not None  # there is at least one epoch
    card = {
        "name": f"timm:{config.name}",
        "size": config.size,
        "classes": table.classes,
        "held_out_top1": accuracy.share,
        "images": config.images,
        "seed": config.seed,
    }
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in net.state_dict().items()}
    write_tensors(state, Path(config.out), metadata={TEACHER_KEY: json.dumps(card)})
    return Path(config.out), accuracy


class _Images(Dataset[tuple[Tensor, int]]):
    """Views of an image, or of frames of a video, for each key: uint8 [X, 3, S, S] and the label."""

    def __init__(self, table: Manifest, config: TeacherTraining, augment: AugmentConfig | None) -> None:
        self.table = table
        self.seed = config.seed
        self.frames = config.frames
        self.augment = augment
        self.spec = ClipSpec(num_frames=1, stride=1, size=config.size, resize=round(config.size / 0.875))
        index = open_index(None, config.images, root=config.root)
        self.store = FrameStore(self.spec, cache=config.cache, index=index)

    def __len__(self) -> int:
        return len(self.table)

    def check(self) -> None:
        """Read every image once, and decode the videos if there is a cache."""
        for row, entry in enumerate(track(self.table, "Opening images", len(self.table))):
            try:
                if entry.path.suffix.lower() not in _IMAGE_ENDINGS:
                    self.store.prepare(entry.path)
                self[SampleKey(0, row)]
            except (VideoError, OSError) as error:
                raise ManifestError(f"{entry.path}: cannot be read ({error}); repair or remove it") from error

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        rng = np.random.default_rng((self.seed, key.epoch, key.row))
        entry = self.table[key.row]
        assert entry.label is not None
        if entry.path.suffix.lower() in _IMAGE_ENDINGS:
            with Image.open(entry.path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            pixels = resize_frames(torch.from_numpy(np.array(upright)).permute(2, 0, 1)[None], self.spec)
        else:
            frames = self.store.open(entry.path)
            low, high = frame_range(frames, entry)
            pixels = frames.get(rng.integers(low, high, size=self.frames))
        if self.augment is None:
            return center_view(pixels, self.spec), entry.label
        views = [random_view(one[None], self.spec, augment=self.augment, rng=rng) for one in pixels]
        return torch.cat(views), entry.label


def _open_images(config: TeacherTraining) -> Manifest:
    """Return the table of images or videos. Raise an error if one cannot be read."""
    root = Path(config.images)
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in _IMAGE_ENDINGS]
    if not root.is_dir() or not files:
        table = open_manifest(config.images, root=config.root, classes=config.classes)
    else:
        refuse_unused_root(config.root, config.images)
        table = _image_table(root, files)
    if len(table.classes) < 2 or (table.labels < 0).any():
        raise ManifestError(
            f"{config.images}: a teacher needs at least 2 classes, and a label for each image"
        )
    _Images(table, config, AugmentConfig()).check()
    return table


def _image_table(root: Path, files: list[Path]) -> Manifest:
    import pyarrow as pa

    relative = [path.relative_to(root) for path in files]
    if any(len(path.parts) < 2 for path in relative):
        raise ManifestError(
            f"{root}: images are directly in this folder; move the images of each class to a separate folder"
        )
    classes = sorted({path.parts[0] for path in relative})
    columns = {
        "path": [str(path) for path in files],
        "label": [classes.index(path.parts[0]) for path in relative],
        "start": pa.nulls(len(files), pa.float64()),
        "end": pa.nulls(len(files), pa.float64()),
        "source": [str(path) for path in relative],
    }
    return Manifest(tuple(classes), pa.table(columns))


def _pixels(frames: Tensor, spec: ClipSpec, device: torch.device) -> Tensor:
    """Convert uint8 [N, X, 3, S, S] to normalized float32 [N · X, 3, S, S]."""
    return normalize(frames.to(device).flatten(0, 1)[:, None], spec)[:, :, 0]


def _each(labels: Tensor, frames: Tensor, device: torch.device) -> Tensor:
    return labels.to(device).repeat_interleave(frames.shape[1])


@torch.no_grad()
def _accuracy(net: nn.Module, images: _Images, device: torch.device) -> Accuracy:
    net.eval()
    right = []
    for row in range(len(images)):
        frames, label = images[SampleKey(0, row)]
        right.append(
            float((net(_pixels(frames[None], images.spec, device)).argmax(1) == label).float().mean())
        )
    groups = images.table.table["source"].to_pylist()
    interval = accuracy_interval(right, groups)
    return Accuracy(float(np.mean(right)), len(right), interval, 1 / len(images.table.classes))
