from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from t3d.data.clips.dataset import Batch
from t3d.errors import VideoError
from t3d.evaluation.clip_stream import read_ahead
from t3d.evaluation.lanes import Independent, computed, division


def batch(numbers: list[int]) -> Batch:
    frames = torch.tensor(numbers).view(-1, 1, 1, 1, 1) if numbers else None
    return Batch(frames, *[torch.tensor(numbers)] * 4, ())


def squares(clips: torch.Tensor) -> torch.Tensor:
    return clips.view(-1, 1) ** 2


def test_batches_are_divided_among_the_cores_and_single_clips_are_not() -> None:
    assert division(8, 2) == (2, 1)
    assert division(5, 2) == (2, 1)
    assert division(3, 2) == (1, 2)
    assert division(8, 8) == (4, 2)
    assert division(1, 64) == (1, 64)
    assert division(100, 3) == (3, 1)


@pytest.mark.parametrize("threads", ["one_thread", "two_threads"])
@pytest.mark.parametrize("independent", [True, False])
def test_results_keep_the_order_of_the_batches(
    request: pytest.FixtureRequest, threads: str, independent: bool
) -> None:
    request.getfixturevalue(threads)
    sizes = [[0, 1, 2, 3, 4], [], [5], [6, 7], [], [8, 9, 10, 11]]
    function = Independent(squares) if independent else squares
    results = list(computed(function, map(batch, sizes)))
    assert [one.videos.tolist() for one, _ in results] == sizes
    for numbers, (_, vectors) in zip(sizes, results, strict=True):
        assert (vectors is None) == (not numbers)
        if vectors is not None:
            assert vectors.flatten().tolist() == [number**2 for number in numbers]


@pytest.mark.usefixtures("two_threads")
def test_parts_of_a_batch_are_computed_at_the_same_time_with_one_thread_each() -> None:
    meeting, threads = threading.Barrier(2, timeout=300), set()

    def meet(clips: torch.Tensor) -> torch.Tensor:
        threads.add(torch.get_num_threads())
        meeting.wait()  # raises an error if nobody comes
        return squares(clips)

    assert len(list(computed(Independent(meet), [batch([1, 2, 3, 4])]))) == 1
    assert threads == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_batch_of_one_clip_gets_all_threads_and_nothing_else_runs() -> None:
    threads, at_once, most = set(), 0, 0
    lock = threading.Lock()

    def count(clips: torch.Tensor) -> torch.Tensor:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threads.add(torch.get_num_threads())
        with lock:
            at_once -= 1
        return squares(clips)

    assert len(list(computed(Independent(count), (batch([n]) for n in range(20))))) == 20
    assert threads == {2}
    assert most == 1


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised_and_all_threads_end() -> None:
    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(computed(Independent(refuse), [batch([1, 2, 3, 4])] * 9))
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


def test_items_are_read_ahead_in_their_order_but_not_all() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert len(read) <= 4  # taken, two that wait, and one in the hand of the thread
    assert list(ahead) == list(range(1, 50))


def test_an_error_of_the_items_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("a.mp4", "broken")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(VideoError, match="broken"):
        next(ahead)


def test_the_thread_ends_when_the_reader_stops_early() -> None:
    before = threading.active_count()
    ahead = read_ahead(iter(range(10**9)))
    assert [next(ahead), next(ahead)] == [0, 1]
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
