"""Print the results of `t3d bench`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from t3d.bench.decode import DecodeResult
from t3d.bench.growth import GrowthResult
from t3d.bench.predict import PredictResult
from t3d.bench.result import BenchResult, LayerTime, Machine, Row
from t3d.errors import printable
from t3d.report.result import say
from t3d.timing import Timing


def print_bench(result: BenchResult) -> None:
    """Print the rows of `t3d bench model` or `train`, the peaks and the searches of batch sizes."""
    frames, side = result.clip
    several = len({row.network for row in result.rows}) > 1
    table = Table(
        *([Column("network", overflow="fold")] if several else []),
        Column("computed by", overflow="fold"),
        "numbers",
        *(Column(name, justify="right") for name in _COLUMNS),
        title=f"{result.model}: clips of {frames} × {side} × {side}, {_threads(result.machine)}",
        box=SIMPLE,
    )
    for row in result.rows:
        name = [Text(printable(row.network))] if several else []
        table.add_row(*name, row.setting, row.precision, *_cells(row))
    _console().print(table)
    for row in result.rows:
        if row.error:
            say(f"not measured: {row.network}, {row.setting}, {row.precision}: {row.error}")
    if result.layers:
        _print_layers(result.layers)
    say(*_sentences(result))


_COLUMNS = (
    "batch",
    "ms per\nclip",
    "±",
    "times\nfaster",
    "than best\neager",
    "GFLOP/s",
    "of\npeak",
    "MB",
)
_WIDTH = 110  # of a table in a file


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _cells(row: Row) -> list[str]:
    if row.time is None:
        return [str(row.batch), "failed", *[""] * (len(_COLUMNS) - 2)]
    rate = "" if row.macs is None else f"{2 * row.macs / row.time.median / 1e9:.0f}"
    spread = (row.time.high - row.time.low) / 2 / row.time.median
    return [
        str(row.batch),
        _ms(row.time.median),
        f"{spread:.0%}",
        _ratio(row.speedup),
        _ratio(row.eager_speedup),
        rate,
        _share(row.peak_share),
        "" if row.memory is None else f"{row.memory / 1e6:.0f}",
    ]


def _sentences(result: BenchResult) -> list[str]:
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in result.peaks.flops.items())
    lines = [
        "times faster: than the first row. ±: half of the distance between the quartiles",
        f"measured peaks: {peaks}, {result.peaks.bytes / 1e9:.0f} GB/s copied",
    ]
    first = result.rows[0]
    if first.macs is not None and first.traffic is not None:
        lines.append(
            f"work per clip: {first.macs / 1e9:.2f} GMAC; at least {first.traffic / 1e6:.0f} MB of memory "
            "traffic in fp32"
        )
    for name, search in result.searches.items():
        tried = ", ".join(
            f"{point.batch}: {'-' if point.seconds is None else f'{1 / point.seconds:.1f}'}"
            for point in search.points
        )
        lines.append(f"{name}: batch {search.best} is fastest ({search.reason}; clips/s by batch: {tried})")
    return [*lines, *_busy(result.machine)]


def _busy(machine: Machine) -> list[str]:
    if not machine.busy:
        return []
    return [
        f"other work ran on this machine (load {machine.load:.1f}): compare rows with each other, not with "
        "other tables"
    ]


def _print_layers(layers: Sequence[LayerTime]) -> None:
    total = sum(layer.seconds for layer in layers)
    table = Table(
        "layers",
        *(Column(name, justify="right") for name in ("count", "ms", "share", "GMAC", "of peak")),
        Column("code", overflow="fold"),
        title="Time of layers in OpenVINO",
        box=SIMPLE,
    )
    for layer in layers:
        macs = f"{layer.macs / 1e9:.2f}" if layer.macs else ""
        table.add_row(
            layer.kind,
            str(layer.count),
            _ms(layer.seconds),
            f"{layer.seconds / total:.1%}",
            macs,
            _share(layer.peak_share),
            layer.primitives,
        )
    _console().print(table)


def print_predict(result: PredictResult) -> None:
    """Print the steps of `t3d bench predict`."""
    table = Table(
        "step",
        Column("seconds", justify="right"),
        Column("ms per video", justify="right"),
        title=f"{result.videos} videos, {result.clips} clips, {_threads(result.machine)}",
        box=SIMPLE,
    )
    for name, seconds in result.steps.items():
        table.add_row(name, f"{seconds:.2f}", _ms(seconds / max(result.videos, 1)))
    _console().print(table)
    say(
        f"start-up: {result.startup:.2f} s until the model is loaded",
        f"{result.rate:.2f} videos per second, reading and computing at the same time, in one process",
        *(f"could not be read: {each}" for each in result.bad),
        *_busy(result.machine),
    )


def print_decode(result: DecodeResult) -> None:
    """Print the readers of `t3d bench decode`."""
    table = Table(
        "reader",
        "frames",
        *(Column(name, justify="right") for name in ("frames/s", "quartiles", "relative")),
        title=f"{result.videos} videos, {result.frames} frames in all, one thread",
        box=SIMPLE,
    )
    for row in result.rows:
        low, high = row.frames / row.time.high, row.frames / row.time.low
        table.add_row(
            row.reader,
            row.order,
            f"{row.frames / row.time.median:.0f}",
            f"{low:.0f} … {high:.0f}",
            _ratio(row.relative),
        )
    _console().print(table)
    say(
        "relative: speed compared with the first reader of the same frames",
        *(f"could not be read: {each}" for each in result.bad),
        *_busy(result.machine),
    )


def print_growth(result: GrowthResult) -> None:
    """Print the points of `t3d bench growth`, and where growth stops being linear."""
    table = Table(
        "growing",
        "value",
        *(Column(name, justify="right") for name in ("GMAC", "ms", "GFLOP/s", "MB")),
        title=f"{result.model}: {result.kind}, fp32, {_threads(result.machine)}",
        box=SIMPLE,
    )
    for point in result.points:
        seconds = None if point.time is None else point.time.median
        table.add_row(
            point.axis,
            point.label,
            f"{point.macs / 1e9:.2f}",
            "failed" if seconds is None else _ms(seconds),
            "" if seconds is None else f"{2 * point.macs / seconds / 1e9:.0f}",
            "" if point.memory is None else f"{point.memory / 1e6:.0f}",
        )
    _console().print(table)
    say(*result.sentences(), *_busy(result.machine))


def _threads(machine: Machine) -> str:
    if machine.device.startswith(("NVIDIA", "AMD")):
        return machine.device
    return f"{machine.threads} thread" + ("s" if machine.threads != 1 else "")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _quartiles(time: Timing) -> str:
    return f"{_ms(time.low)} … {_ms(time.high)}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
