"""Held-out videos: which sources `split_by_source` holds out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from t3d.data.manifest.split import hold_out

Make = Callable[..., Any]


def lopsided() -> list[tuple[str, int | None, str]]:
    """40 rows: classes of 12, 5 and 2 sources with 1 to 4 rows each, and 3 sources without a label."""
    rows: list[tuple[str, int | None, str]] = []
    for label, count in ((0, 12), (1, 5), (2, 2), (None, 3)):
        for number in range(count):
            source = f"{'abcd'[3 if label is None else label]}{number:02d}"
            rows += [(f"{source}_{i}", label, source) for i in range(1 + (number * 7 + 2) % 3 % 4)]
    return rows


def spanning() -> list[tuple[str, int, str]]:
    """Scenes in which several actions were filmed: 14 sources with two or three of 4 classes each."""
    return [
        (f"s{n:02d}_{label}_{i}", label, f"s{n:02d}")
        for n in range(14)
        for label in sorted({n % 4, (n * n + 1) % 4, (3 * n + 2) % 4})
        for i in range(1 + (n + label) % 3)
    ]


def held(table: Any, fraction: float, seed: int) -> list[str]:
    rest, out = table.split_by_source(fraction, seed=seed)
    assert not set(rest.sources()) & set(out.sources())
    assert sorted([*rest.sources(), *out.sources()]) == table.sources()
    assert all(rest.class_counts().values())
    assert all(out.class_counts().values())
    return list(out.sources())


def test_sources_of_one_class_each(manifest: Make) -> None:
    table = manifest(lopsided(), "a b c")
    assert held(table, 0.2, 0) == ["a02", "a04", "a10", "b04", "c01", "d00"]
    assert held(table, 0.2, 1) == ["a01", "a11", "b03", "c00", "d01"]
    assert held(table, 0.2, 7) == ["a03", "a10", "b02", "c00", "d01", "d02"]
    # fmt: off
    assert held(table, 0.5, 0) == [
        "a02", "a03", "a04", "a06", "a10", "a11", "b00", "b01", "b04", "c01", "d00"
    ]
    # fmt: on
    assert held(table, 0.05, 3) == ["a09", "b00", "c00", "d01"]


def test_the_order_of_rows_plays_no_part(manifest: Make) -> None:
    rows = lopsided()
    assert held(manifest(rows[::-1], "a b c"), 0.2, 1) == held(manifest(rows, "a b c"), 0.2, 1)


def test_sources_that_span_classes(manifest: Make) -> None:
    table = manifest(spanning(), "a b c d")
    assert held(table, 0.2, 0) == ["s02", "s03", "s13"]
    assert held(table, 0.2, 1) == ["s01", "s02", "s03"]
    assert held(table, 0.4, 5) == ["s00", "s04", "s06", "s07", "s12"]


def test_one_class_without_a_second_source_stays_in_the_rest() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    sources = pa.array(["a", "b", "c", "d", "e", "e"])
    draws = [
        np.flatnonzero(
            hold_out(labels, sources, classes=("x", "y"), fraction=0.3, seed=seed, refuse_lone=False)
        ).tolist()
        for seed in range(6)
    ]
    assert not any({4, 5} & set(draw) for draw in draws)
    assert draws == [[2], [0, 1], [2, 3], [1, 2], [0, 2], [1, 3]]


def test_videos_of_several_labels(manifest: Make) -> None:
    rows = [
        (f"v{n:02d}", sorted({n % 3, n * n % 5 % 3}) if n % 6 else [], f"s{n // 2:02d}") for n in range(30)
    ]
    table = manifest(rows, "a b c")
    assert held(table, 0.25, 0) == ["s00", "s02", "s05", "s11"]
    assert held(table, 0.25, 2) == ["s07", "s09", "s13", "s14"]
