"""Transcode every file of a dataset to small files with cheap random access: `t3d prepare transcode`.

Other processes, on this machine or on many, write the new files under temporary names. This process alone
records in the folder's journal which file it is about to rename, and renames it. So a file is done if the
journal has its record and the file matches the record, whenever a run was killed. A killed run leaves hidden
half-written files, which the next run deletes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError, at_least
from t3d.io.files import sweep
from t3d.io.journal import Journal
from t3d.io.tar_member import refuse_members
from t3d.prepare.index import JOURNAL, read_lines, write_index
from t3d.prepare.out_folder import claim, read_record
from t3d.prepare.rewrite import Staged, Task, TranscodeSpec, stage
from t3d.video.image_names import IMAGE_FPS, file_state
from t3d.video.limits import DEFAULT_MEGAPIXELS
from t3d.workers.cluster import ONE_MACHINE, Cluster, outcomes
from t3d.workers.pool import Lost

RECORD = "transcode.json"
"""File in the folder that records the options and sources of its videos."""
INDEX = "index.parquet"
"""The index of the new files, in the same folder."""
_NOTES = ".transcode.journal"
_FORMAT = 1  # raise it when the content of files changes: older folders are then refused
_HINTS = {"root": "if the videos were moved, write the new folder into it"}
_LINE = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("source_size", pa.int64()),
        pa.field("source_modified", pa.int64()),
        pa.field("source_damage", pa.string()),
        *JOURNAL,
    ]
)


@dataclass(frozen=True)
class TranscodeReport:
    """Result of transcoding a dataset.

    Args:
        videos: Rows of the new index.
        files: Files that they name.
        transcoded: Files that were written in this run; the others existed.
        frames: Frames in all new files.
        seconds: Length of all new files, in seconds.
        size_before: Bytes of their sources.
        size_after: Bytes of the new files.
        frames_now: Frames that were written in this run.
        took: Duration of this run, in seconds.
        bad: Files that could not be transcoded.
        damaged: Files that could only be read in part.
    """

    videos: int
    files: int
    transcoded: int
    frames: int
    seconds: float
    size_before: int
    size_after: int
    frames_now: int
    took: float
    bad: tuple[Failed, ...]
    damaged: tuple[Failed, ...]


def transcode_videos(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    spec: TranscodeSpec | None = None,
    root: str | os.PathLike[str] | None = None,
    workers: int = 2,
    timeout: float = 3600.0,
    max_megapixels: float = DEFAULT_MEGAPIXELS,
    cluster: Cluster = ONE_MACHINE,
) -> TranscodeReport:
    """Transcode every video file once, and write an index of the new files.

    A file `root/a/b.avi` becomes `out/a/b.mp4`; see `new_names`. An interrupted run resumes: new files stay
    if their sources have not changed. Labels, time spans and sources are those of the manifest. Files that
    cannot be transcoded are left out of the index.

    Args:
        manifest: The videos; several rows may name one file.
        out: Folder for the new files and their `index.parquet`: new, empty, or of an earlier run with the
            same `spec` and `root`.
        spec: How the files are transcoded; None takes the defaults of `TranscodeSpec`.
        root: Folder that the new files' paths are relative to. Default, also if a file is outside: that of
            the earlier run, or else the deepest folder that holds all files.
        workers: Processes that decode and encode; on a cluster, the processes of each task.
        timeout: Time limit per file, in seconds. A file that takes longer is reported as failed.
        max_megapixels: Largest frame that is decoded, in megapixels. 8K video has 33.
        cluster: Machines that transcode. All must reach the files and `out` under the same paths.

    Returns:
        What was done.

    Raises:
        ConfigError: An option cannot work, `out` is among the videos, holds anything else, or was made with
            other options, or another run is writing to it.
        ManifestError: The manifest has no row, or a video is in a shard.
        T3DError: `out` cannot be written to. The journal keeps what is done.

    Example:
        >>> import tempfile, torch
        >>> from t3d.video.encode import write_video
        >>> place = Path(tempfile.mkdtemp())
        >>> (place / "videos" / "gray").mkdir(parents=True)
        >>> frames = torch.full((8, 3, 96, 128), 128, dtype=torch.uint8)
        >>> _ = write_video(place / "videos" / "gray" / "a.avi", frames)
        >>> videos = Manifest.from_folder(place / "videos")
        >>> report = transcode_videos(videos, place / "small", spec=TranscodeSpec(48), root=place / "videos")
        >>> report.frames, sorted(path.name for path in (place / "small").iterdir())
        (8, ['.transcode.journal', 'gray', 'index.parquet', 'transcode.json'])
    """
    began = time.monotonic()
    spec = spec or TranscodeSpec()
    at_least("workers", workers, 1)
    at_least("timeout", timeout, 1e-3)
    at_least("max_megapixels", max_megapixels, 1e-3)
    if not len(manifest):
        raise ManifestError("the list has no video to transcode")
    folder = Path(absolute(out))
    paths: list[str] = pc.unique(manifest.table["path"]).to_pylist()
    refuse_members(paths)
    base = _base(paths, folder, root)
    claim(folder / RECORD, {"format": _FORMAT, "root": base, **_recorded(spec)}, hints=_HINTS)
    tasks = _tasks(paths, folder, base)
    with Journal(folder / _NOTES) as journal:
        _sweep(tasks)
        known = _done(journal.path, tasks)
        todo = [task for task in tasks if task.new_name not in known]
        work = partial(stage, spec=spec, max_megapixels=max_megapixels)
        results = outcomes(
            work, todo, cluster=cluster, workers=workers, timeout=timeout, title="Transcoding videos"
        )
        try:
            failed = _adopt_all(journal, results)
        finally:
            _sweep(tasks)
        done = _done(journal.path, tasks) if todo else known
        lines = _lines(journal.path).take(pa.array(list(done.values()), pa.int64()))
        table = _write(folder, manifest, tasks, lines)
    new = {task.new_name for task in todo}
    return _report(tasks, lines, new, failed, videos=table.num_rows, began=began)


def _recorded(spec: TranscodeSpec) -> dict[str, object]:
    options = asdict(spec)
    if spec.image_fps in (
        None,
        IMAGE_FPS,
    ):  # omitted, so that folders of versions without this option stay usable
        del options["image_fps"]
    return options


def new_names(names: Sequence[str]) -> list[str]:
    """Return the names of the new files: those of the old ones, with the ending `.mp4`.

    If several would have the same name, each of them keeps its own ending before the new one.

    Args:
        names: Relative paths with forward slashes, no two the same.

    Example:
        >>> new_names(["a/one.avi", "b/two.avi", "b/two.mp4"])
        ['a/one.mp4', 'b/two.avi.mp4', 'b/two.mp4.mp4']
    """
    new = [f"{_stem(name)}.mp4" for name in names]
    while True:
        counts = Counter(new)
        clash = [at for at, name in enumerate(new) if counts[name] > 1]
        if not clash:
            return new
        for at in clash:  # whole names differ, so that this ends
            new[at] = f"{names[at]}.mp4"


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _tasks(paths: Sequence[str], folder: Path, base: str) -> list[Task]:
    names = [path[len(base.rstrip(os.sep)) + 1 :].replace(os.sep, "/") for path in paths]
    return [
        Task(path, str(folder / new), name, new)
        for path, name, new in zip(paths, names, new_names(names), strict=True)
    ]


def _report(
    tasks: Sequence[Task],
    lines: pa.Table,
    new: set[str],
    failed: Mapping[str, Failed],
    *,
    videos: int,
    began: float,
) -> TranscodeReport:
    """Return what was done.

    Args:
        tasks: All files.
        lines: The journal's line of each new file that exists.
        new: Names of the files that did not exist when this run began.
        failed: Files that could not be transcoded, by path.
        videos: Rows of the new index.
        began: When this run began, by `time.monotonic`.
    """
    done = set(lines["path"].to_pylist())
    now = lines.filter(pc.is_in(lines["path"], value_set=pa.array(sorted(new), pa.string())))
    vanished = "it, or the new file, was changed or removed meanwhile"
    return TranscodeReport(
        videos=videos,
        files=lines.num_rows,
        transcoded=now.num_rows,
        frames=_sum(lines, "frames"),
        seconds=float(_sum(lines, "duration")),
        size_before=_sum(lines, "source_size"),
        size_after=_sum(lines, "size"),
        frames_now=_sum(now, "frames"),
        took=time.monotonic() - began,
        bad=tuple(
            failed.get(task.source, Failed(task.source, vanished))
            for task in tasks
            if task.new_name not in done
        ),
        damaged=_damaged(tasks, lines),
    )


def _damaged(tasks: Sequence[Task], lines: pa.Table) -> tuple[Failed, ...]:
    sources = {task.name: task.source for task in tasks}
    rows = lines.filter(pc.is_valid(lines["source_damage"])).select(["source", "source_damage"]).to_pylist()
    return tuple(Failed(sources[row["source"]], row["source_damage"]) for row in rows)


def _sum(table: pa.Table, column: str) -> int:
    return pc.sum(table[column]).as_py() or 0


# --- the folder -----------------------------------------------------------------------------------------


def _base(paths: Sequence[str], folder: Path, root: str | os.PathLike[str] | None) -> str:
    """Return the folder that new names are relative to."""
    before = read_record(folder / RECORD).get("root")
    for candidate in (root, before):
        if candidate is not None and _all_below(paths, absolute(str(candidate))):
            base = absolute(str(candidate))
            break
    else:
        base = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    # A folder is searched for videos, and would later find the new ones. A single file is not.
    inside = str(folder) == base if len(paths) == 1 else _all_below([str(folder / RECORD)], base)
    if inside:
        raise ConfigError(f"{folder} is among the videos, in {base}; choose a folder outside")
    return base


def _all_below(paths: Sequence[str], folder: str) -> bool:
    prefix = folder.rstrip(os.sep) + os.sep
    return all(path.startswith(prefix) for path in paths)


def _sweep(tasks: Sequence[Task]) -> None:
    """Delete partial files of interrupted processes."""
    for place in {os.path.dirname(task.target) for task in tasks}:  # noqa: PTH120 (of a million paths)
        sweep(Path(place))


# --- what is done ---------------------------------------------------------------------------------------


def _adopt_all(journal: Journal, results: Iterable[tuple[Task, Staged | Failed | Lost]]) -> dict[str, Failed]:
    """Rename the new files as they are finished, and return the sources that could not be transcoded."""
    failed: dict[str, Failed] = {}
    for task, result in results:
        if isinstance(result, Staged):
            _adopt(journal, task, result)
        else:
            failed[task.source] = Failed(task.source, result.reason)
    return failed


def _adopt(journal: Journal, task: Task, staged: Staged) -> None:
    """Record a new file in the journal, and then rename it to its final name."""
    # As this machine sees it, since the next run will compare from here.
    try:
        modified = Path(staged.part).stat().st_mtime_ns
    except FileNotFoundError:
        return  # the file was removed meanwhile, so it does not count as done
    journal.add(staged.row | {"modified": modified})
    Path(staged.part).replace(task.target)


def _lines(journal: Path) -> pa.Table:
    try:
        return read_lines(journal, _LINE)
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{journal}: cannot be read ({error}); remove the damaged line to transcode its file again"
        ) from error


def _done(journal: Path, tasks: Sequence[Task]) -> dict[str, int]:
    """Return the new files that exist, made of sources as they are now, and the journal's line of each."""
    columns = ("path", "source", "source_size", "source_modified", "size", "modified")
    rows: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
    lines = _lines(journal)
    for row, (new, *values) in enumerate(zip(*(lines[name].to_pylist() for name in columns), strict=True)):
        rows.setdefault(new, []).append((row, tuple(values)))
    done = {}
    for task in tasks:
        if task.new_name in rows:
            try:
                source, target = file_state(Path(task.source)), Path(task.target).stat()
            except OSError:
                continue
            state = (task.name, *source, target.st_size, target.st_mtime_ns)
            matching = [row for row, values in rows[task.new_name] if values == state]
            if matching:
                done[task.new_name] = matching[-1]
    return done


def _write(folder: Path, manifest: Manifest, tasks: Sequence[Task], lines: pa.Table) -> pa.Table:
    """Write the index of the new files."""
    where = pc.index_in(manifest.table["path"], value_set=pa.array([task.source for task in tasks]))
    new = pa.array([task.new_name for task in tasks]).take(where.combine_chunks())
    kept = pc.is_in(new, value_set=lines["path"].combine_chunks())
    prefix = pa.scalar(str(folder).rstrip(os.sep))
    moved = manifest.table.set_column(0, "path", pc.binary_join_element_wise(prefix, new, os.sep))
    facts = lines.select(JOURNAL.names)
    facts = facts.set_column(0, "path", pc.binary_join_element_wise(prefix, facts["path"], os.sep))
    return write_index(folder / INDEX, Manifest(manifest.classes, moved.filter(kept)), facts)
