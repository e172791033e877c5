"""`t3d data check` and `t3d data browse`."""

from __future__ import annotations

from json import dumps
from typing import TYPE_CHECKING, Any

from t3d.cli.listing import print_list
from t3d.cli.options import Spelling
from t3d.cli.videos import VideoLists
from t3d.errors import as_json

if TYPE_CHECKING:
    from t3d.data.inspect.audit import Summary
    from t3d.data.inspect.shared import Shared


@Spelling(metavars={"lists": "LIST"})
def check(source: VideoLists, *, json: bool = False) -> int:
    """Count what lists of videos hold, and find what they share.

    The exit status is 1 if a file cannot be read, or if two lists share something.

    Args:
        json: Print the report as JSON.
    """
    from t3d.data.inspect.audit import compare, summarize

    manifests, index = source.open()
    summaries = {name: summarize(manifest, index) for name, manifest in manifests.items()}
    shared = compare(manifests, index)
    if json:
        report = {"lists": {name: as_json(summary) for name, summary in summaries.items()}}
        print(dumps(report | {"shared": [as_json(each) for each in shared]}, ensure_ascii=False))
    else:
        for name, summary in summaries.items():
            _describe(name, summary)
        for each in shared:
            _print_shared(each)
    return 1 if any(shared) or any(summary.bad for summary in summaries.values()) else 0


@Spelling(forwards="t3d.data.inspect.browse:write_page", hidden=("index",), metavars={"lists": "LIST"})
def browse(source: VideoLists, *, out: str, **options: Any) -> int:
    """Write a page with some videos of each class.

    Args:
        out: The `.html` file to write.
    """
    from t3d.data.inspect.browse import write_page

    manifests, index = source.open()
    print(write_page(out, manifests, index=index, **options))
    return 0


def _describe(name: str, summary: Summary) -> None:
    print(
        f"{name}: {summary.videos} videos in {summary.files} files, {len(summary.classes)} classes, "
        f"{summary.sources} sources"
        + (f", {summary.unlabeled} unlabeled" if summary.unlabeled else "")
        + (f", {summary.none} to which no class applies" if summary.none else "")
    )
    if summary.classes:
        least, most = (pick(summary.classes, key=summary.classes.__getitem__) for pick in (min, max))
        print(f"  videos per class: {summary.classes[least]} ({least}) to {summary.classes[most]} ({most})")
    if summary.targets == "multi" and (labeled := summary.videos - summary.unlabeled):
        print(f"  labels per video: {sum(summary.classes.values()) / labeled:.2f} on average")
    if summary.missing:
        print(f"  missing: {sum(summary.missing.values())} listed videos of {len(summary.missing)} classes")
    if summary.frames:
        print(
            f"  {summary.seconds / 3600:.2f} h, {summary.size / 1e9:.2f} GB; frames per file: "
            f"{summary.frames[0]} to {summary.frames[2]}, half of them up to {summary.frames[1]}"
        )
        for what, counts in (("", summary.shapes), (" fps", summary.rates), ("", summary.codecs)):
            shown = [f"{value}{what}: {count}" for value, count in list(counts.items())[:5]]
            print("  " + ", ".join([*shown, *(["…"] if len(counts) > 5 else [])]))
    if summary.unknown:
        print(f"  {summary.unknown} files are in no index, so only their names are known: use --index")
    print_list("cannot be read", list(map(str, summary.bad)))
    print_list("can be read only in part", list(map(str, summary.damaged)))


def _print_shared(shared: Shared) -> None:
    if not shared:
        print(f"{shared.one} and {shared.two} share nothing that could be found")
        return
    print(f"{shared.one} and {shared.two} share")
    print_list("files", list(shared.files))
    print_list("sources", list(shared.sources))
    print_list("pairs of the same bytes", [f"{one} = {two}" for one, two in shared.same])
    near = [f"{one} ~ {two} ({apart:.0%} apart)" for one, two, apart in shared.near]
    print_list("near-duplicates from different sources", near)
