"""A queue in which visitors take turns: who sends ten videos does not delay those of all others."""

from __future__ import annotations

from collections import deque

from t3d.serve.job import Job
from t3d.serve.score import Step

Item = tuple[Job, Step]
"""A job and the step that waits."""


class Turns:
    """Waiting work, in the order in which it is done: one piece of each visitor, then the next of each.

    Example:
        >>> from pathlib import Path
        >>> a, b, c = (Job(name, None, key, "", Path(), Path()) for name, key in ("ax", "bx", "cy"))
        >>> turns = Turns()
        >>> for job in (a, b, c):
        ...     turns.add(job, "predict")
        >>> [job.id for job, _ in turns.in_order()]
        ['a', 'c', 'b']
    """

    def __init__(self) -> None:
        self._by_visitor: dict[str, deque[Item]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self._by_visitor.values()))

    def add(self, job: Job, step: Step) -> None:
        """Add work at the end of that of its visitor."""
        self._by_visitor.setdefault(job.key, deque()).append((job, step))

    def take(self) -> Item:
        """Return the next work. There must be some."""
        key = next(iter(self._by_visitor))
        items = self._by_visitor.pop(key)
        item = items.popleft()
        if items:
            self._by_visitor[key] = items  # at the end
        return item

    def remove(self, job: Job) -> None:
        """Remove the work of a job."""
        items = deque(each for each in self._by_visitor.get(job.key, ()) if each[0] is not job)
        if items:
            self._by_visitor[job.key] = items
        else:
            self._by_visitor.pop(job.key, None)

    def clear(self) -> list[Item]:
        """Remove everything, and return it."""
        items = self.in_order()
        self._by_visitor = {}
        return items

    def in_order(self) -> list[Item]:
        """Return all work in the order in which it will be done."""
        rounds = [list(items) for items in self._by_visitor.values()]
        longest = max(map(len, rounds), default=0)
        return [items[turn] for turn in range(longest) for items in rounds if turn < len(items)]
