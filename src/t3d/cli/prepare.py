"""`t3d prepare unpack`, `index`, `transcode` and `shards`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from t3d.cli.listing import print_list
from t3d.cli.options import Spelling
from t3d.cli.videos import VideoSet
from t3d.errors import ConfigError, as_json
from t3d.prepare.rewrite import TranscodeSpec

if TYPE_CHECKING:
    from t3d.prepare.index import IndexReport
    from t3d.prepare.shards import ShardReport
    from t3d.prepare.transcode import TranscodeReport
    from t3d.prepare.unpack import UnpackReport

Report = TypeVar("Report", "UnpackReport", "IndexReport", "TranscodeReport", "ShardReport")


def _show(report: Report, out: str, show: Callable[[Report, str], None], *, json: bool) -> int:
    """Print a report as JSON or text, and return the exit status: 1 if files could not be used."""
    if json:
        print(dumps(as_json(report), ensure_ascii=False))
    else:
        show(report, out)
    return 1 if report.bad else 0


@Spelling(forwards="t3d.prepare.unpack:unpack")
def unpack(source: str, *, out: str, json: bool = False, **options: Any) -> int:
    """Unpack archives of videos or of folders of images.

    The exit status is 1 if some archives cannot be unpacked.

    Args:
        source: Archive (zip, tar, tar.gz, tar.bz2, tar.xz, rar), or a folder with archives.
        out: Folder to create.
        json: Print the report as JSON.
    """
    from t3d.prepare.unpack import unpack as run

    return _show(run(source, out, **options), out, _print_unpacked, json=json)


def _print_unpacked(report: UnpackReport, out: str) -> None:
    archives = "archive" if report.archives == 1 else "archives"
    earlier = report.archives - report.unpacked - len(report.bad)
    print(
        f"{out}: {report.files} files from {report.unpacked} of {report.archives} {archives}"
        + (f"; {earlier} unpacked earlier" if earlier > 0 else "")
    )
    print_list("archive cannot be unpacked", "archives cannot be unpacked", list(map(str, report.bad)))
    videos = Path(out) / Path(report.videos).relative_to(Path(out).absolute())
    print(f"The folder for other commands: --videos {videos}")


@Spelling(forwards="t3d.prepare.index:index_videos")
def index(source: VideoSet, *, out: str, json: bool = False, **options: Any) -> int:
    """Decode every video once, so that later runs open it faster.

    The exit status is 1 if some videos cannot be read.

    Args:
        out: The `.parquet` file to write or update.
        json: Print the report as JSON.
    """
    from t3d.prepare.index import index_videos

    return _show(index_videos(source.open(), out, **options), out, _print_index, json=json)


def _print_index(report: IndexReport, out: str) -> None:
    print(
        f"{out}: {report.files} files, {report.frames} frames, {report.seconds / 3600:.2f} h, "
        f"{report.size / 1e9:.2f} GB; {report.examined} decoded now, {report.files - report.examined} known"
    )
    same, near = report.duplicates.same, report.duplicates.near
    print_list("file cannot be read", "files cannot be read", list(map(str, report.bad)))
    print_list(
        "file can be read only partly, or is unusual",
        "files can be read only partly, or are unusual",
        list(map(str, report.damaged)),
    )
    print_list("group of identical files", "groups of identical files", [" = ".join(group) for group in same])
    print_list(
        "pair of near-duplicates from different groups",
        "pairs of near-duplicates from different groups",
        [f"{one} ~ {two} ({apart:.0%} of the bits differ)" for one, two, apart in near],
    )
    if not report.duplicates.compared:
        print("Near-duplicates were not searched for in so large a set; --near-duplicates true searches")


@Spelling(forwards="t3d.prepare.transcode:transcode_videos", hidden=("root",))
def transcode(source: VideoSet, spec: TranscodeSpec, *, out: str, json: bool = False, **options: Any) -> int:
    """Re-encode videos to be small and fast to seek in.

    The exit status is 1 if some videos cannot be re-encoded.

    Args:
        out: Folder for the new files and their `index.parquet`.
        json: Print the report as JSON.
    """
    from t3d.prepare.transcode import transcode_videos
    from t3d.video.image_names import is_image_folder

    root = source.videos if Path(source.videos).is_dir() else source.root
    if is_image_folder(source.videos):  # a single video
        root = str(Path(source.videos).absolute().parent)
    if spec.image_fps is None and source.videos.lower().endswith(".parquet"):
        spec = replace(spec, image_fps=_indexed_fps(source))
    report = transcode_videos(source.open(), out, spec=spec, root=root, **options)
    return _show(report, out, _print_transcoded, json=json)


def _indexed_fps(source: VideoSet) -> float | None:
    """Return the rate of the folders of images in an index; None if it has none.

    Raises:
        ConfigError: They have several rates.
    """
    from t3d.data.catalog import open_index
    from t3d.video.images import IMAGE_CODECS

    paths = source.open().table["path"].to_pylist()
    index = open_index(None, source.videos, root=source.root)
    if index is None:
        return None
    facts = index.rows(paths)
    columns = (facts[name].to_pylist() for name in ("codec", "time_base"))
    rates = {
        float(1 / Fraction(step))
        for path, codec, step in zip(paths, *columns, strict=True)
        if codec in IMAGE_CODECS and Path(path).is_dir()
    }
    if len(rates) > 1:
        listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
        raise ConfigError(
            f"{source.videos}: its folders of images have {listed} frames per second; set one rate with "
            "`image_fps`, or transcode the parts of the set one by one"
        )
    return rates.pop() if rates else None


def _print_transcoded(report: TranscodeReport, out: str) -> None:
    print(
        f"{out}: {report.files} files, {report.frames} frames, {report.seconds / 3600:.2f} h; "
        f"{report.size_before / 1e6:.1f} MB before, {report.size_after / 1e6:.1f} MB after"
    )
    print(
        f"{report.transcoded} transcoded now in {report.took:.0f} s "
        f"({report.frames_now / report.took:.0f} frames per second), "
        f"{report.files - report.transcoded} transcoded earlier"
    )
    print_list("file could not be transcoded", "files could not be transcoded", list(map(str, report.bad)))
    print_list(
        "file could be read only partly, or is unusual",
        "files could be read only partly, or are unusual",
        list(map(str, report.damaged)),
    )
    if report.files:
        print(f"Their index, to train from: --videos {Path(out) / 'index.parquet'}")


@Spelling(forwards="t3d.prepare.shards:write_shards")
def shards(
    source: VideoSet, *, out: str, index: str | None = None, json: bool = False, **options: Any
) -> int:
    """Pack videos into large files that are read sequentially.

    The exit status is 1 if some videos could not be packed.

    Args:
        out: Folder for the shards and their `index.parquet`.
        index: Index of the files, written by `t3d prepare index` or `t3d prepare transcode`. Not needed if
            VIDEOS is an index.
        json: Print the report as JSON.
    """
    from t3d.data.catalog import open_index
    from t3d.prepare.shards import write_shards

    known = open_index(index, source.videos, root=source.root)
    if known is None:
        inside = Path(source.videos) / "index.parquet"
        hint = f"t3d prepare index {source.videos} --out FILE.parquet writes one"
        hint = f"use {inside}" if inside.is_file() else hint
        raise ConfigError(
            f"`videos` is {source.videos}, which is not an index, and `index` is not set: {hint}"
        )
    return _show(write_shards(source.open(), known, out, **options), out, _print_shards, json=json)


def _print_shards(report: ShardReport, out: str) -> None:
    print(
        f"{out}: {report.files} files in {report.shards} shards of {report.smallest / 1e6:.1f} to "
        f"{report.largest / 1e6:.1f} MB; {report.written} written now in {report.took:.0f} s, "
        f"{report.shards - report.written} written earlier"
    )
    print_list("file is in no shard", "files are in no shard", list(map(str, report.bad)))
    print(f"Their index, to train from: --videos {Path(out) / 'index.parquet'}")
