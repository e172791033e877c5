import itertools
import logging

import numpy as np
import pyarrow as pa
import pytest

from t3d.data.manifest.split import hold_out
from t3d.errors import ConfigError, ManifestError


def cut(labels, sources, fraction=0.2, seed=0, classes="ABCDEFGHIJ"):
    labels = np.asarray(labels, np.int64)
    return hold_out(labels, pa.array(sources), classes=list(classes), fraction=fraction, seed=seed)


def groups(rng, num_classes=8, num_sources=12, most=7):
    """Sources of one class each, of uneven size."""
    rows = [
        (label, f"{label}_{source}")
        for label in range(num_classes)
        for source in range(num_sources)
        for _ in range(rng.integers(1, most + 1))
    ]
    return np.array([row[0] for row in rows]), [row[1] for row in rows]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.8])
def test_whole_sources_every_class_and_near_the_fraction(seed, fraction):
    labels, sources = groups(np.random.default_rng(seed))
    held = cut(labels, sources, fraction, seed)
    assert held.dtype == bool
    assert held.shape == (len(labels),)
    inside = {source for source, is_held in zip(sources, held, strict=True) if is_held}
    outside = {source for source, is_held in zip(sources, held, strict=True) if not is_held}
    assert inside
    assert outside
    assert not inside & outside
    for label in range(8):
        mine = labels == label
        sizes = np.unique(np.array(sources)[mine], return_counts=True)[1]
        assert 0 < held[mine].sum() < mine.sum()
        assert abs(held[mine].sum() - fraction * mine.sum()) <= sizes.max()
    assert abs(held.mean() - fraction) < 0.02


def test_exact_where_every_row_is_its_own_source():
    held = cut([0] * 400 + [1] * 400, [f"clip {i}" for i in range(800)], 0.1)
    assert held[:400].sum() == held[400:].sum() == 40


def test_rounding_evens_out_over_the_classes():
    # Each class alone would hold out 2 of 10, or 3 of 10; together they can hold out a quarter.
    labels = np.repeat(np.arange(8), 10)
    held = cut(labels, [f"{i}" for i in range(80)], 0.25)
    assert held.sum() == 20
    assert set(np.bincount(labels[held])) == {2, 3}


def test_a_class_with_two_sources_is_in_both_parts_whatever_the_fraction():
    for fraction, seed in itertools.product((0.01, 0.5, 0.99), range(5)):
        held = cut([0, 0, 0, 0, 0, 1, 1], list("aaaabcd"), fraction, seed)
        assert 0 < held[:5].sum() < 5
        assert 0 < held[5:].sum() < 2


def test_depends_on_seed_and_content_not_on_the_order_of_rows_or_classes():
    rng = np.random.default_rng(0)
    labels, sources = groups(rng)
    classes = "HCAFBEGD"
    held = cut(labels, sources, classes=classes)
    chosen = {source for source, is_held in zip(sources, held, strict=True) if is_held}
    order = rng.permutation(len(labels))
    mixed = cut(labels[order], [sources[i] for i in order], classes=classes)
    assert np.array_equal(mixed, held[order])
    alphabet = "".join(sorted(classes))
    renumbered = np.array([alphabet.index(classes[label]) for label in labels])
    assert np.array_equal(cut(renumbered, sources, classes=alphabet), held)
    others = [cut(labels, sources, seed=seed) for seed in range(1, 4)]
    assert all(not np.array_equal(other, held) for other in others)
    assert chosen


def slow_best(labels, sources, fraction):
    """Try every choice of sources: all classes in both parts, then the least squared error of the shares."""
    labels, names = np.array(labels), sorted(set(sources))
    present = [labels == label for label in sorted(set(labels.tolist()))]
    costs = []
    for choice in itertools.product((False, True), repeat=len(names)):
        picked = dict(zip(names, choice, strict=True))
        held = np.array([picked[source] for source in sources])
        shares = [held[mine].mean() for mine in present]
        if min(shares) > 0 and max(shares) < 1:
            costs.append(sum((s - fraction) ** 2 for s in shares) + (held.mean() - fraction) ** 2)
    return min(costs)


@pytest.mark.parametrize("seed", range(3))
def test_sources_that_span_classes_as_well_as_trying_every_choice(seed):
    # Six actions in eleven scenes, most of them in few: counts as a data set filmed in the dark has them.
    scenes = {
        0: {"11": 11, "8": 14},
        1: {"1": 6, "11": 19},
        2: {"10": 13, "2": 8, "4": 4},
        3: {"2": 4, "3": 7, "5": 9, "9": 5},
        4: {"1": 21, "7": 4},
        5: {"10": 13, "14": 12},
    }
    rows = [(label, s) for label, table in scenes.items() for s, count in table.items() for _ in range(count)]
    labels, sources = np.array([row[0] for row in rows]), [row[1] for row in rows]
    held = cut(labels, sources, 0.2, seed)
    shares = np.array([held[labels == label].mean() for label in scenes])
    assert shares.min() > 0
    assert shares.max() < 1
    assert not set(np.array(sources)[held]) & set(np.array(sources)[~held])
    cost = np.square(shares - 0.2).sum() + (held.mean() - 0.2) ** 2
    assert cost <= slow_best(labels, sources, 0.2) + 0.05  # a search, near the best there is


def test_warns_where_no_choice_has_every_class_in_both_parts(caplog):
    # Three classes, each in two of three scenes: two scenes always fall into one part.
    with caplog.at_level(logging.WARNING):
        held = cut([0, 0, 1, 1, 2, 2], list("abbcca"), 0.34)
    assert 0 < held.sum() < 6
    assert "so that the held-out part has no '" in caplog.text
    assert len(set(np.array([0, 0, 1, 1, 2, 2])[~held])) == 3, "training keeps every class"


def test_unlabeled_rows_are_spread_too():
    held = cut([0] * 10 + [-1] * 10, [f"{i}" for i in range(20)], 0.3)
    assert held[:10].sum() == held[10:].sum() == 3


def test_a_class_with_one_source_is_named():
    with pytest.raises(ManifestError, match=r"class 'B' has only one source, 'studio'.*source_pattern"):
        cut([0, 0, 1, 1], ["a", "b", "studio", "studio"])
    with pytest.raises(ManifestError, match=r"'A'.*and likewise 1 more"):
        cut([0, 1], ["a", "b"])
    with pytest.raises(ManifestError, match="the unlabeled videos have only one source"):
        cut([0, 0, -1], ["a", "b", "c"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_outside(fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        cut([0, 0], ["a", "b"], fraction)


def test_empty():
    with pytest.raises(ManifestError, match="empty"):
        cut([], pa.array([], pa.string()))
