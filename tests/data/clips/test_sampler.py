from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from t3d.data.clips.sampler import ResumableBatchSampler, SampleKey, ShardOrder
from t3d.errors import ConfigError


def epoch_of(sampler: ResumableBatchSampler, epoch: int, step: int = 0) -> list[list[SampleKey]]:
    sampler.set_state(epoch=epoch, step=step)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize(("length", "batch"), [(1, 1), (7, 7), (10, 3), (64, 8), (101, 10)])
def test_an_epoch_takes_every_video_at_most_once_and_leaves_out_less_than_a_batch(
    length: int, batch: int
) -> None:
    sampler = ResumableBatchSampler(length, batch_size=batch, seed=1)
    assert sampler.steps_per_epoch == length // batch
    for epoch in range(3):
        batches = epoch_of(sampler, epoch)
        keys = [key for keys in batches for key in keys]
        rows = [key.row for key in keys]
        assert {len(keys) for keys in batches} == {batch}
        assert {key.epoch for key in keys} == {epoch}
        assert len(set(rows)) == len(rows) == length - length % batch
        assert set(rows) <= set(range(length))


def test_every_video_is_drawn_eventually() -> None:
    sampler = ResumableBatchSampler(10, batch_size=8, seed=1)
    seen = [key.row for epoch in range(60) for batch in epoch_of(sampler, epoch) for key in batch]
    counts = np.bincount(seen, minlength=10)
    assert counts.min() > 0.6 * counts.mean()


def test_orders_differ_per_epoch_and_seed_and_are_repeatable() -> None:
    orders = [
        tuple(
            key.row
            for batch in epoch_of(ResumableBatchSampler(40, batch_size=8, seed=seed), epoch)
            for key in batch
        )
        for _ in range(2)
        for seed in range(3)
        for epoch in range(3)
    ]
    assert orders[:9] == orders[9:]
    assert len(set(orders)) == 9
    assert tuple(range(40)) not in orders


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (6, 2), (12, 1)])
def test_all_processes_and_passes_together_take_the_batch_of_one_process(world: int, accumulate: int) -> None:
    whole = epoch_of(ResumableBatchSampler(50, batch_size=12, seed=3), 5)
    parts = [
        epoch_of(
            ResumableBatchSampler(
                50, batch_size=12, seed=3, rank=rank, world_size=world, accumulate=accumulate
            ),
            5,
        )
        for rank in range(world)
    ]
    assert all(len(part) == 4 * accumulate for part in parts)
    assert {len(keys) for part in parts for keys in part} == {12 // world // accumulate}
    for step, batch in enumerate(whole):
        shares = [
            key
            for part in parts
            for keys in part[step * accumulate : (step + 1) * accumulate]
            for key in keys
        ]
        assert sorted(shares) == sorted(batch)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 2)])
def test_a_state_resumes_exactly_the_tail(world: int, accumulate: int) -> None:
    def sampler() -> ResumableBatchSampler:
        return ResumableBatchSampler(
            41, batch_size=4, seed=9, rank=world - 1, world_size=world, accumulate=accumulate
        )

    whole = epoch_of(sampler(), 2)
    for step in range(11):
        assert epoch_of(sampler(), 2, step) == whole[step * accumulate :]
    # Iterating does not move the state: it is set by whoever counts the steps.
    one = sampler()
    one.set_state(epoch=2, step=3)
    assert list(one) == list(one) == whole[3 * accumulate :]


def test_a_new_sampler_begins_at_the_first_step_of_the_first_epoch() -> None:
    sampler = ResumableBatchSampler(20, batch_size=6, seed=0)
    assert (sampler.epoch, sampler.step, len(sampler)) == (0, 0, 3)
    assert (ShardOrder(UNEVEN).window, ShardOrder(UNEVEN).lanes) == (10_000, 1)
    batches = list(sampler)
    assert batches == epoch_of(sampler, 0)


def test_a_loader_asks_for_exactly_these_keys() -> None:
    class Keys:
        def __getitem__(self, key: SampleKey) -> SampleKey:
            return key

    sampler = ResumableBatchSampler(20, batch_size=6, seed=0, accumulate=2)
    sampler.set_state(epoch=4, step=1)
    loader = DataLoader(Keys(), batch_sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
    assert list(loader) == list(sampler)
    assert len(loader) == 4


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"10 cannot be split evenly over 2 processes × 3 passes.*multiple of 6"
    ):
        ResumableBatchSampler(100, batch_size=10, seed=0, world_size=2, accumulate=3)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="only 7 training videos; choose 7 or less"):
        ResumableBatchSampler(7, batch_size=8, seed=0)


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (0, -1), (0, 4)])
def test_a_place_that_does_not_exist_is_refused(epoch: int, step: int) -> None:
    sampler = ResumableBatchSampler(10, batch_size=3, seed=0)
    with pytest.raises(ConfigError, match=f"epoch {epoch}, step {step}.* 3 steps"):
        sampler.set_state(epoch=epoch, step=step)


# --- every class equally often ------------------------------------------------------------------------------

CLASSES = np.array([0] * 50 + [1] * 9 + [2] * 3)


def balanced(epoch: int, **options: int) -> list[SampleKey]:
    sampler = ResumableBatchSampler(62, batch_size=2, seed=4, classes=CLASSES, **options)
    assert sampler.steps_per_epoch == 31
    return [key for batch in epoch_of(sampler, epoch) for key in batch]


def test_classes_are_drawn_equally_often_and_no_clip_twice() -> None:
    for epoch in range(5):
        keys = balanced(epoch)
        counts = np.bincount([CLASSES[key.row] for key in keys])
        assert sorted(counts) == [20, 21, 21]
        assert len(set(keys)) == len(keys) == 62
        for row in (50, 58, 59, 61):  # rows of small classes come as often as their like, to within one
            size = (CLASSES[row] == CLASSES).sum()
            visits = sorted(key.visit for key in keys if key.row == row)
            assert len(visits) == pytest.approx(20.5 / size, abs=1.5)
            assert len(set(visits)) == len(visits)


def test_videos_of_a_large_class_take_turns_over_the_epochs() -> None:
    seen = np.bincount([key.row for epoch in range(50) for key in balanced(epoch)], minlength=62)
    assert seen[:50].min() > 0.7 * seen[:50].mean()
    assert seen[50:59].max() - seen[50:59].min() <= 3 * 3


def test_balance_survives_restarts_and_processes() -> None:
    whole = ResumableBatchSampler(62, batch_size=6, seed=4, classes=CLASSES)
    batches = epoch_of(whole, 3)
    assert epoch_of(whole, 3, step=4) == batches[4:]
    assert epoch_of(whole, 4) != batches
    parts = [
        epoch_of(ResumableBatchSampler(62, batch_size=6, seed=4, rank=rank, world_size=2, classes=CLASSES), 3)
        for rank in range(2)
    ]
    for batch, one, two in zip(batches, *parts, strict=True):
        assert sorted(one + two) == sorted(batch)


def slow_turns(row_class: np.ndarray, *, seed: int, epoch: int) -> list[dict[tuple[int, int], int]]:
    """Return the visits (row, round) of an epoch per class: a slice of its endless series of shuffled rounds.

    An epoch takes one place more in the series than the smaller share of a class, so that no place is taken
    twice. The number of places taken is not checked in this test.
    """
    classes = np.unique(row_class)
    share = len(row_class) // len(classes)
    pieces = []
    for number, label in enumerate(classes):
        rows = np.flatnonzero(row_class == label)
        series = []
        for lap in range((epoch + 1) * (share + 1) // len(rows) + 2):
            order = np.random.default_rng((seed, lap, number, 1)).permutation(rows)
            series += [(int(row), lap) for row in order]
        first = epoch * (share + 1)
        piece = series[first : first + share + 1]
        pieces.append({(row, lap - piece[0][1]): at for at, (row, lap) in enumerate(piece)})
    return pieces


@pytest.mark.parametrize("epoch", [0, 1, 2, 7])
def test_turns_are_those_of_a_slow_series(epoch: int) -> None:
    pieces = slow_turns(CLASSES, seed=4, epoch=epoch)
    keys = balanced(epoch)
    for label, piece in enumerate(pieces):
        places = sorted(piece[key.row, key.visit] for key in keys if CLASSES[key.row] == label)
        assert places == list(range(len(places)))  # from the start of the piece on, and none left out
        assert len(places) in (20, 21)


def test_no_video_of_a_large_class_is_repeated_before_its_turn() -> None:
    visits = [[key.row for key in balanced(epoch) if key.row < 50] for epoch in range(2)]
    assert len(set(visits[0] + visits[1])) == len(visits[0]) + len(visits[1])  # 50 videos, 42 turns at most


def test_every_round_of_turns_is_shuffled_again() -> None:
    """Epochs that begin at the start of a round take its first six of ten videos: others in each round."""
    classes = np.array([0] * 10 + [1] * 2)  # six places an epoch and class, of which a series moves by seven
    sampler = ResumableBatchSampler(12, batch_size=2, seed=4, classes=classes)
    firsts = [
        frozenset(key.row for batch in epoch_of(sampler, epoch) for key in batch if key.row < 10)
        for epoch in range(0, 60, 10)
    ]
    assert {len(rows) for rows in firsts} == {6}
    assert len(set(firsts)) == 6


def test_one_class_is_every_video_once() -> None:
    sampler = ResumableBatchSampler(8, batch_size=4, seed=0, classes=np.zeros(8, dtype=np.int64))
    for epoch in range(3):
        keys = [key for batch in epoch_of(sampler, epoch) for key in batch]
        assert np.bincount([key.row for key in keys], minlength=8).max() <= 2
        assert len(set(keys)) == 8


# --- shards -----------------------------------------------------------------------------------------------

UNEVEN = np.repeat(np.arange(9), [40, 1, 7, 40, 40, 13, 2, 40, 17])  # 200 videos in 9 shards


def of_shards(
    *, batch_size: int = 8, window: int = 30, lanes: int = 1, **options: int
) -> ResumableBatchSampler:
    shards = ShardOrder(UNEVEN, window=window, lanes=lanes)
    return ResumableBatchSampler(200, seed=4, batch_size=batch_size, shards=shards, **options)


def rows_of(batches: list[list[SampleKey]]) -> list[int]:
    return [key.row for batch in batches for key in batch]


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("batch", [8, 40, 200])
def test_every_video_of_uneven_shards_is_drawn_once_per_epoch(lanes: int, batch: int) -> None:
    sampler = of_shards(lanes=lanes, batch_size=batch)
    orders = [rows_of(epoch_of(sampler, epoch)) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(200))  # all batch sizes here divide 200
    assert {key.visit for batch in sampler for key in batch} == {0}
    assert orders[0] != orders[1] != orders[2]


def test_videos_after_the_last_whole_batch_are_left_out() -> None:
    sampler = of_shards(batch_size=24, lanes=3)
    left_out = set()
    for epoch in range(20):
        order = rows_of(epoch_of(sampler, epoch))
        assert len(set(order)) == len(order) == 192
        left_out |= set(range(200)) - set(order)
    assert len(left_out) > 60  # others in every epoch


@pytest.mark.parametrize("lanes", [1, 4])
def test_few_shards_are_open_at_a_time(lanes: int) -> None:
    """Bound of a window: a shard spans at most its own videos plus two windows."""
    shards = np.repeat(np.arange(50), 20)
    order = ShardOrder(shards, window=40, lanes=lanes)
    sampler = ResumableBatchSampler(1000, batch_size=20, seed=1, shards=order)
    rows = np.array(rows_of(epoch_of(sampler, 3)))
    lane_of_place = np.arange(1000) % 20 // (20 // lanes)
    moved = False
    for lane in range(lanes):
        mine = shards[rows[lane_of_place == lane]]
        for shard in np.unique(mine):
            places = np.flatnonzero(mine == shard)
            assert places.max() - places.min() < 20 + 2 * 40
            moved |= places.max() - places.min() > 20
        # and no shard but those cut at a lane's end is in two lanes
        assert len(np.unique(mine)) <= 50 // lanes + 2
    assert moved


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("window", [5, 30])
def test_a_video_moves_by_fewer_places_than_the_window(window: int, lanes: int) -> None:
    """Within its lane, compared with a window of one place, which moves nothing."""
    lane_of_place = np.arange(200) % 8 // (8 // lanes)
    furthest = 0
    for epoch in range(3):
        still, moved = (
            np.array(rows_of(epoch_of(of_shards(window=size, lanes=lanes), epoch))) for size in (1, window)
        )
        for lane in range(lanes):
            before, after = still[lane_of_place == lane], moved[lane_of_place == lane]
            changes = np.diff(UNEVEN[before]) != 0
            assert changes.sum() + 1 == len(np.unique(UNEVEN[before]))  # shard after shard
            assert sorted(before) == sorted(after)
            places = np.argsort(after)[np.argsort(np.argsort(before))]
            assert (after[places] == before).all()
            displacement = np.abs(places - np.arange(len(before)))
            assert displacement.max() < window
            furthest = max(furthest, displacement.max())
    assert furthest > window / 2


def test_a_lane_is_read_by_the_processes_of_its_part_of_the_batch() -> None:
    shards = np.repeat(np.arange(40), 10)
    parts = [
        np.array(
            rows_of(
                epoch_of(
                    ResumableBatchSampler(
                        400,
                        batch_size=16,
                        seed=2,
                        rank=rank,
                        world_size=8,
                        shards=ShardOrder(shards, window=20, lanes=4),
                    ),
                    0,
                )
            )
        )
        for rank in range(8)
    ]
    met = [set(shards[rows].tolist()) for rows in parts]
    for machine in range(4):  # two processes each: the same lane
        assert len(met[2 * machine] | met[2 * machine + 1]) <= 11
    assert len(set(np.concatenate(parts).tolist())) == 400


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 2), (8, 1)])
def test_shards_give_the_same_batches_to_any_number_of_processes_and_resume(
    world: int, accumulate: int
) -> None:
    whole = epoch_of(of_shards(lanes=2), 1, step=5)
    parts = [
        epoch_of(of_shards(lanes=2, rank=rank, world_size=world, accumulate=accumulate), 1, step=5)
        for rank in range(world)
    ]
    for step, batch in enumerate(whole):
        steps = slice(step * accumulate, (step + 1) * accumulate)
        assert sorted(key for part in parts for keys in part[steps] for key in keys) == sorted(batch)
    assert whole == epoch_of(of_shards(lanes=2), 1)[5:]


def test_upcoming_keys_match_the_keys_that_follow() -> None:
    for rank in range(2):
        sampler = of_shards(rank=rank, world_size=2, accumulate=2, lanes=2)
        sampler.set_state(epoch=2, step=3)
        assert sampler.coming().tolist() == rows_of(list(sampler))
    partly = of_shards(batch_size=24, lanes=3)  # eight videos are left out
    assert partly.coming().tolist() == rows_of(list(partly))


def test_shards_that_cannot_be_read_in_this_way_are_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 cannot be split evenly over them; choose a divisor"):
        of_shards(lanes=3)
    with pytest.raises(ConfigError, match=r"data\.balance samples videos in any order"):
        ResumableBatchSampler(
            200, batch_size=8, seed=0, shards=ShardOrder(UNEVEN), classes=np.zeros(200, dtype=np.int64)
        )
