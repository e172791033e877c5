"""One video of a visitor, and the work on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from t3d.serve.score import Step

State = Literal["uploading", "waiting", "working", "done", "failed"]
FINISHED = ("done", "failed")
"""States in which nothing more happens."""


@dataclass
class Work:
    """One step of a job.

    Args:
        state: Where it is.
        progress: Share of it that is done, from 0 to 1.
        error: Why it failed.
        file: The file that it wrote.
        facts: What else is known about its result.
        tries: How often it was asked for.
    """

    state: State = "waiting"
    progress: float = 0.0
    error: str | None = None
    file: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    tries: int = 1


@dataclass(eq=False)
class Job:
    """One video of a visitor.

    Args:
        id: Unguessable name, 128 bits.
        owner: Cookie of the visitor's browser. None for a program, to which the id is enough.
        key: What bounds per visitor count: the cookie, or the address of the network.
        name: Name of the file, as the visitor sees it.
        folder: Folder for its files.
        video: The file.
        is_example: Whether the file is an example of the server, which stays.
        reserved: Bytes that its files may need while it is not finished.
        bytes: Bytes that its files have.
        finished: When its last result came, by the monotonic clock. None before.
        gone: Whether it was deleted.
    """

    id: str
    owner: str | None
    key: str
    name: str
    folder: Path
    video: Path
    is_example: bool = False
    steps: dict[Step, Work] = field(default_factory=lambda: {"predict": Work("uploading")})
    result: dict[str, Any] | None = None
    reserved: int = 0
    bytes: int = 0
    finished: float | None = None
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def main(self) -> Work:
        """The classification, which is the first step."""
        return self.steps["predict"]

    @property
    def unfinished(self) -> int:
        """Number of steps that are not finished."""
        return sum(work.state not in FINISHED for work in self.steps.values())

    @property
    def is_busy(self) -> bool:
        """True if a step is not finished."""
        return self.unfinished > 0

    @property
    def claim(self) -> int:
        """Bytes on the disk that this job has or may need."""
        return max(self.reserved, self.bytes) if self.is_busy else self.bytes
