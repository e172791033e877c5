"""`t3d data check` and `t3d data browse`."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t3d.cli.listing import print_list
from t3d.cli.options import Spelling
from t3d.cli.videos import VideoLists
from t3d.errors import ConfigError, ManifestError, as_json, printable

if TYPE_CHECKING:
    from t3d.data.inspect.audit import Summary
    from t3d.data.inspect.shared import Shared
    from t3d.data.manifest.manifest import Manifest
    from t3d.data.moved import MissingFiles


@Spelling(metavars={"lists": "LIST", "write_fixed": "PATH"})
def check(source: VideoLists, *, write_fixed: str | None = None, json: bool = False) -> int:
    """Count the videos in lists, and find files that are missing or shared.

    The exit status is 1 if a file is missing or cannot be read, or if two lists overlap. With `write_fixed`
    it is about the corrected list.

    Args:
        write_fixed: File (`.csv`) for a copy of the list with the new paths of moved files. Needs exactly
            one list.
        json: Print the report as JSON.
    """
    from t3d.data.clips.rates import mixed_rates
    from t3d.data.inspect.audit import compare, summarize
    from t3d.data.inspect.nearby import Listed, index_command, nearby_index
    from t3d.data.moved import find_missing

    if write_fixed is not None and len(source.lists) != 1:
        raise ConfigError(f"`write_fixed` corrects one list; got {len(source.lists)} lists")
    manifests, index = source.open()
    missing = {
        name: find_missing(manifest, list_folder=source.folder_of(name), root=source.root)
        for name, manifest in manifests.items()
    }
    summaries = {name: summarize(manifest, index) for name, manifest in manifests.items()}
    lists = [Listed(manifest, name) for name, manifest in manifests.items()]
    shared = compare(manifests, index or nearby_index(*lists))
    if json:
        report = {name: as_json(summary) for name, summary in summaries.items()}
        for name, files in missing.items():
            report[name]["missing_files"] = None if files is None else as_json(files)
        print(dumps({"lists": report, "shared": [as_json(each) for each in shared]}, ensure_ascii=False))
    else:
        for name, summary in summaries.items():
            _describe(name, summary, indexed=index is not None)
            _print_missing(missing[name], fixing=write_fixed is not None)
        rates = [float(rate) for summary in summaries.values() for rate in summary.rates]
        if (text := mixed_rates(rates)) and not any(each.mixed_rates for each in summaries.values()):
            print(f"warning: in all lists together, {text}")
        for each in shared:
            command = index_command(*(Listed(manifests[name], name) for name in (each.one, each.two)))
            _print_shared(each, "" if each.searched else command)
    absent = any(files is not None for files in missing.values())
    if write_fixed is not None:
        for name, manifest in manifests.items():
            absent = _write_fixed(manifest, missing[name], write_fixed) > 0
    return 1 if absent or any(shared) or any(summary.bad for summary in summaries.values()) else 0


def _print_missing(missing: MissingFiles | None, *, fixing: bool) -> None:
    if missing is None:
        return
    print_list("file is missing", "files are missing", list(missing.paths))
    if missing.new is None and not missing.searched:
        print("  They were not searched for; pass the folder that they are in now: --root FOLDER")
        return
    if missing.new is None:
        print(
            f"  No files with these names are below {' or '.join(missing.searched)}; "
            "pass the folder that they are in now: --root FOLDER"
        )
        return
    verb = "is" if missing.count == 1 else "are"
    print(f"  {missing.count} of them {verb} below {missing.new}")
    if missing.old:
        print(f"  The list has {missing.old} instead")
    else:
        print("  The list has backslashes between folders, as on Windows")
    if fixing:
        return
    relative = f", or, if its paths are relative, use --root {missing.new}" if missing.root else ""
    print(f"  Write a corrected list with --write-fixed FILE.csv{relative}")


def _write_fixed(manifest: Manifest, missing: MissingFiles | None, file: str) -> int:
    """Write a list with the new paths, and return how many files are still missing."""
    from t3d.data.moved import with_found

    if missing is None or missing.new is None:
        raise ManifestError(
            f"{file} is not written: " + ("no file is missing" if missing is None else f"{missing}")
        )
    if Path(file).suffix.lower() != ".csv":
        raise ConfigError(f"`write_fixed` is {file}; it must end in .csv")
    if Path(file).exists():
        raise ManifestError(f"{file}: already exists; choose another name")
    with_found(manifest, missing).write_csv(file)
    gone = [path for path in missing.paths if path not in missing.moved]
    paths = "path" if missing.count == 1 else "paths"
    state = "all its files exist"
    if gone:
        verb = "file is" if len(gone) == 1 else "files are"
        state = f"{len(gone)} {verb} still missing, first {printable(gone[0])}"
    print(f"Wrote {file}: {missing.count} {paths} corrected; {state}", file=sys.stderr)
    return len(gone)


@Spelling(forwards="t3d.data.inspect.browse:write_page", hidden=("index",), metavars={"lists": "LIST"})
def browse(source: VideoLists, *, out: str, **options: Any) -> int:
    """Write an HTML page with some videos per class.

    Args:
        out: The `.html` file to write.
    """
    from t3d.data.inspect.browse import write_page

    manifests, index = source.open()
    print(write_page(out, manifests, index=index, **options))
    return 0


def _describe(name: str, summary: Summary, *, indexed: bool) -> None:
    print(
        f"{name}: {summary.videos} videos in {summary.files} files, {len(summary.classes)} classes, "
        f"{summary.sources} groups"
        + (f", {summary.unlabeled} unlabeled" if summary.unlabeled else "")
        + (f", {summary.none} without a class that applies" if summary.none else "")
    )
    if summary.classes:
        least, most = (pick(summary.classes, key=summary.classes.__getitem__) for pick in (min, max))
        low, high = summary.classes[least], summary.classes[most]
        least, most = printable(least), printable(most)
        if low == high:
            print(f"  {low} {'video' if low == 1 else 'videos'} in each class")
        else:
            print(f"  videos per class: {low} ({least}) to {high} ({most})")
    if summary.targets == "multi" and (labeled := summary.videos - summary.unlabeled):
        print(f"  labels per video: {sum(summary.classes.values()) / labeled:.2f} on average")
    if summary.missing:
        print(f"  missing: {sum(summary.missing.values())} listed videos of {len(summary.missing)} classes")
    if summary.frames:
        print(
            f"  {summary.seconds / 3600:.2f} h, {summary.size / 1e9:.2f} GB; frames per file: "
            f"{summary.frames[0]} to {summary.frames[2]}, median {summary.frames[1]}"
        )
        for unit, counts in (("", summary.shapes), (" fps", summary.rates), ("", summary.codecs)):
            shown = [f"{value}{unit}: {count}" for value, count in list(counts.items())[:5]]
            print("  " + ", ".join([*shown, *(["…"] if len(counts) > 5 else [])]))
    if summary.mixed_rates:
        print(f"  warning: {summary.mixed_rates}")
    if summary.unknown and indexed:
        print(f"  {summary.unknown} files are not in the index: their contents are unknown")
    print_list("unreadable file", "unreadable files", list(map(str, summary.bad)))
    print_list("damaged or unusual file", "damaged or unusual files", list(map(str, summary.damaged)))


def _print_shared(shared: Shared, command: str) -> None:
    if not shared:
        print(f"No overlap found between {shared.one} and {shared.two}")
    else:
        print(f"{shared.one} and {shared.two} share")
    print_list("file", "files", shared.files)
    print_list("group (column `source`)", "groups (column `source`)", shared.sources)
    same = [f"{one} = {two}" for one, two in shared.same]
    print_list("pair of identical files", "pairs of identical files", same)
    near = [f"{one} ~ {two} ({apart:.0%} of the bits differ)" for one, two, apart in shared.near]
    print_list(
        "pair of near-duplicates from different groups",
        "pairs of near-duplicates from different groups",
        near,
    )
    if not shared.searched:
        hint = f"; create it with `{command}`" if command else ""
        print(
            "  Near-duplicates were not searched for: that needs an index with the perceptual hashes of both "
            f"lists{hint}"
        )
    elif any(shared.unhashed):
        counts = zip(shared.unhashed, (shared.one, shared.two), strict=True)
        names = " and ".join(f"{count} files of {name}" for count, name in counts if count)
        print(
            f"  Near-duplicates of {names} were not searched for: they are unreadable, not in the index, or "
            "show hardly any detail"
        )
