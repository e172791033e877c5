"""The words behind `t3d prepare` and `t3d data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from t3d.cli.parser import add_cluster
from t3d.errors import as_json

if TYPE_CHECKING:
    from t3d.data.index import VideoIndex
    from t3d.data.inspect.audit import Shared, Summary
    from t3d.data.manifest.manifest import Manifest
    from t3d.prepare.index import IndexReport
    from t3d.prepare.transcode import TranscodeReport

_SHOWN = 10  # lines of each list; --json has them all


def fill_index(sub: ArgumentParser) -> None:
    """The options of `t3d prepare index`."""
    sub.add_argument("data", help="folder of videos, .csv, .jsonl, official list, or an index to renew")
    sub.add_argument("--out", required=True, help="the .parquet file to write, or to bring up to date")
    _fill_videos(sub)
    sub.add_argument(
        "--near_duplicates",
        type=Literal["auto", "true", "false"],
        default="auto",
        help="search for near-duplicates by comparing every pair of files; auto: only up to 200,000 files",
    )
    sub.add_argument("--workers", type=PositiveInt, default=2, help="processes that decode")
    sub.add_argument("--timeout", type=PositiveFloat, default=120, help="time limit per file, in seconds")
    add_cluster(sub)
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def run_index(chosen: Namespace) -> int:
    """Index a data set, and say what was found."""
    from t3d.prepare.index import index_videos
    from t3d.workers.cluster import Cluster

    report = index_videos(
        _manifest(chosen),
        chosen.out,
        workers=chosen.workers,
        timeout=float(chosen.timeout),
        cluster=Cluster(chosen.cluster, chosen.ray_address),
        near_duplicates={"auto": None, "true": True, "false": False}[chosen.near_duplicates],
    )
    if chosen.json:
        print(json.dumps(as_json(report), ensure_ascii=False))
    else:
        _tell(report, chosen.out)
    return 1 if report.bad else 0


def _fill_videos(sub: ArgumentParser) -> None:
    sub.add_argument("--videos", help="folder that the files of a list or table lie in")
    sub.add_argument("--unlabelled", action="store_true", help="take a folder's videos without classes")
    sub.add_argument("--source_pattern", help="names the source of each video, see t3d train")


def _manifest(chosen: Namespace) -> Manifest:
    from t3d.data.catalog import open_manifest
    from t3d.data.manifest.manifest import Manifest

    if chosen.unlabelled and Path(chosen.data).is_dir():
        return Manifest.from_files([chosen.data], source_pattern=chosen.source_pattern)
    return open_manifest(chosen.data, videos=chosen.videos, source_pattern=chosen.source_pattern)


def _tell(report: IndexReport, out: str) -> None:
    print(
        f"{out}: {report.files} files, {report.frames} frames, {report.seconds / 3600:.2f} h, "
        f"{report.size / 1e9:.2f} GB; {report.examined} decoded now, {report.files - report.examined} known"
    )
    same, near = report.duplicates.same, report.duplicates.near
    _list("cannot be read", [str(failed) for failed in report.bad])
    _list("can be read only in part", [str(failed) for failed in report.damaged])
    _list("groups of the same bytes", [" = ".join(group) for group in same])
    _list(
        "near-duplicates of different sources",
        [f"{one} ~ {two} ({apart:.0%} apart)" for one, two, apart in near],
    )
    if not report.duplicates.compared:
        print("Near-duplicates were not searched for (--near_duplicates true does, which takes long)")


def _list(title: str, lines: list[str]) -> None:
    if lines:
        more = [f"… and {len(lines) - _SHOWN} more (--json has all)"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *lines[:_SHOWN], *more, sep="\n  ")


def fill_transcode(sub: ArgumentParser) -> None:
    """The options of `t3d prepare transcode`."""
    sub.add_argument("data", help="folder of videos, .csv, .jsonl, official list, or an index")
    sub.add_argument("--out", required=True, help="folder for the new files and their index.parquet")
    sub.add_argument("--short_side", type=PositiveInt, default=256, help="largest length, even; none grows")
    sub.add_argument(
        "--keyframe_interval", type=PositiveInt, default=16, help="most frames from key frame to key frame"
    )
    sub.add_argument("--crf", type=NonNegativeInt, default=20, help="x264's quality: 18 fine, 23 small")
    sub.add_argument(
        "--codec",
        type=Literal["h264", "jpeg"],
        default="h264",
        help="jpeg: every frame is a picture of its own",
    )
    sub.add_argument("--jpeg_q", type=PositiveInt, default=3, help="JPEG's quality: 2 fine, 5 small")
    _fill_videos(sub)
    sub.add_argument("--workers", type=PositiveInt, default=2, help="processes that decode and encode")
    sub.add_argument("--timeout", type=PositiveFloat, default=3600, help="time limit per file, in seconds")
    add_cluster(sub)
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def run_transcode(chosen: Namespace) -> int:
    """Write a data set's files again, and say what that came to. 1: some could not be."""
    from t3d.prepare.rewrite import TranscodeSpec
    from t3d.prepare.transcode import transcode_videos
    from t3d.workers.cluster import Cluster

    report = transcode_videos(
        _manifest(chosen),
        chosen.out,
        spec=TranscodeSpec(
            chosen.short_side, chosen.keyframe_interval, chosen.crf, chosen.codec, chosen.jpeg_q
        ),
        root=chosen.data if Path(chosen.data).is_dir() else chosen.videos,
        workers=chosen.workers,
        timeout=float(chosen.timeout),
        cluster=Cluster(chosen.cluster, chosen.ray_address),
    )
    if chosen.json:
        print(json.dumps(as_json(report), ensure_ascii=False))
    else:
        _tell_transcoded(report, chosen.out)
    return 1 if report.bad else 0


def _tell_transcoded(report: TranscodeReport, out: str) -> None:
    print(
        f"{out}: {report.files} files, {report.frames} frames, {report.seconds / 3600:.2f} h; "
        f"{report.size_before / 1e6:.1f} MB before, {report.size_after / 1e6:.1f} MB after"
    )
    print(
        f"{report.transcoded} transcoded now in {report.took:.0f} s "
        f"({report.frames_now / report.took:.0f} frames a second), "
        f"{report.files - report.transcoded} there before"
    )
    _list("could not be transcoded", [str(failed) for failed in report.bad])
    _list("could be read only in part", [str(failed) for failed in report.damaged])
    if report.files:
        print(f"Their index, for --data.train and the like: {Path(out) / 'index.parquet'}")


def fill_shards(sub: ArgumentParser) -> None:
    """The options of `t3d prepare shards`."""
    sub.add_argument("data", help="an index; or, with --index, a folder, .csv, .jsonl or official list")
    sub.add_argument("--out", required=True, help="folder for the shards and their index.parquet")
    sub.add_argument("--index", help="what t3d prepare index or transcode wrote about the files")
    sub.add_argument("--shard_mb", type=PositiveFloat, default=256, help="size at which a shard is full, MB")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="of the order of the videos")
    _fill_videos(sub)
    sub.add_argument("--workers", type=PositiveInt, default=2, help="processes that read and write")
    add_cluster(sub)
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def run_shards(chosen: Namespace) -> int:
    """Put a data set's files into shards, and say what that came to. 1: some could not be."""
    from t3d.data.catalog import open_index
    from t3d.errors import ConfigError
    from t3d.prepare.shards import write_shards
    from t3d.workers.cluster import Cluster

    index = open_index(chosen.index, chosen.data, videos=chosen.videos)
    if index is None:
        inside = Path(chosen.data) / "index.parquet"
        hint = f"make one: t3d prepare index {chosen.data} --out FILE.parquet"
        hint = f"it holds {inside}" if inside.is_file() else hint
        raise ConfigError(f"{chosen.data} is no index; {hint}. Give the index instead, or as --index")
    report = write_shards(
        _manifest(chosen),
        index,
        chosen.out,
        shard_mb=float(chosen.shard_mb),
        seed=int(chosen.seed),
        workers=chosen.workers,
        cluster=Cluster(chosen.cluster, chosen.ray_address),
    )
    if chosen.json:
        print(json.dumps(as_json(report), ensure_ascii=False))
    else:
        print(
            f"{chosen.out}: {report.files} files in {report.shards} shards of {report.smallest / 1e6:.1f} to "
            f"{report.largest / 1e6:.1f} MB; {report.written} written now in {report.took:.0f} s, "
            f"{report.shards - report.written} there before"
        )
        _list("are in no shard", [str(failed) for failed in report.bad])
        print(f"Their index, for --data.train and the like: {Path(chosen.out) / 'index.parquet'}")
    return 1 if report.bad else 0


def fill_check(sub: ArgumentParser) -> None:
    """The options of `t3d data check`."""
    _name_lists(sub)
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def run_check(chosen: Namespace) -> int:
    """Say what lists hold and share. 1: something cannot be read, or is shared."""
    from t3d.data.inspect.audit import compare, summarise

    manifests, index = _open_lists(chosen)
    summaries = {name: summarise(manifest, index) for name, manifest in manifests.items()}
    shared = compare(manifests, index)
    if chosen.json:
        report = {"lists": {name: as_json(summary) for name, summary in summaries.items()}}
        print(json.dumps(report | {"shared": [as_json(each) for each in shared]}, ensure_ascii=False))
    else:
        for name, summary in summaries.items():
            _describe(name, summary)
        for each in shared:
            _tell_shared(each)
    return 1 if any(shared) or any(summary.bad for summary in summaries.values()) else 0


def _name_lists(sub: ArgumentParser) -> None:
    sub.add_argument("lists", nargs="+", metavar="LIST", help="what t3d train takes as --data.train")
    sub.add_argument("--videos", help="folder that the files of lists or tables lie in")
    sub.add_argument("--source_pattern", help="names the source of each video, see t3d train")
    sub.add_argument("--index", help="what t3d prepare index wrote about the files")


def _open_lists(chosen: Namespace) -> tuple[dict[str, Manifest], VideoIndex | None]:
    from t3d.data.catalog import open_index, open_manifest

    manifests = {
        name: open_manifest(name, videos=chosen.videos, source_pattern=chosen.source_pattern)
        for name in chosen.lists
    }
    return manifests, open_index(chosen.index, *chosen.lists, videos=chosen.videos)


def _describe(name: str, summary: Summary) -> None:
    print(
        f"{name}: {summary.videos} videos in {summary.files} files, {len(summary.classes)} classes, "
        f"{summary.sources} sources"
        + (f", {summary.unlabelled} unlabelled" if summary.unlabelled else "")
        + (f", {summary.none} to which no class applies" if summary.none else "")
    )
    if summary.classes:
        least, most = (pick(summary.classes, key=summary.classes.__getitem__) for pick in (min, max))
        print(f"  videos a class: {summary.classes[least]} ({least}) to {summary.classes[most]} ({most})")
    if summary.targets == "multi" and (labelled := summary.videos - summary.unlabelled):
        print(f"  labels a video: {sum(summary.classes.values()) / labelled:.2f} on average")
    if summary.missing:
        print(f"  not there: {sum(summary.missing.values())} listed videos of {len(summary.missing)} classes")
    if summary.frames:
        print(
            f"  {summary.seconds / 3600:.2f} h, {summary.size / 1e9:.2f} GB; frames a file: "
            f"{summary.frames[0]} to {summary.frames[2]}, half of them up to {summary.frames[1]}"
        )
        for what, counts in (("", summary.shapes), (" fps", summary.rates), ("", summary.codecs)):
            shown = [f"{value}{what}: {count}" for value, count in list(counts.items())[:5]]
            print("  " + ", ".join([*shown, *(["…"] if len(counts) > 5 else [])]))
    if summary.unknown:
        print(f"  {summary.unknown} files are in no index, so that only their names are known: give --index")
    _list("cannot be read", [str(failed) for failed in summary.bad])
    _list("can be read only in part", [str(failed) for failed in summary.damaged])


def _tell_shared(shared: Shared) -> None:
    if not shared:
        print(f"{shared.one} and {shared.two} share nothing that could be found")
        return
    print(f"{shared.one} and {shared.two} share")
    _list("files", list(shared.files))
    _list("sources", list(shared.sources))
    _list("pairs of the same bytes", [f"{one} = {two}" for one, two in shared.same])
    near = [f"{one} ~ {two} ({apart:.0%} apart)" for one, two, apart in shared.near]
    _list("near-duplicates of different sources", near)


def fill_browse(sub: ArgumentParser) -> None:
    """The options of `t3d data browse`."""
    _name_lists(sub)
    sub.add_argument("--out", required=True, help="the .html file to write")
    sub.add_argument("--per_class", type=PositiveInt, default=4, help="videos shown of each class")
    sub.add_argument("--frames", type=PositiveInt, default=5, help="frames shown of each video")
    sub.add_argument("--seed", type=NonNegativeInt, default=0, help="of the draw")


def run_browse(chosen: Namespace) -> int:
    """Write a contact sheet."""
    from t3d.data.inspect.browse import write_page

    manifests, index = _open_lists(chosen)
    options = {name: chosen[name] for name in ("per_class", "frames", "seed")}
    print(write_page(chosen.out, manifests, index=index, **options))
    return 0
