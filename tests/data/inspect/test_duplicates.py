from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from t3d.data.index import read_table
from t3d.data.inspect.duplicates import Duplicates, find_duplicates
from t3d.data.manifest.manifest import Manifest
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")


def scene(seed: int, frames: int = 24) -> torch.Tensor:
    """Something with structure: coarse noise that drifts, uint8 T C 96 × 128."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.rand(1, 3, 6, 8, generator=generator)
    picture = F.resize(ground, [160, 192], interpolation=F.InterpolationMode.BICUBIC).clamp(0, 1)
    cut = [picture[0, :, i : i + 96, 2 * i : 2 * i + 128] for i in range(frames)]
    return (torch.stack(cut) * 255).to(torch.uint8)


def duplicates_in(folder: Path, **sources: str) -> Duplicates:
    table = folder / "list.csv"
    names = sorted(path.name for path in folder.glob("*.mp4"))
    table.write_text("path,source\n" + "".join(f"{n},{sources.get(n[:-4], n)}\n" for n in names))
    index_videos(Manifest.from_csv(table), folder / "index.parquet")
    return find_duplicates(read_table(folder / "index.parquet"))


def test_same_bytes_and_same_looks_are_found_and_others_are_not(tmp_path: Path) -> None:
    for seed in range(6):
        write_video(tmp_path / f"{seed}.mp4", scene(seed))
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "3.mp4").read_bytes())
    write_video(tmp_path / "small.mp4", F.resize(scene(4), [48, 64]), crf=35, keyframe_interval=5, fps=30)
    duplicates = duplicates_in(tmp_path)
    assert duplicates.same == ((str(tmp_path / "3.mp4"), str(tmp_path / "copy.mp4")),)
    ((one, two, apart),) = duplicates.near
    assert (one, two) == (str(tmp_path / "4.mp4"), str(tmp_path / "small.mp4"))
    assert 0 < apart <= 0.1


def random_looks(files: int, alike: list[tuple[int, int]]) -> pa.Table:
    looks = np.random.default_rng(0).integers(0, 2**64, (files, 8), dtype=np.uint64)
    for one, two in alike:
        looks[two] = looks[one] ^ np.uint64(0b111)  # 3 of 64 bits
    names = [f"{number}.mp4" for number in range(files)]
    columns = {"path": names, "source": names, "digest": names}
    return pa.table(columns | {"looks": pa.array(looks.tolist(), pa.list_(pa.uint64()))})


def test_no_pair_is_lost_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.data.inspect.duplicates._ROWS", 4)
    pairs = {(one, two) for one, two, _ in find_duplicates(random_looks(10, [(0, 1), (3, 4), (5, 9)])).near}
    assert pairs == {("0.mp4", "1.mp4"), ("3.mp4", "4.mp4"), ("5.mp4", "9.mp4")}


def test_above_a_bound_perceptual_hashes_are_compared_only_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = random_looks(5, [(1, 3)])
    assert find_duplicates(files).compared
    assert find_duplicates(files, near=False) == Duplicates((), (), compared=False)
    monkeypatch.setattr("t3d.data.inspect.duplicates.MOST_COMPARED", 4)
    assert find_duplicates(files) == Duplicates((), (), compared=False)
    assert find_duplicates(files, near=True) == Duplicates((), (("1.mp4", "3.mp4", 0.0469),), compared=True)


def test_clips_of_one_source_may_be_near_duplicates(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", scene(0))
    write_video(tmp_path / "b.mp4", scene(0), crf=30)
    write_video(tmp_path / "c.mp4", scene(0), crf=35)
    duplicates = duplicates_in(tmp_path, a="tape", b="tape", c="other")
    assert {(Path(one).name, Path(two).name) for one, two, _ in duplicates.near} == {
        ("a.mp4", "c.mp4"),
        ("b.mp4", "c.mp4"),
    }


def test_flat_frames_look_like_nothing(tmp_path: Path) -> None:
    for gray in (0, 3, 128):
        write_video(tmp_path / f"{gray}.mp4", torch.full((12, 3, 64, 64), gray, dtype=torch.uint8))
    assert duplicates_in(tmp_path) == Duplicates((), ())


def test_black_borders_do_not_hide_a_video(tmp_path: Path) -> None:
    for seed in range(6):
        frames = torch.zeros(24, 3, 96, 128, dtype=torch.uint8)
        frames[:, :, 20:-20, 20:-20] = F.resize(scene(seed), [56, 88])
        write_video(tmp_path / f"{seed}.mp4", frames)
        write_video(tmp_path / f"{seed}b.mp4", frames, crf=30)
    pairs = {(Path(one).stem, Path(two).stem) for one, two, _ in duplicates_in(tmp_path).near}
    assert pairs == {(f"{seed}", f"{seed}b") for seed in range(6)}


@pytest.mark.real
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_the_known_duplicates_of_hockey_fights(real_data, tmp_path: Path, every: int) -> None:
    """Three pairs, as the data set's description says, two of them across splits."""
    folder = real_data / "hockey_fights"
    paths = [
        path
        for part in ("train", "valid", "test")
        for path in sorted((folder / part / "no_fight").glob("no*.mp4"))
    ]
    known = ("no193", "no5", "no212", "no40", "no238", "no58")
    paths = [path for number, path in enumerate(paths) if number % every == 0 or path.stem in known]
    index_videos(Manifest.from_files(paths), tmp_path / "index.parquet")
    same = find_duplicates(read_table(tmp_path / "index.parquet")).same
    assert {tuple(sorted(Path(path).stem for path in group)) for group in same} == {
        ("no193", "no5"),
        ("no212", "no40"),
        ("no238", "no58"),
    }
