"""`t3d prepare download`."""

from __future__ import annotations

import textwrap
from json import dumps
from typing import TYPE_CHECKING, Any

from t3d.cli.options import Spelling
from t3d.errors import ConfigError, as_json

if TYPE_CHECKING:
    from t3d.prepare.download import DownloadReport
    from t3d.prepare.published_files import PublishedSet


@Spelling(
    forwards="t3d.prepare.download:download",
    short={"--part": "parts"},
    metavars={"parts": "NAME"},
)
def download(
    source: str | None = None,
    *,
    out: str | None = None,
    list: bool = False,  # noqa: A002 (the option is --list)
    json: bool = False,
    **options: Any,
) -> int:
    """Download a published data set or a file, and unpack it.

    The same command resumes an interrupted download. The exit status is 1 if some files could not be
    downloaded or unpacked.

    Args:
        source: Name of a known data set (see `list`), or a URL with the scheme https, s3, gs or file.
        out: Folder for the files.
        list: List the known data sets with their parts and terms.
        json: Print the report as JSON.
    """
    from t3d.prepare.download import download as run
    from t3d.prepare.download import known_set

    if list:
        _show_known()
        return 0
    if source is None or out is None:
        missing = "`out`" if source else "a data set or a URL"
        raise ConfigError(f"t3d prepare download needs {missing}; `list` shows the known data sets")
    published = None if "://" in source else known_set(source)
    if published and not json:
        print(f"Terms: {published.terms}", flush=True)
    report = run(source, out, **options)
    if json:
        print(dumps(as_json(report), ensure_ascii=False))
    else:
        _print_report(report, out, None if options["parts"] else published)
    return 1 if report.bad else 0


def _show_known() -> None:
    from t3d.prepare.published_files import ELSEWHERE, KNOWN

    for name, published in KNOWN.items():
        print(name)
        for part, files in published.parts.items():
            print(f"  {part:12} {files.about}{'; only with --part ' + part if files.asked else ''}")
        print(_wrapped(published.terms, 2))
    print("\nNot available for download with this command:")
    for name, way_out in ELSEWHERE.items():
        print(_wrapped(f"{name} {way_out}", 2))


def _wrapped(text: str, indent: int) -> str:
    filled = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(filled, " " * indent)


def _print_report(report: DownloadReport, out: str, published: PublishedSet | None) -> None:
    existing = "" if report.bad or report.fetched == report.files else "; the others already existed"
    print(
        f"{out}: {report.fetched} of {report.files} files downloaded, {report.size / 1e6:,.1f} MB in "
        f"{report.took:.0f} s; {report.unpacked} archives unpacked{existing}"
    )
    for failed in report.bad:
        print(f"  {failed}")
    if report.bad:
        print("Repeat the command to download the missing files.")
    elif published:
        options = f"--videos {out}/{published.train_list} --root {out}/{published.train_videos}"
        print(f"To train on it: t3d train {options}")
