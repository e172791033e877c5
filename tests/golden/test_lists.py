"""Drawn once for a whole list: the order in which shards are packed, and the samples of a contact sheet."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t3d.data.index import VideoIndex
from t3d.data.inspect.browse import write_page
from t3d.data.manifest.manifest import Manifest
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards

pytestmark = pytest.mark.usefixtures("work_here")

Make = Callable[..., Any]


def test_packing_order_of_shards(videos: Path, tmp_path: Path) -> None:
    table = Manifest.from_csv(videos / "list.csv")
    index_videos(table, tmp_path / "index.parquet", workers=1)
    index = VideoIndex.read(tmp_path / "index.parquet")

    def packed(seed: int, **options: Any) -> list[str]:
        out = tmp_path / f"shards{seed}{len(options)}"
        write_shards(table, index, out, seed=seed, workers=1, **options)
        paths = Manifest.from_index(out / "index.parquet").table["path"].to_pylist()
        return [Path(path).stem.split("-")[1] for path in paths]

    assert sorted(packed(0)) == [f"{n:02d}" for n in range(12)]
    assert packed(0) == ["09", "02", "07", "04", "05", "11", "00", "03", "06", "10", "08", "01"]
    assert packed(3) == ["11", "07", "02", "10", "00", "01", "04", "06", "09", "05", "03", "08"]
    assert packed(3, shard_mb=0.001) == packed(3)  # a shard per video: cut elsewhere, packed alike


def test_samples_of_a_contact_sheet(manifest: Make, tmp_path: Path) -> None:
    """The videos need not exist: the page names those that cannot be read."""
    one = manifest([(f"one{n:02d}", n % 2 if n < 20 else None, f"s{n}") for n in range(26)], "a b")
    two = manifest([(f"two{n:02d}", [0] if n % 3 else [], f"t{n}") for n in range(20)], "c")

    def shown(seed: int) -> list[str]:
        page = write_page(tmp_path / "page.html", {"one": one, "two": two}, per_class=3, seed=seed)
        names = re.findall(r"<figcaption>(\w+) ", page.read_text(encoding="utf-8"))
        assert len(set(names)) == len(names) == 15
        return names

    # fmt: off
    assert shown(0) == [
        "one10", "one12", "one18", "one01", "one17", "one19", "two11", "two13", "two19", "two03", "two12",
        "two18", "one22", "one23", "one24"
    ]
    assert shown(1) == [
        "one06", "one08", "one14", "one03", "one15", "one19", "two07", "two11", "two19", "two12", "two15",
        "two18", "one21", "one22", "one23"
    ]
    # fmt: on
