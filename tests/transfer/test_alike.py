from __future__ import annotations

import numpy as np

from t3d.transfer import alike
from t3d.transfer.alike import clusters, near_duplicates, unit_length


def test_near_duplicates_are_those_of_a_double_loop(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(alike, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    features = np.repeat(rng.random((12, 6)), 3, axis=0) + 0.15 * rng.random((36, 6))
    unit = unit_length(features)
    bound = 0.985
    links = {(i, j) for i in range(36) for j in range(i + 1, 36) if unit[i] @ unit[j] >= bound}
    result = near_duplicates(features, bound)
    assert result.pairs == len(links) > 5
    member = list(range(36))
    for one, other in sorted(links):
        old, new = member[other], member[one]
        member = [new if each == old else each for each in member]
    expected = {
        tuple(row for row in range(36) if member[row] == group)
        for group in set(member)
        if member.count(group) > 1
    }
    assert {group.rows for group in result.groups} == expected
    for group in result.groups:
        inside = [unit[i] @ unit[j] for i, j in links if i in group.rows]
        assert abs(group.cosine - min(inside)) < 1e-12
    assert result.all_found


def test_nothing_is_alike() -> None:
    result = near_duplicates(np.eye(3), 0.5)
    assert (result.groups, result.pairs) == ((), 0)
    assert near_duplicates(np.zeros((2, 3)), 0.5).pairs == 0


def test_too_many_pairs_are_counted(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(alike, "_BLOCK", 2)
    monkeypatch.setattr(alike, "_MOST_PAIRS", 3)
    result = near_duplicates(np.ones((6, 2)), 0.9)
    assert result.pairs == 15
    assert not result.all_found


def test_clusters_find_what_is_separate() -> None:
    rng = np.random.default_rng(1)
    centers = np.eye(3) * 5
    features = np.concatenate(
        [center + 0.3 * rng.random((count, 3)) for center, count in zip(centers, (9, 6, 3), strict=True)]
    )
    result = clusters(features, 3)
    rows = [tuple(sorted(group.rows)) for group in result]
    assert rows == [tuple(range(9)), tuple(range(9, 15)), tuple(range(15, 18))]
    unit = unit_length(features[:9])
    center = unit_length(unit.mean(0, keepdims=True))[0]
    assert result[0].rows[0] == int((unit @ center).argmax())


def test_few_or_equal_videos() -> None:
    assert clusters(np.ones((2, 3))) == ()
    assert [group.rows for group in clusters(np.ones((4, 3)), 3)] == [(0, 1, 2, 3)]
    assert len(clusters(np.random.default_rng(0).random((50, 4)))) == 5
