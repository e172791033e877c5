from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import PIL.Image
import pytest

from t3d.cli.main import main
from t3d.data.index import VideoIndex
from t3d.data.inspect.browse import write_page
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.prepare.index import index_videos
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")


@pytest.fixture
def lists(tmp_path: Path, numbered_frames) -> dict[str, Manifest]:
    for part, first in (("train", 0), ("test", 100)):
        for number, name in enumerate(("high <jump>/1", "high <jump>/2", "run/1")):
            path = tmp_path / part / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, numbered_frames(20, height=96, width=160, first=first + 20 * number))
    (tmp_path / "test/run/copy.mp4").write_bytes((tmp_path / "train/run/1.mp4").read_bytes())
    (tmp_path / "test/run/empty.mp4").touch()
    return {part: Manifest.from_folder(tmp_path / part) for part in ("train", "test")}


def pictures(page: str) -> list[PIL.Image.Image]:
    addresses = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [PIL.Image.open(io.BytesIO(base64.b64decode(data))) for data in addresses]


@pytest.mark.parametrize("name", ["per_class", "frames", "height"])
def test_a_page_of_nothing_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        write_page(tmp_path / "page.html", {}, **{name: 0})


def test_some_videos_of_each_class_are_shown(tmp_path: Path, lists: dict[str, Manifest]) -> None:
    page = write_page(tmp_path / "page.html", lists, per_class=1, pairs=0, frames=3, height=48).read_text()
    assert page.count("high &lt;jump&gt;</h2>") == page.count("run</h2>") == 1
    assert "<jump>" not in page
    assert "<h3>train: 2 videos</h3>" in page
    assert "<h3>test: 3 videos</h3>" in page
    shown = pictures(page)
    assert len(shown) in (3, 4)  # an unreadable video may be the one drawn
    assert {picture.size for picture in shown} == {(3 * 80, 48)}
    again = write_page(tmp_path / "again.html", lists, per_class=1, pairs=0, frames=3, height=48).read_text()
    assert again == page


def test_frames_are_those_of_the_video(tmp_path: Path, lists: dict[str, Manifest], read_numbers) -> None:
    import numpy as np
    import torch

    page = write_page(tmp_path / "page.html", {"train": lists["train"]}, frames=4, height=96).read_text()
    for number, picture in enumerate(pictures(page)):
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)  # C H W
        frames = torch.stack(pixels.split(160, dim=2))
        assert read_numbers(frames) == [20 * number + i for i in (2, 7, 12, 17)]


def test_unreadable_and_shared_videos_are_shown(tmp_path: Path, lists: dict[str, Manifest]) -> None:
    index_videos(Manifest.from_files([tmp_path / "train", tmp_path / "test"]), tmp_path / "i.parquet")
    page = write_page(
        tmp_path / "page.html", lists, index=VideoIndex.read(tmp_path / "i.parquet")
    ).read_text()
    assert re.search(r'empty\.mp4 ·[^<]*<span class="wrong">is empty \(0 bytes\)', page)
    assert "train and test share" in page
    assert "1 pairs of files with the same bytes" in page
    assert "copy.mp4 · 20 frames, 0.8 s · test · same bytes" in page


def test_lists_with_the_same_name_stay_distinct(tmp_path: Path, lists: dict[str, Manifest]) -> None:
    named = {"old/train": lists["train"], "new/train": lists["test"]}
    page = write_page(tmp_path / "page.html", named, per_class=1, frames=1).read_text()
    assert "<h1>old/train, new/train</h1>" in page
    assert "<h3>old/train: 2 videos</h3>" in page
    assert "<h3>new/train: 3 videos</h3>" in page
    assert '<span class="list list0">old/train</span>' in page
    assert '<span class="list list1">new/train</span>' in page


def test_the_command(tmp_path: Path, lists: dict[str, Manifest], capsys) -> None:
    assert main(["data", "browse", str(tmp_path / "train"), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert len(pictures((tmp_path / "page.html").read_text())) == len(lists["train"])
