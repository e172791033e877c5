from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from t3d.cli.main import main
from t3d.data.index import VideoIndex
from t3d.data.inspect.audit import compare, summarize
from t3d.data.inspect.shared import Shared
from t3d.data.manifest.manifest import Manifest
from t3d.data.official.listed import open_list
from t3d.data.official.ucf101 import read_ucf101
from t3d.errors import Failed
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")


def film(
    path: Path, seed: int, *, frames: int = 16, size: tuple[int, int] = (48, 64), **options: object
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    ground = torch.rand(1, 3, 6, 8, generator=generator)
    picture = F.resize(ground, [96, 128], interpolation=F.InterpolationMode.BICUBIC).clamp(0, 1)
    cut = torch.stack([picture[0, :, i : i + 48, i : i + 64] for i in range(frames)])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, (F.resize(cut, list(size)) * 255).to(torch.uint8), **options)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two parts: of one video the bytes are in both, one was made again smaller, one shares its source."""
    for part, first in (("train", 0), ("test", 10)):
        for number in range(3):
            film(tmp_path / part / "jump" / f"v_jump_g{first + number:02}_c01.mp4", first + number)
        film(tmp_path / part / "run" / f"v_run_g07_c0{1 + (part == 'test')}.mp4", 30 + first, fps=30)
    (tmp_path / "test/jump/v_jump_g20_c01.mp4").write_bytes(
        (tmp_path / "train/jump/v_jump_g01_c01.mp4").read_bytes()
    )
    film(tmp_path / "test/run/v_run_g21_c01.mp4", 2, size=(24, 32), crf=28)
    (tmp_path / "test/run/v_run_g22_c01.mp4").touch()
    return tmp_path


@pytest.fixture
def index(parts: Path) -> Path:
    index_videos(Manifest.from_files([parts / "train", parts / "test"]), parts / "index.parquet")
    return parts / "index.parquet"


def both(parts: Path) -> dict[str, Manifest]:
    return {part: Manifest.from_folder(parts / part) for part in ("train", "test")}


def test_a_list_is_counted(parts: Path, index: Path) -> None:
    summary = summarize(both(parts)["test"], VideoIndex.read(index))
    assert (summary.videos, summary.files, summary.sources, summary.unlabeled) == (7, 7, 7, 0)
    assert summary.classes == {"jump": 4, "run": 3}
    assert summary.bad == (Failed(str(parts / "test/run/v_run_g22_c01.mp4"), "is empty (0 bytes)"),)
    assert (summary.damaged, summary.unknown, summary.missing) == ((), 0, {})
    assert summary.seconds == pytest.approx(5 * 16 / 25 + 16 / 30, abs=1e-3)
    assert summary.size == sum(path.stat().st_size for path in (parts / "test").rglob("*.mp4"))
    assert summary.frames == (16, 16, 16)
    assert summary.shapes == {"64 × 48": 5, "32 × 24": 1}
    assert summary.rates == {"25": 5, "30": 1}
    assert summary.codecs == {"h264": 6}


def test_without_an_index_only_names_are_known(parts: Path) -> None:
    summary = summarize(both(parts)["train"])
    assert (summary.videos, summary.unknown, summary.frames, summary.seconds) == (4, 4, None, 0)
    (shared,) = compare(both(parts))
    pair = (
        str(parts / "train/jump/v_jump_g01_c01.mp4"),
        str(parts / "test/jump/v_jump_g20_c01.mp4"),
    )  # found by size, then by bytes
    assert shared == Shared("train", "test", (), ("run_g07",), (pair,), (), unhashed=(4, 7), searched=False)


def test_shared_videos_of_two_lists_are_found(parts: Path, index: Path) -> None:
    (shared,) = compare(both(parts), VideoIndex.read(index))
    assert (shared.one, shared.two, shared.files, shared.sources) == ("train", "test", (), ("run_g07",))
    names = [tuple(Path(path).name for path in pair) for pair in shared.same]
    assert names == [("v_jump_g01_c01.mp4", "v_jump_g20_c01.mp4")]
    ((one, two, apart),) = shared.near
    assert (one, two) == (
        str(parts / "train/jump/v_jump_g02_c01.mp4"),
        str(parts / "test/run/v_run_g21_c01.mp4"),
    )
    assert apart <= 0.1
    assert shared


def test_every_pair_of_identical_files_is_reported(parts: Path) -> None:
    for number in (40, 41):
        data = (parts / "train/jump/v_jump_g01_c01.mp4").read_bytes()
        (parts / f"train/jump/v_jump_g{number}_c01.mp4").write_bytes(data)
    index_videos(Manifest.from_files([parts / "train", parts / "test"]), parts / "more.parquet")
    (shared,) = compare(both(parts), VideoIndex.read(parts / "more.parquet"))
    assert [Path(one).stem[-7:-4] for one, _ in shared.same] == ["g01", "g40", "g41"]


def test_files_of_one_name_in_two_folders_are_two_sources(tmp_path: Path) -> None:
    """Each is its own source, by its path below its own folder: `run/1` and `run/1`."""
    film(tmp_path / "train/run/1.mp4", 1)
    film(tmp_path / "test/run/1.mp4", 2)
    film(tmp_path / "train/run/2.mp4", 3)
    film(tmp_path / "test/run/2.mp4", 3, crf=30)  # the same name, and the same to look at
    index_videos(Manifest.from_files([tmp_path]), tmp_path / "i.parquet")
    (shared,) = compare(both(tmp_path), VideoIndex.read(tmp_path / "i.parquet"))
    assert (shared.files, shared.sources, shared.same) == ((), (), ())
    ((one, two, _),) = shared.near
    assert (one, two) == (str(tmp_path / "train/run/2.mp4"), str(tmp_path / "test/run/2.mp4"))


def test_a_file_in_both_lists_is_reported_once(parts: Path, index: Path) -> None:
    whole = Manifest.from_files(sorted((parts / "train").rglob("*.mp4")))
    known = VideoIndex.read(index)
    (shared,) = compare({"all": whole, "some": whole.select([0, 2])}, known)
    assert shared.files == tuple(str(whole[row].path) for row in (0, 2))
    assert shared.same == shared.near == ()
    (nothing,) = compare({"a": whole.select([0]), "b": whole.select([1])}, known)
    assert not nothing


def test_the_command(parts: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = str(parts / "train"), str(parts / "test")
    assert main(["data", "check", train, test, "--index", str(index)]) == 1
    output = capsys.readouterr().out
    assert (
        f"{train}: 4 videos in 4 files, 2 classes, 4 groups\n  videos per class: 1 (run) to 3 (jump)"
        in output
    )
    assert "frames per file: 16 to 16" in output
    assert "64 × 48: 5, 32 × 24: 1" in output
    assert f"1 unreadable file:\n  {test}/run/v_run_g22_c01.mp4: is empty" in output
    assert (
        f"{train} and {test} share\n1 group (column `source`):\n  run_g07\n1 pair of identical files:"
        in output
    )
    assert f"Near-duplicates of 1 files of {test} were not searched for" in output  # it is unreadable
    assert main(["data", "check", train, test]) == 1  # the index next to the folders is found
    assert "1 pair of near-duplicates from different groups:" in capsys.readouterr().out
    index.unlink()
    assert main(["data", "check", train, test]) == 1
    output = capsys.readouterr().out
    assert "~" not in output
    assert (
        "Near-duplicates were not searched for: that needs an index with the perceptual hashes of both "
        f"lists; create it with `t3d prepare index {parts} --unlabeled --out {parts}/index.parquet`"
    ) in output
    assert main(["data", "check", train, test, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["lists"][train]["unknown"] == 4
    assert report["shared"][0]["sources"] == ["run_g07"]
    assert main(["data", "check", train]) == 0
    assert "in the index" not in capsys.readouterr().out


@pytest.mark.real
@pytest.mark.parametrize(
    "groups", [r"_g(03|23|04|16)_", pytest.param(r"_g\d\d_", marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_two_clips_of_ucf101_are_in_both_parts_of_its_first_split(
    real_data: Path, tmp_path: Path, groups: str
) -> None:
    """Classes with a local copy: the groups differ, but the bytes are the same."""
    lists = {part: real_data / f"ucf101_11/splits/{part}list01.txt" for part in ("train", "test")}
    manifests = {
        part: open_list(read_ucf101(file), real_data / "ucf101_11/videos") for part, file in lists.items()
    }
    some = {
        part: manifest.select(
            [
                row
                for row, entry in enumerate(manifest)
                if entry.path.parent.name in ("Basketball", "WalkingWithDog")
                and re.search(groups, entry.path.name)
            ]
        )
        for part, manifest in manifests.items()
    }
    index_videos(
        Manifest.from_files([entry.path for part in some.values() for entry in part]), tmp_path / "i.parquet"
    )
    (shared,) = compare(some, VideoIndex.read(tmp_path / "i.parquet"))
    assert {tuple(Path(path).stem for path in pair) for pair in shared.same} == {
        ("v_Basketball_g23_c01", "v_Basketball_g03_c01"),
        ("v_WalkingWithDog_g16_c03", "v_WalkingWithDog_g04_c05"),
    }
    assert shared.files == shared.sources == ()
    assert len(shared.near) > 5


def test_rates_that_differ_by_more_than_a_quarter_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    for name, fps in (("slow/a", 10), ("slow/b", 12), ("fast/a", 50), ("fast/b", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / f"{name}.mp4", frames, fps=fps)
    manifest = Manifest.from_files([tmp_path])
    index_videos(manifest, tmp_path / "index.parquet")
    index = VideoIndex.read(tmp_path / "index.parquet")
    assert summarize(Manifest.from_files([tmp_path / "slow"]), index).mixed_rates == ""
    text = summarize(manifest, index).mixed_rates
    assert text.startswith("the videos have 10 to 50 frames per second (median 31)")
    for name in ("slow", "fast", "both"):
        parts = ["slow", "fast"] if name == "both" else [name]
        rows = [f"{part}/{video}.mp4,{part}" for part in parts for video in "ab"]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *rows]))
    words = ["--index", str(tmp_path / "index.parquet")]
    main(["data", "check", str(tmp_path / "slow.csv"), *words])
    assert "warning" not in capsys.readouterr().out
    main(["data", "check", str(tmp_path / "both.csv"), *words])
    assert "  warning: the videos have 10 to 50 frames per second" in capsys.readouterr().out
    main(["data", "check", str(tmp_path / "slow.csv"), str(tmp_path / "fast.csv"), *words])
    assert "warning: in all lists together, the videos have 10 to 50" in capsys.readouterr().out
