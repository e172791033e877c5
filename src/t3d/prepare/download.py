"""Download a dataset that its publishers offer, or any file, and unpack it: `t3d prepare download`.

A file or folder gets its final name when it is whole. So an interrupted run resumes with what is missing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from t3d.errors import ArchiveError, ConfigError, Failed, FetchError, did_you_mean
from t3d.io.archive_names import ENDINGS
from t3d.io.archives import extract_archive
from t3d.io.fetch import fetch, shown
from t3d.io.files import sweep
from t3d.io.locks import alone_in
from t3d.prepare.published_files import ELSEWHERE, KNOWN, Part, PublishedSet, RemoteFile
from t3d.progress import progress

_LINKS = 1 << 24  # bytes that a list of addresses may have
_IN_A_ROW = 3  # files that fail one after the other until nothing more is tried


@dataclass(frozen=True)
class DownloadReport:
    """Result of a download.

    Args:
        files: Files that were asked for.
        fetched: Files that were downloaded in this run; the others existed, or are among `bad`.
        unpacked: Archives that were unpacked in this run.
        size: Bytes that were downloaded in this run.
        took: Duration of this run, in seconds.
        bad: Files that could not be downloaded or unpacked.
    """

    files: int
    fetched: int
    unpacked: int
    size: int
    took: float
    bad: tuple[Failed, ...]


@dataclass(frozen=True)
class _Job:
    """One file: where it comes from, where it is stored, and the folder that is made of an archive."""

    file: RemoteFile
    target: Path
    folder: Path | None


def download(
    source: str,
    out: str | os.PathLike[str],
    *,
    parts: Sequence[str] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    unpack: bool = True,
    keep_archives: bool = False,
) -> DownloadReport:
    """Download a dataset or a file, and unpack it. An interrupted run resumes.

    A part that is one archive becomes the folder `out/PART`, a part of many files becomes `out/PART/FILE`,
    and archives there `out/PART/ARCHIVE` without the ending. The file of a URL becomes `out/FILE`.

    Args:
        source: Known dataset, such as `ucf101`, or a URL: `https://`, `s3://`, `gs://` or `file://`.
        out: Folder for the files: new, or of an earlier run.
        parts: Parts of a known dataset to download. Default: all but duplicates of other parts.
        size: Size that the file of a URL must have, in bytes. Default: not checked.
        sha256: SHA-256 that the file of a URL must have, 64 hexadecimal digits. Default: not checked.
        unpack: Unpack archives.
        keep_archives: Keep archives after unpacking. By default they are deleted.

    Returns:
        What was done.

    Raises:
        ConfigError: The dataset or part is not known, the dataset is only available elsewhere, the disk has
            not enough room for it, or another run is writing to `out`.
        FetchError: A list of files cannot be downloaded, or no file can.
        ArchiveError: No file can be unpacked.
        OSError: `out` cannot be written to.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> _ = (place / "list.csv").write_text("path,label")
        >>> download((place / "list.csv").as_uri(), place / "out").fetched
        1
        >>> (place / "out" / "list.csv").read_text()
        'path,label'
    """
    began = time.monotonic()
    folder = Path(out)
    chosen = _chosen(source, parts, size, sha256)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        if isinstance(chosen, RemoteFile):
            jobs = [_job(chosen, folder)]
        else:
            _make_sure_of_room(folder, chosen)
            jobs = [job for name, part in chosen.items() for job in _jobs(folder, name, part)]
        return _run(jobs, began, unpack=unpack, keep=keep_archives)


def known_set(name: str) -> PublishedSet:
    """A data set that can be downloaded.

    Raises:
        ConfigError: None has this name.

    Example:
        >>> sorted(known_set("ucf101").parts)
        ['splits', 'videos', 'videos-rar']
    """
    if name in KNOWN:
        return KNOWN[name]
    if name in ELSEWHERE:
        raise ConfigError(f"{name} {ELSEWHERE[name]}")
    hint = did_you_mean(name, [*KNOWN, *ELSEWHERE])
    raise ConfigError(f"{name!r} is neither a known data set nor a URL (https://…); {hint}")


def _chosen(
    what: str, parts: Sequence[str] | None, size: int | None, sha256: str | None
) -> RemoteFile | dict[str, Part]:
    if "://" in what:
        if parts:
            raise ConfigError(f"{shown(what)} has no parts; leave `parts` out")
        if sha256 is not None and len(sha256) != 64:
            raise ConfigError(f"sha256 is {sha256!r}; it must have 64 hexadecimal digits")
        return RemoteFile(what, size, sha256)
    published = known_set(what)
    if size is not None or sha256 is not None:
        raise ConfigError(f"`size` and `sha256` are for URLs; those of {what} are known, or not published")
    wrong = [part for part in parts or () if part not in published.parts]
    if wrong:
        raise ConfigError(f"{what} has no part {wrong[0]!r}; {did_you_mean(wrong[0], published.parts)}")
    return {
        name: part
        for name, part in published.parts.items()
        if name in (parts or ()) or not (parts or part.asked)
    }


# --- which files -----------------------------------------------------------------------------------------


def _make_sure_of_room(folder: Path, parts: dict[str, Part]) -> None:
    """Refuse many files that cannot fit before the first is downloaded; `fetch` checks each single file."""
    many = {name: part.size for name, part in parts.items() if part.links and part.size}
    new = {name: size for name, size in many.items() if not (folder / name).exists()}
    needed, free = sum(new.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder} has {free / 1e9:.1f} GB free, but {', '.join(new)} are about "
            f"{needed / 1e9:.1f} GB to download; choose some of its `parts`, or another disk"
        )


def _jobs(folder: Path, name: str, part: Part) -> list[_Job]:
    if part.links is None and len(part.files) == 1:
        return [_job(part.files[0], folder, unpacked=folder / name)]
    files = part.files if part.links is None else _listed(part.links, folder / name)
    jobs = [_job(file, folder / name) for file in files]
    counts = Counter(job.target.name for job in jobs)
    if twice := [own for own, count in counts.items() if count > 1]:
        raise FetchError(part.links or name, f"the list names {twice[0]} twice, in different folders")
    return jobs


def _job(file: RemoteFile, place: Path, *, unpacked: Path | None = None) -> _Job:
    name = _name(file.url)
    stem = _stem(name)
    return _Job(file, place / name, None if stem == name else unpacked or place / stem)


def _listed(links: str, folder: Path) -> list[RemoteFile]:
    """The files of a list of addresses, which may only name what its own server has."""
    text = folder / _name(links)
    fetch(links, text, at_most=_LINKS)
    site = f"{urlsplit(links).scheme}://{urlsplit(links).netloc}/"
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    urls = [line.strip() for line in lines if line.strip()]
    urls = [url.replace("http://", "https://", 1) if site.startswith("https://") else url for url in urls]
    strange = [url for url in urls if not url.startswith(site)]
    if strange or not urls:
        text.unlink()
        content = f"names {strange[0][:200]!r}" if strange else "names nothing"
        raise FetchError(links, f"the list {content}; it may only name files on {site}")
    return [RemoteFile(url) for url in dict.fromkeys(urls)]


def _name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not name or name.startswith(".") or "\0" in name:
        raise ConfigError(f"{shown(url)} names no file: its path must end with a file's name")
    return name


def _stem(name: str) -> str:
    """A name without an archive's ending.

    Example:
        >>> _stem("part_0.tar.gz"), _stem("videos.zip"), _stem("a.csv")
        ('part_0', 'videos', 'a.csv')
    """
    for ending in ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


# --- one after the other ---------------------------------------------------------------------------------


def _run(jobs: Sequence[_Job], began: float, *, unpack: bool, keep: bool) -> DownloadReport:
    bad: list[Failed] = []
    first: FetchError | ArchiveError | None = None
    fetched = unpacked = size = in_a_row = 0
    for job in jobs:
        if in_a_row == _IN_A_ROW:
            bad.append(
                Failed(job.target.name, f"was not tried, since the {_IN_A_ROW} files before it failed")
            )
            continue
        try:
            came = _fetched(job, unpack)
            in_a_row = 0
            fetched += came is not None
            size += came or 0
            if unpack:
                unpacked += _unpack(job, keep)
        except (FetchError, ArchiveError) as error:
            first = first or error
            in_a_row += isinstance(error, FetchError)
            bad.append(Failed(job.target.name, str(error)))
    if first is not None and len(bad) == len(jobs):
        raise first
    return DownloadReport(len(jobs), fetched, unpacked, size, time.monotonic() - began, tuple(bad))


def _fetched(job: _Job, unpack: bool) -> int | None:
    """Fetch a file that is not there; how many bytes it has, or None."""
    if job.target.is_file() or (unpack and job.folder is not None and job.folder.is_dir()):
        return None
    with progress(f"Downloading {job.target.name}", job.file.size, unit="bytes") as bar:
        fetch(job.file.url, job.target, size=job.file.size, digest=job.file.digest, progress=bar.move)
    return job.target.stat().st_size


def _unpack(job: _Job, keep: bool) -> bool:
    """Unpack an archive that is not unpacked yet; whether that was done."""
    if job.folder is None or not job.target.is_file():
        return False
    new = not job.folder.is_dir()
    if new:
        sweep(job.folder.parent)  # this run alone writes here, so what is half-written is of a killed one
        try:
            extract_archive(job.target, job.folder, nested=job.file.nested)
        except ArchiveError as error:
            raise ArchiveError(f"{error}. It stays; delete it to download it again") from error
    if not keep:
        job.target.unlink()
    return new
