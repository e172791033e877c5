"""A table of URLs works in every command; the videos are on a web server of this machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.catalog import open_manifest
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.io import video_cache
from t3d.io.video_cache import local_path
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")

COMPUTE = ["--workers", "0", "--precision", "fp32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and four clips."""
    root = tmp_path_factory.mktemp("made")
    model = create_model("densenet3d_tiny", num_classes=2)
    spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
    save_model(
        model, root / "w.safetensors", card=ModelCard("densenet3d_tiny", classes=("x", "y"), clip=spec)
    )
    for at in range(4):
        frames = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(at))
        write_video(root / f"{at}.mp4", frames.to(torch.uint8))
    return root


@pytest.fixture
def table(made: Path, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of the clips by URL, without names of columns."""
    monkeypatch.setenv(video_cache.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    for at in range(4):
        site.put(f"/v/{at}.mp4", (made / f"{at}.mp4").read_bytes())
    file = tmp_path / "list.csv"
    file.write_text("".join(f"{site.url(f'/v/{at}.mp4')},{'xy'[at % 2]}\n" for at in range(4)))
    return file


def test_a_table_of_urls(table: Path, site: Any, tmp_path: Path) -> None:
    manifest = open_manifest(str(table))
    urls = [site.url(f"/v/{at}.mp4") for at in range(4)]
    assert manifest.table["path"].to_pylist() == [local_path(url) for url in urls]
    assert manifest.sources() == [url.removesuffix(".mp4") for url in urls]
    rest, held = manifest.split_by_source(0.5, seed=0)  # each video is its own group
    assert (len(rest), len(held)) == (2, 2)
    manifest.write_csv(tmp_path / "new.csv")
    assert [line.split(",")[0] for line in (tmp_path / "new.csv").read_text().splitlines()[1:]] == [
        f'"{url}"' for url in urls
    ]
    assert Manifest.from_csv(tmp_path / "new.csv") == manifest
    assert not site.asked


def test_urls_of_files_and_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(video_cache.FOLDER, str(tmp_path / "copies"))
    (tmp_path / "list.csv").write_text(f"path\n{(tmp_path / 'a b.mp4').as_uri()}\ns3://bucket/v/c.mp4\n")
    one, two = open_manifest(str(tmp_path / "list.csv"))
    assert one.path == tmp_path / "a b.mp4"
    assert (str(two.path), two.source) == (local_path("s3://bucket/v/c.mp4"), "s3://bucket/v/c")


@pytest.mark.situation(
    "URLs",
    "Lists of URLs",
    "Downloaded once into a bounded cache",
)
def test_every_command_reads_them(
    table: Path, made: Path, site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, urls = str(made / "w.safetensors"), [site.url(f"/v/{at}.mp4") for at in range(4)]
    assert main(["data", "check", str(table)]) == 0
    assert "files are missing" not in capsys.readouterr().out
    assert main(["test", weights, str(table), "--out", str(tmp_path / "out"), *COMPUTE]) == 0
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == urls
    assert len(site.asked) == 4
    assert main(["prepare", "index", str(table), "--out", str(tmp_path / "i.parquet"), "--workers", "1"]) == 0
    index = VideoIndex.read(tmp_path / "i.parquet")
    assert Path(local_path(urls[0])) in index
    capsys.readouterr()
    for words in ([str(table)], urls, [str(tmp_path / "i.parquet")]):
        assert main(["predict", weights, *words, "--json", *COMPUTE]) == 0
        assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == urls
    assert len(site.asked) == 4


@pytest.mark.situation(
    "URLs",
    "A URL that does not exist, or is a web page",
    "An error for that video alone",
)
def test_a_url_that_fails_is_an_error_of_that_video_alone(
    table: Path, made: Path, site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.pages["/v/1.mp4"]
    site.put("/v/2.mp4", b"<html>")
    assert main(["predict", str(made / "w.safetensors"), str(table), "--json", *COMPUTE]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, False]
    url = site.url("/v/1.mp4")
    assert lines[1] == {"path": url, "error": f"{url} cannot be downloaded: the server answers 404 Not Found"}
    assert "sends a web page instead of a video" in lines[2]["error"]
