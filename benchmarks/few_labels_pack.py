"""Pack clips for `few_labels_gpu.py`: JPEG images, teacher features and soft labels. See there."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

FRAMES, STRIDE, SIDE = 16, 4, 128
CLIPS = 3  # per video, spread evenly over it
QUALITY = 90
TEACHER = "lite0"


def pack(data: Path, out: Path, *, parts: int, shares: Sequence[float], seeds: Sequence[int]) -> None:
    """Write PACK: the parts that are missing, then the labels and soft labels.

    Args:
        data: Folder with `trainlist01.txt`, `testlist01.txt` and the videos.
        out: Folder to write.
        parts: Number of files.
        shares: Shares of the labels.
        seeds: Seeds of their draws.
    """
    from t3d.data.catalog import open_videos

    out.mkdir(parents=True, exist_ok=True)
    train, test = (
        open_videos(str(next(data.rglob(f"{name}list01.txt"))), root=str(data)) for name in ("train", "test")
    )
    test = test.with_classes(train.classes, name="the test list")
    entries = [*train, *test]
    for part in range(parts):
        file = part_file(out, part)
        if not file.exists():
            write(file, pack_part(entries, range(part, len(entries), parts), f"part {part + 1} of {parts}"))
    clips = [load_file(part_file(out, part)) for part in range(parts)]
    for part, clip in enumerate(clips):
        if clip["video"].unique().tolist() != list(range(part, len(entries), parts)):
            raise SystemExit(
                f"{part_file(out, part)} was packed from other lists or with another number of parts; delete "
                "the parts, or use another folder"
            )
    video, features = (torch.cat([clip[name] for clip in clips]) for name in ("video", "features"))
    tensors = {
        "label": torch.from_numpy(np.concatenate([train.labels, test.labels])),
        "test": torch.arange(len(entries)) >= len(train),
    }
    for share in shares:
        for seed in seeds:
            soft, labeled = soft_labels(train, video.numpy(), features.numpy(), share, seed)
            tensors |= {f"soft {share} {seed}": soft, f"labeled {share} {seed}": labeled}
    write(out / "labels.safetensors", tensors)
    index = {"parts": parts, "classes": list(train.classes), "shares": list(shares), "seeds": list(seeds)}
    (out / "index.json").write_text(json.dumps(index), encoding="utf-8")


def part_file(folder: Path, part: int) -> Path:
    """Return the path of a part."""
    return folder / f"part-{part:03d}.safetensors"


def write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, so that the file is complete or missing."""
    temporary = file.with_name(f".{file.name}.part")
    save_file(tensors, temporary)
    temporary.replace(file)


def pack_part(entries: Sequence[Any], rows: Sequence[int], title: str) -> dict[str, Tensor]:
    """Return the images, ends of images, rows and teacher features of the clips of some videos.

    Args:
        entries: Rows of the lists, training videos first.
        rows: Rows to pack.
        title: Name of the part, for the progress.

    Returns:
        `bytes`, uint8; `ends`, the end of each image in them, int64 [clips · 16]; `video`, the row of each
        clip; `features`, mean and standard deviation of the teacher's features, float16 [clips, D].
    """
    from t3d.clip import ClipSpec
    from t3d.data.clips.frames import FrameStore
    from t3d.data.clips.sampling import clips_of
    from t3d.data.clips.spans import usable_part
    from t3d.data.clips.transforms import center_view
    from t3d.models.frames import pool_time
    from t3d.progress import track
    from t3d.transfer.teachers.open import open_teacher

    spec = ClipSpec(num_frames=FRAMES, stride=STRIDE, size=SIDE, resize=SIDE, tail="shift")
    store, teacher = FrameStore(spec), open_teacher(TEACHER, size=SIDE)
    images: list[Tensor] = []
    video: list[int] = []
    features: list[Tensor] = []
    for row in track(rows, f"Packing {title}", len(rows), unit="videos"):
        frames = store.open(entries[row].path)
        low, part = usable_part(frames, entries[row], spec)
        clips = clips_of(part, spec)
        for at in np.linspace(0, len(clips) - 1, min(len(clips), CLIPS)).round().astype(int):
            clip = center_view(frames.get(low + clips[at]), spec)  # T C H W
            images += [encoded(frame) for frame in clip]
            seen = torch.stack([decoded(image) for image in images[-FRAMES:]])
            features.append(pool_time(teacher(seen), "mean_std", dim=0).half())
            video.append(row)
    ends = torch.tensor([len(image) for image in images]).cumsum(0)
    return {
        "bytes": torch.cat(images),
        "ends": ends,
        "video": torch.tensor(video),
        "features": torch.stack(features),
    }


def soft_labels(train: Any, video: Any, features: Any, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Label the training videos with a classifier on the teacher's features, as `t3d transfer --labels` does.

    Args:
        train: Training videos, N.
        video: Row of each clip; test videos come after the training videos.
        features: Features of each clip.
        share: Share of the labels.
        seed: Seed of the draw.

    Returns:
        Probabilities, float32 [N, K], and which videos have a label, bool [N].
    """
    from t3d.transfer.config import LabelConfig
    from t3d.transfer.pairs import source_groups
    from t3d.transfer.soft_teacher import TeacherClips, label_softly

    paths = {entry.path for entry in train.label_subset(share, seed=seed)}
    labeled = np.array([entry.path in paths for entry in train])
    order = np.argsort(~labeled, kind="stable")  # videos with labels come first
    rows = np.argsort(order)  # new row of each video
    known, rest = (train.select(part) for part in np.split(order, [int(labeled.sum())]))
    videos = known.followed_by(rest.without_labels()) if len(rest) else known
    of_train = np.flatnonzero(video < len(train))
    new = rows[video[of_train]]
    by_row = np.argsort(new, kind="stable")
    clips = TeacherClips(features[of_train][by_row].astype(np.float32), new[by_row])
    soft = label_softly(videos, clips, LabelConfig(videos="packed"), source_groups(videos))
    return torch.from_numpy(soft.targets[rows]), torch.from_numpy(labeled)


def encoded(frame: Tensor) -> Tensor:
    """Return a frame, uint8 [3, H, W], as the bytes of a JPEG image."""
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def decoded(image: Tensor) -> Tensor:
    """Return the pixels of a JPEG image, uint8 [3, H, W]."""
    with Image.open(io.BytesIO(image.numpy().tobytes())) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
