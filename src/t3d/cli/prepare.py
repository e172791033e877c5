"""`t3d prepare index`, `transcode` and `shards`."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from t3d.cli.listing import print_list
from t3d.cli.videos import VideoSet
from t3d.errors import ConfigError

if TYPE_CHECKING:
    from t3d.prepare.index import IndexReport
    from t3d.prepare.shards import ShardReport
    from t3d.prepare.transcode import TranscodeReport


def index(
    source: VideoSet,
    *,
    out: str,
    near_duplicates: Literal["auto", "on", "off"] = "auto",
    workers: int = 2,
    timeout: float = 120,
    cluster: Literal["none", "ray"] = "none",
    ray_address: str | None = None,
    json: bool = False,
) -> int:
    """Decode every video once, so that training opens it at once.

    The exit status is 1 if some videos cannot be read.

    Args:
        out: The `.parquet` file to write, or to update.
        near_duplicates: Compare all pairs of videos by a perceptual hash, which takes long for very many;
            auto does so for up to 200,000 files.
        workers: Processes that decode.
        timeout: Time limit per file, in seconds.
        cluster: Machines to work on: this one (none), or those of a Ray cluster (ray).
        ray_address: Ray cluster to join, `HOST:PORT` or auto. Otherwise RAY_ADDRESS of the environment, or a
            new one on this machine.
        json: Print the report as JSON.
    """
    from t3d.prepare.index import index_videos
    from t3d.workers.cluster import Engine

    report = index_videos(
        source.open(),
        out,
        workers=workers,
        patience=timeout,
        engine=Engine("ray" if cluster == "ray" else "local", ray_address),
        near={"auto": None, "on": True, "off": False}[near_duplicates],
    )
    if json:
        print(dumps(asdict(report), ensure_ascii=False))
    else:
        _print_index(report, out)
    return 1 if report.bad else 0


def _print_index(report: IndexReport, out: str) -> None:
    print(
        f"{out}: {report.files} files, {report.frames} frames, {report.seconds / 3600:.2f} h, "
        f"{report.size / 1e9:.2f} GB; {report.examined} decoded now, {report.files - report.examined} known"
    )
    same, near = report.duplicates.same, report.duplicates.near
    print_list("cannot be read", [f"{path}: {reason}" for path, reason in report.bad])
    print_list("can be read only in part", [f"{path}: {reason}" for path, reason in report.damaged])
    print_list("groups of the same bytes", [" = ".join(group) for group in same])
    print_list(
        "pairs of different sources that look the same",
        [f"{one} ~ {two} ({apart:.0%} apart)" for one, two, apart in near],
    )
    if not report.duplicates.compared:
        print("Not compared: the looks of all pairs (--near true does, in time that grows with their square)")


