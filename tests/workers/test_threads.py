from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from t3d.workers.threads import in_order


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("most", [1, 4])
def test_values_come_in_order(threads: int, most: int) -> None:
    def read(item: int) -> Iterator[tuple[int, int]]:
        return ((item, number) for number in range(item * 7 % 5))

    wanted = [(item, number) for item in range(20) for number in range(item * 7 % 5)]
    assert list(in_order(read, range(20), threads=threads, most=most)) == wanted
    assert list(in_order(read, [], threads=threads, most=most)) == []


def test_threads_read_later_items_but_only_a_few_values() -> None:
    lock = threading.Lock()
    read_values: list[tuple[int, int]] = []
    full = threading.Event()

    def read(item: int) -> Iterator[int]:
        for number in range(10):
            with lock:
                read_values.append((item, number))
                # 4 values wait in all, and each of the 2 threads holds one.
                if len(read_values) == 6:
                    full.set()
            yield number

    with closing(in_order(read, range(50), threads=2, most=4)) as values:
        next(values)
        assert full.wait(60)
        assert len({item for item, _ in read_values}) == 2
    # Of the first item 4 more may wait, which were taken together.
    assert len(read_values) <= 2 * 4 + 2 + 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("t3d reader")]


def test_an_error_comes_after_the_values_before_it() -> None:
    def read(item: int) -> Iterator[int]:
        yield item
        if item == 2:
            raise ValueError("item 2")

    got = []
    with pytest.raises(ValueError, match="item 2"):  # noqa: PT012 (the values before the error count)
        for value in in_order(read, range(9), threads=3, most=8):
            got.append(value)
    assert got == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("t3d reader")]
