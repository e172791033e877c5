"""Training order: which video comes when, in every epoch and on every process."""

from __future__ import annotations

from typing import Any

import numpy as np

from t3d.data.clips.sampler import ResumableBatchSampler, ShardOrder


def rows(sampler: ResumableBatchSampler, epoch: int, step: int = 0) -> list[list[int]]:
    sampler.set_state(epoch=epoch, step=step)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(key.epoch == epoch for batch in batches for key in batch)
    assert [key.row for batch in batches for key in batch] == sampler.coming().tolist()
    return [[key.row for key in batch] for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_plain_order_leaves_out_what_fills_no_batch() -> None:
    sampler = ResumableBatchSampler(11, batch_size=3, seed=0)
    assert sampler.steps_per_epoch == 3
    assert len(set(flat(rows(sampler, 0)))) == 9
    assert rows(sampler, 0) == [[4, 6, 7], [2, 0, 3], [5, 10, 9]]
    assert rows(sampler, 1) == [[7, 1, 10], [3, 9, 4], [0, 6, 8]]
    assert rows(sampler, 40) == [[1, 3, 10], [8, 0, 6], [4, 5, 7]]
    other = ResumableBatchSampler(11, batch_size=3, seed=5)
    assert rows(other, 0) == [[10, 7, 1], [3, 2, 4], [6, 0, 9]]


def test_resumed_within_an_epoch() -> None:
    sampler = ResumableBatchSampler(11, batch_size=3, seed=0)
    assert rows(sampler, 1, step=2) == [[0, 6, 8]]
    assert rows(sampler, 1, step=2) == rows(sampler, 1)[2:]
    assert rows(sampler, 1, step=3) == []


def test_processes_and_passes_share_one_order() -> None:
    def part(rank: int) -> list[list[int]]:
        return rows(
            ResumableBatchSampler(26, batch_size=8, seed=2, rank=rank, world_size=2, accumulate=2), epoch=3
        )

    assert part(0) == [[14, 0], [9, 23], [16, 5], [7, 13], [17, 6], [10, 15]]
    assert part(1) == [[20, 3], [19, 24], [12, 25], [22, 18], [21, 2], [8, 1]]
    whole = rows(ResumableBatchSampler(26, batch_size=8, seed=2), epoch=3)
    joined = [
        flat(part(0)[2 * step : 2 * step + 2]) + flat(part(1)[2 * step : 2 * step + 2]) for step in range(3)
    ]
    assert joined == whole


def balanced(epoch: int, seed: int = 0, step: int = 0) -> list[tuple[int, int]]:
    classes = np.array([0] * 9 + [1] * 3 + [4] * 2)
    sampler = ResumableBatchSampler(14, batch_size=7, seed=seed, classes=classes)
    sampler.set_state(epoch=epoch, step=step)
    return [(key.row, key.visit) for batch in sampler for key in batch]


def test_balanced_order_with_visits() -> None:
    for epoch in range(6):
        drawn = balanced(epoch)
        assert len(set(drawn)) == 14  # a repeated video is another visit
        counts = [sum(low <= row < high for row, _ in drawn) for low, high in ((0, 9), (9, 12), (12, 14))]
        assert sorted(counts) == [4, 5, 5]
    # fmt: off
    assert balanced(0) == [
        (3, 0), (12, 0), (0, 0), (13, 1), (5, 0), (2, 0), (9, 0), (10, 0), (7, 0), (12, 1), (13, 2), (11, 0),
        (13, 0), (9, 1)
    ]
    assert balanced(1) == [
        (13, 1), (4, 0), (12, 1), (10, 1), (5, 1), (6, 0), (10, 0), (12, 0), (8, 0), (1, 0), (9, 1), (13, 2),
        (11, 1), (12, 2)
    ]
    assert balanced(2) == [
        (12, 0), (13, 0), (7, 0), (8, 0), (2, 0), (12, 2), (11, 0), (10, 1), (13, 1), (11, 1), (9, 1),
        (12, 1), (9, 0), (6, 0)
    ]
    assert balanced(31) == [
        (12, 1), (0, 0), (10, 1), (9, 1), (11, 2), (12, 0), (8, 0), (6, 0), (13, 1), (13, 2), (3, 0), (10, 0),
        (11, 1), (5, 0)
    ]
    assert balanced(0, seed=3) == [
        (12, 1), (11, 1), (13, 0), (0, 0), (13, 1), (3, 0), (1, 0), (12, 0), (5, 0), (11, 0), (10, 1),
        (10, 0), (12, 2), (9, 0)
    ]
    # fmt: on
    assert balanced(2, step=1) == balanced(2)[7:]


def sharded(epoch: int, seed: int = 0, **options: Any) -> list[list[int]]:
    shards = np.arange(30) // 6 % 5
    order = ShardOrder(shards, options.pop("window", 3), options.pop("lanes", 2))
    options = {"batch_size": 4} | options
    return rows(ResumableBatchSampler(30, seed=seed, shards=order, **options), epoch)


def test_shards_in_lanes() -> None:
    assert len(set(flat(sharded(0)))) == 28
    # fmt: off
    assert sharded(0) == [
        [18, 19, 3, 5], [20, 21, 4, 12], [22, 23, 13, 14], [26, 24, 15, 16], [25, 28, 17, 6], [27, 0, 7, 8],
        [29, 1, 9, 10]
    ]
    assert sharded(1) == [
        [19, 20, 27, 28], [18, 22, 29, 12], [21, 1, 13, 14], [23, 0, 16, 15], [2, 3, 17, 6], [4, 24, 7, 8],
        [5, 25, 9, 10]
    ]
    assert sharded(0, seed=9) == [
        [12, 13, 22, 21], [14, 15, 6, 23], [24, 16, 7, 8], [17, 25, 9, 10], [27, 26, 11, 0], [28, 29, 1, 3],
        [20, 18, 2, 4]
    ]
    assert sharded(0, lanes=1) == [
        [18, 19, 20, 21], [22, 23, 26, 24], [25, 28, 27, 0], [29, 1, 2, 3], [5, 4, 12, 13], [14, 15, 16, 17],
        [6, 7, 8, 9]
    ]
    assert sharded(0, lanes=4) == [
        [18, 26, 3, 16], [19, 25, 5, 17], [20, 28, 4, 6], [21, 27, 12, 7], [22, 0, 13, 8], [23, 29, 14, 9],
        [24, 1, 15, 10]
    ]
    assert sharded(0, window=30) == [
        [18, 26, 5, 12], [28, 0, 3, 4], [21, 23, 11, 16], [19, 22, 13, 14], [20, 2, 15, 10], [25, 29, 8, 7],
        [24, 27, 9, 17]
    ]
    # fmt: on


def test_a_window_of_one_reads_each_shard_in_order() -> None:
    drawn = sharded(0, window=1, lanes=1, batch_size=3)
    assert [batch[0] // 6 for batch in drawn[::2]] == [3, 4, 0, 2, 1]
    assert all(np.diff(flat(drawn)[at : at + 6]).tolist() == [1] * 5 for at in range(0, 30, 6))


def test_shards_on_several_processes() -> None:
    parts = [sharded(2, rank=rank, world_size=2) for rank in range(2)]
    assert parts[0] == [[19, 18], [20, 21], [22, 23], [12, 13], [14, 15], [16, 6], [17, 7]]
    assert parts[1] == [[9, 10], [11, 24], [25, 26], [27, 28], [29, 0], [1, 2], [4, 3]]
    assert [a + b for a, b in zip(*parts, strict=True)] == sharded(2)
