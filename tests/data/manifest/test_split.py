import itertools
import logging

import numpy as np
import pyarrow as pa
import pytest

from t3d.data.manifest.split import _Table, hold_out, label_share, source_share
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
    # A tenth of a row per class adds up to 0.5 rows before a class compensates for it.
    assert (
        cut(
            np.repeat(np.arange(20), 10), [f"{i}" for i in range(200)], 0.21, classes="ABCDEFGHIJKLMNOPQRST"
        ).sum()
        == 42
    )


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


@pytest.mark.parametrize(("sources", "searches"), [(6, 20), (1000, 11), (10_001, 1)])
def test_large_tables_are_searched_from_fewer_starts(sources, searches, monkeypatch):
    searched = []

    def improve(_, held, rng):
        searched.append(rng)
        return held

    monkeypatch.setattr(_Table, "improve", improve)
    # Each source has a row of two classes.
    cut([0, 1] * sources, [f"{i // 2}" for i in range(2 * sources)])
    assert len(searched) == searches


def random_table(seed, num_sources=12, num_classes=4, fraction=0.3):
    """Counts [K, S] of sources that span classes, and the same as the search holds them."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 9, (num_sources, num_classes)) * (rng.random((num_sources, num_classes)) < 0.5)
    dense[:, 0] = np.maximum(dense[:, 0], 1)
    source_of, stratum_of = np.nonzero(dense)
    return dense, _Table(source_of, stratum_of, dense[dense > 0], num_sources, fraction)


def slow_cost(dense, held, fraction=0.3):
    """Squared errors of the classes' shares and of the whole; a missing class costs more than any error."""
    cost = (dense[held].sum() / dense.sum() - fraction) ** 2
    for column in dense.T:
        share = column[held].sum() / column.sum()
        cost += (share - fraction) ** 2 + 10 * (share == 0) + 100 * (share == 1)
    return cost


@pytest.mark.parametrize("seed", range(10))
def test_the_cost_of_a_choice_is_that_of_a_slow_count(seed):
    dense, table = random_table(seed)
    rng = np.random.default_rng(seed)
    for held in [*(rng.random((20, 12)) < 0.3), np.zeros(12, bool), np.ones(12, bool)]:
        assert table.cost(held) == pytest.approx(slow_cost(dense, held))


@pytest.mark.parametrize("seed", range(10))
def test_a_source_is_first_dealt_with_the_class_it_has_most_rows_of(seed):
    dense, table = random_table(seed)
    assert table.main_stratum.tolist() == dense.argmax(1).tolist()  # the first of several
    assert table.main_count.tolist() == dense.max(1).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_no_source_moved_and_no_two_exchanged_would_improve_a_choice(seed):
    dense, table = random_table(seed)
    rng = np.random.default_rng(seed)
    start = rng.random(12) < 0.5
    held = table.improve(start, rng)
    cost = slow_cost(dense, held)
    assert cost <= slow_cost(dense, start)
    for one, other in itertools.combinations(range(12), 2):
        moved, exchanged = held.copy(), held.copy()
        moved[one] ^= True
        exchanged[[one, other]] = held[[other, one]]
        assert min(slow_cost(dense, moved), slow_cost(dense, exchanged)) > cost - 1e-9


def test_a_change_that_gains_nothing_is_not_made():
    """Half of five equal sources: two are as good as three. The search ends, and keeps what it began with."""
    table = _Table(np.arange(5), np.zeros(5, int), np.ones(5, int), 5, 0.5)
    for start in ([True, True, False, False, False], [True, True, True, False, False]):
        assert table.improve(np.array(start), np.random.default_rng(0)).tolist() == start


def test_the_whole_is_near_the_fraction_where_single_classes_would_not_say():
    # Found by trying: without the error of the total, another choice of these six scenes has the least cost.
    table = np.array([[18, 5, 1], [15, 1, 2], [0, 0, 1], [6, 0, 4], [0, 6, 2], [15, 0, 5]])
    rows = [(label, str(scene)) for (scene, label), count in np.ndenumerate(table) for _ in range(count)]
    labels, sources = np.array([row[0] for row in rows]), [row[1] for row in rows]
    for seed in range(5):
        held = cut(labels, sources, 0.3, seed)
        assert set(np.array(sources)[held]) == {"0", "2"}
        shares = np.array([held[labels == label].mean() for label in range(3)])
        cost = np.square(shares - 0.3).sum() + (held.mean() - 0.3) ** 2
        assert cost == pytest.approx(slow_best(labels, sources, 0.3))


def test_a_small_class_never_pays_for_a_large_one():
    # Half of three sources of 1000 rows is 500 off; the ten rows of the other class cannot make up for it.
    labels = np.repeat([0, 1], [3000, 10])
    sources = [f"large {i // 1000}" for i in range(3000)] + [f"small {i}" for i in range(10)]
    for seed in range(10):  # either class may come first
        held = cut(labels, sources, 0.5, seed)
        assert held[:3000].sum() in (1000, 2000)
        assert 4 <= held[3000:].sum() <= 6


def test_warns_where_no_choice_has_every_class_in_both_parts(caplog):
    # Three classes, each in two of three scenes: two scenes always fall into one part.
    with caplog.at_level(logging.WARNING):
        held = cut([0, 0, 1, 1, 2, 2], list("abbcca"), 0.34)
    assert 0 < held.sum() < 6
    assert "so that the held-out part has no '" in caplog.text
    assert len(set(np.array([0, 0, 1, 1, 2, 2])[~held])) == 3, "training keeps every class"


def test_the_warning_names_twenty_classes_and_counts_the_rest(caplog):
    # Two scenes of two classes each; the other classes have one source each and stay in the rest.
    for lone, more in ((20, ""), (21, " and 1 more classes")):
        labels = [0, 1, 0, 1, *range(2, 2 + lone)]
        classes = [f"c{i:02}" for i in range(2 + lone)]
        caplog.clear()
        hold_out(
            np.array(labels),
            pa.array(["a", "a", "b", "b", *(f"lone {i}" for i in range(lone))]),
            classes=classes,
            fraction=0.1,
            seed=0,
            refuse_lone=False,
        )
        names = ", ".join(f"'c{i:02}'" for i in range(2, 22))
        assert caplog.messages == [f"sources span classes so that the held-out part has no {names}{more}"]


def test_the_warning_tells_unlabeled_rows_from_a_class(caplog):
    labels = np.array([0, 1, 0, 1, -1])
    held = hold_out(
        labels, pa.array(list("aabbc")), classes=["x", "y"], fraction=0.4, seed=0, refuse_lone=False
    )
    assert not held[4]
    assert caplog.messages == ["sources span classes so that the held-out part has no '(unlabeled)'"]


def test_unlabeled_rows_are_spread_too():
    held = cut([0] * 10 + [-1] * 10, [f"{i}" for i in range(20)], 0.3)
    assert held[:10].sum() == held[10:].sum() == 3


def test_a_class_with_one_source_is_named():
    with pytest.raises(
        ManifestError, match=r"class 'B' has videos of one group only \('studio'\).*column `source`"
    ):
        cut([0, 0, 1, 1], ["a", "b", "studio", "studio"])
    with pytest.raises(ManifestError, match=r"'A' \(like 1 more\)"):
        cut([0, 1], ["a", "b"])
    with pytest.raises(ManifestError, match="the unlabeled videos are of one group only"):
        cut([0, 0, -1], ["a", "b", "c"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_outside(fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        cut([0, 0], ["a", "b"], fraction)


def test_empty():
    with pytest.raises(ManifestError, match="empty"):
        cut([], pa.array([], pa.string()))


# --- a share of the labels ----------------------------------------------------------------------------------


def slow_order(sources, seed):
    """The sources in the random order in which they are taken."""
    names = sorted(set(sources))
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def slow_taken(sizes, fraction):
    """Number of sources (at least 1) whose rows are nearest to the fraction; of a tie, the smaller one."""
    ends = list(itertools.accumulate(sizes))
    return min(range(1, len(ends) + 1), key=lambda num: (abs(ends[num - 1] - fraction * ends[-1]), num))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_share_of_labels_is_that_of_a_slow_draw(seed, fraction):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 120)
    sources = [f"s{i:02}" for i in rng.integers(0, 30, 120)]  # most span classes
    used = label_share(labels, pa.array(sources), fraction=fraction, seed=seed)
    for label in range(4):
        mine = [source for source, k in zip(sources, labels, strict=True) if k == label]
        order = [source for source in slow_order(sources, seed) if source in mine]
        taken = order[: slow_taken([mine.count(source) for source in order], fraction)]
        rows = np.flatnonzero(labels == label)
        assert used[rows].tolist() == [sources[row] in taken for row in rows]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_sources_is_that_of_a_slow_draw(seed, fraction):
    rng = np.random.default_rng(seed)
    sources = [f"s{i:02}" for i in rng.integers(0, 30, 120)]
    rows, labels = rng.integers(0, 120, 200), rng.integers(-1, 6, 200)
    used = source_share(rows, labels, pa.array(sources), fraction=fraction, seed=seed)
    order = slow_order(sources, seed)
    taken = set(order[: slow_taken([sources.count(source) for source in order], fraction)])
    for label in range(6):
        having = {sources[row] for row, k in zip(rows, labels, strict=True) if k == label}
        taken.add(min(having, key=order.index))
    assert used.tolist() == [source in taken for source in sources]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_shares_outside(fraction):
    for share in (
        lambda **options: label_share(np.array([0]), pa.array(["a"]), **options),
        lambda **options: source_share(np.array([0]), np.array([0]), pa.array(["a"]), **options),
    ):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            share(fraction=fraction, seed=0)
