"""The words behind `t3d prepare download`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

if TYPE_CHECKING:
    from t3d.prepare.download import DownloadReport, Progress
    from t3d.prepare.published_files import PublishedSet


def fill_download(sub: ArgumentParser) -> None:
    """The options of `t3d prepare download`."""
    sub.add_argument("what", nargs="?", help="a known data set (see --list), or a URL: https, s3, gs, file")
    sub.add_argument("--out", help="folder for what comes; again, to go on where a run ended")
    sub.add_argument("--part", nargs="+", help="parts of a known set, such as val annotations")
    sub.add_argument("--list", action="store_true", help="show what is known, with its parts and terms")
    sub.add_argument("--size", type=NonNegativeInt, help="bytes that the file of a URL must have")
    sub.add_argument("--sha256", help="SHA-256 that the file of a URL must have")
    sub.add_argument("--unpack", type=bool, default=True, help="whether archives are unpacked")
    sub.add_argument("--keep_archives", action="store_true", help="keep them when they are unpacked")
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def run_download(chosen: Namespace) -> int:
    """Download, and say what came. 1: some files could not be had or unpacked."""
    from t3d.errors import ConfigError, as_json
    from t3d.prepare.download import download, known_set

    if chosen.list:
        _show_known()
        return 0
    if chosen.what is None or chosen.out is None:
        missing = "--out FOLDER" if chosen.what else "a data set or a URL"
        raise ConfigError(f"t3d prepare download needs {missing}; --list shows what is known")
    published = None if "://" in chosen.what else known_set(chosen.what)
    if published and not chosen.json:
        print(f"Terms: {published.terms}", flush=True)
    with _shown_progress() as progress:
        report = download(
            chosen.what,
            chosen.out,
            parts=chosen.part,
            size=chosen.size,
            sha256=chosen.sha256,
            unpack=chosen.unpack,
            keep_archives=chosen.keep_archives,
            progress=progress,
        )
    if chosen.json:
        print(json.dumps(as_json(report), ensure_ascii=False))
    else:
        _tell(report, chosen.out, published if not chosen.part else None)
    return 1 if report.bad else 0


def _show_known() -> None:
    from t3d.prepare.published_files import ELSEWHERE, KNOWN

    for name, published in KNOWN.items():
        print(name)
        for part, what in published.parts.items():
            print(f"  {part:12} {what.about}{'; only if asked for: --part ' + part if what.asked else ''}")
        print(_wrapped(published.terms, 2))
    print("\nNot to be downloaded here:")
    for name, way_out in ELSEWHERE.items():
        print(_wrapped(f"{name} {way_out}", 2))


def _wrapped(text: str, indent: int) -> str:
    filled = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(filled, " " * indent)


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line as each file begins, since all may take days."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bars = Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    )
    shown: dict[str, TaskID] = {}

    def progress(name: str, here: int, whole: int | None) -> None:
        if name not in shown:
            for task in shown.values():
                bars.remove_task(task)
            shown.clear()
            shown[name] = bars.add_task(escape(name))
            if not console.is_terminal:
                size = "size unknown" if whole is None else f"{whole / 1e6:,.1f} MB"
                before = f", {here / 1e6:,.1f} MB of it here before" if here else ""
                print(f"{name}: {size}{before}", file=sys.stderr, flush=True)
        bars.update(shown[name], completed=here, total=whole)

    with bars:
        yield progress


def _tell(report: DownloadReport, out: str, published: PublishedSet | None) -> None:
    there = "" if report.bad or report.fetched == report.files else "; the others were there"
    print(
        f"{out}: {report.fetched} of {report.files} files came, {report.size / 1e6:,.1f} MB in "
        f"{report.took:.0f} s; {report.unpacked} archives were unpacked{there}"
    )
    for failed in report.bad:
        print(f"  {failed}")
    if report.bad:
        print("Give the same command again to try what is missing.")
    elif published:
        options = f"--data.train {out}/{published.train_list} --data.videos {out}/{published.train_videos}"
        print(f"Their names for t3d train: {options}")
