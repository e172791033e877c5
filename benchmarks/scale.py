"""Cost of preparing, storing and reading many clips: the arithmetic of docs/guides/many-machines.md.

    python benchmarks/scale.py
    python benchmarks/scale.py --clips 2000000 --seconds 4 --fps 25 --width 640 --height 360 --cores 64

prints the tables of docs/guides/many-machines.md, or those of other numbers. Rates were measured on one
2-core AVX-512 machine (docs/guides/data.md, docs/project/benchmarks.md); pass your own. All figures assume
that decoding, transcoding and bytes are proportional to pixels, that is frames × width × height.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

MEASURED = 320 * 240  # pixels of the frames that the rates were measured with …
READ = 340 * 256  # … and of the transcoded ones that clips were read of
SIDE = 256  # the short side of transcoded videos, at most


@dataclass(frozen=True)
class Plan:
    """A data set, the machines, and the measured rates."""

    clips: float = 500_000  # files
    seconds: float = 10  # length of each
    fps: float = 30
    width: int = 340
    height: int = 256
    source_mbit: float = 1.0  # megabits per second of the sources; check yours
    cores: int = 64  # of all machines together
    index_fps: float = 1330  # frames of 320 × 240 indexed per second and core
    transcode_fps: float = 370  # frames of 320 × 240 transcoded per second and core, the slowest set
    transcoded_mb: float = 0.077  # MB per second of video at 320 × 240, crf 20: 10.84 MB of 140 s
    clip_ms: float = 20  # one core, a random clip of 32 frames of a transcoded file of 340 × 256
    file_bytes: float = 110  # bytes per row of an index on disk
    manifest_bytes: float = 102  # bytes per row of a list in memory
    facts_bytes: float = 638  # bytes per row of an index in memory
    making_bytes: float = 3900  # bytes per row, at the peak of making an index
    journal_bytes: float = 909  # bytes per row of the journal of an index
    pairs_seconds: float = 29.4  # processor seconds to search 50,000 files for near-duplicates
    outcomes: float = 3400  # results per second that one driver takes from Ray
    shard_mb: float = 256  # size of a shard
    window: float = 10_000  # videos of shards that are shuffled with each other
    pack_mb: float = 148  # MB per second that one process packs into shards


def duration(hours: float) -> str:
    """Format hours in a readable unit."""
    for size, name in ((24 * 365, "years"), (48, "days"), (1, "h"), (1 / 60, "min")):
        if hours >= size:
            return f"{hours / (24 if name == 'days' else size):,.1f} {name}"
    return f"{hours * 3600:.0f} s"


def volume(size: float) -> str:
    """Format bytes in a readable unit."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1e6:,.1f} MB"


def new_pixels(plan: Plan) -> float:
    """Pixels of a transcoded frame."""
    return plan.width * plan.height * min(1.0, SIDE / min(plan.width, plan.height)) ** 2


def read_ms(plan: Plan) -> float:
    """Milliseconds of one core for a random clip of a transcoded file."""
    return plan.clip_ms * new_pixels(plan) / READ


def costs(plan: Plan) -> list[tuple[str, str]]:
    """Each cost of a plan by name."""
    frames = plan.clips * plan.seconds * plan.fps
    pixels = plan.width * plan.height
    index = frames * pixels / MEASURED / plan.index_fps / 3600
    transcode = frames * pixels / MEASURED / plan.transcode_fps / 3600
    before = plan.clips * plan.seconds * plan.source_mbit * 1e6 / 8
    after = plan.clips * plan.seconds * plan.transcoded_mb * 1e6 * new_pixels(plan) / MEASURED
    passing = transcode / plan.cores * 3600
    return [
        ("frames", f"{frames / 1e9:,.2f} billion"),
        ("index: core-hours", f"{index:,.0f}"),
        (f"index: with {plan.cores} cores", duration(index / plan.cores)),
        ("index: time for one command to record all results", duration(plan.clips / plan.outcomes / 3600)),
        ("transcode: core-hours", f"{transcode:,.0f}"),
        (f"transcode: with {plan.cores} cores", duration(transcode / plan.cores)),
        (f"transcode: network, {plan.cores} cores", f"{(before + after) / passing / 1e6:,.0f} MB/s"),
        ("sources", volume(before)),
        ("transcoded", volume(after)),
        ("index file", volume(plan.clips * plan.file_bytes)),
        ("journal while it is made", volume(plan.clips * plan.journal_bytes)),
        ("memory: list", volume(plan.clips * plan.manifest_bytes)),
        ("memory: index", volume(plan.clips * plan.facts_bytes)),
        ("memory: peak of making the index", volume(plan.clips * plan.making_bytes)),
        (
            "near-duplicates, one core",
            duration(plan.pairs_seconds * (plan.clips / 5e4) ** 2 / 3600),
        ),
        ("shards", f"{after / plan.shard_mb / 1e6:,.0f}"),
        ("packing: core-hours", f"{after / plan.pack_mb / 3.6e9:,.1f}"),
        (
            "room for shards behind a URL, per lane",
            volume(plan.window * after / plan.clips + 5e6 * plan.shard_mb),
        ),
        ("reading one clip per video: core-hours", f"{plan.clips * read_ms(plan) / 3.6e6:,.0f}"),
    ]


def feed(plan: Plan) -> list[tuple[str, str, str]]:
    """Cores and network that keep one GPU busy, for several speeds in clips per second."""
    whole = plan.seconds * plan.transcoded_mb * 1e6 * new_pixels(plan) / MEASURED
    return [
        (f"{rate}", f"{rate * read_ms(plan) / 1000:,.0f}", f"{rate * whole / 1e6:,.0f} MB/s")
        for rate in (50, 100, 200, 400)
    ]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows as Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for field in fields(Plan):
        parser.add_argument(f"--{field.name}", type=float, help=f"default: {field.default:,}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    whole = {name: int(value) for name, value in given.items() if name in ("width", "height", "cores")}
    if given:
        plans = {"your plan": Plan(**{**given, **whole})}
    else:
        large = {"width": 1280, "height": 720, "source_mbit": 4.0}
        plans = {
            "500,000 of 340 × 256": Plan(),
            "500,000 of 1280 × 720": Plan(**large),
            "100 million of 340 × 256": Plan(clips=1e8, cores=2000),
            "100 million of 1280 × 720": Plan(clips=1e8, cores=2000, **large),
        }
    columns = [costs(plan) for plan in plans.values()]
    for at in range(0, len(columns), 2):  # two next to each other, with the same number of cores
        part = columns[at : at + 2]
        names = ("", *list(plans)[at : at + 2])
        print(table(names, [(row[0][0], *(value for _, value in row)) for row in zip(*part, strict=True)]))
        print()
    print(table(("clips per second", "cores", "network, whole files"), feed(next(iter(plans.values())))))


if __name__ == "__main__":
    main()
