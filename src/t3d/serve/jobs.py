"""Videos of visitors: a bounded queue, the state of each, and their end.

All of it runs in the event loop of the server, so nothing needs a lock. Threads only wait for the scoring
processes.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from t3d.serve.child import ScoringProcess, TaskError, TaskStopped
from t3d.serve.config import ServeConfig
from t3d.serve.refusal import Refusal
from t3d.serve.score import Step, Task

State = Literal["uploading", "waiting", "working", "done", "failed"]

_FINISHED = ("done", "failed")
_TICK = 1.0  # seconds between two looks for results that are too old
_MOST_JOBS = 1000  # that are remembered
_GB = 1_000_000_000


@dataclass
class Work:
    """One step of a job.

    Args:
        state: Where it is.
        progress: Share of it that is done, from 0 to 1.
        error: Why it failed.
        file: The file that it wrote.
        facts: What else is known about its result.
    """

    state: State = "waiting"
    progress: float = 0.0
    error: str | None = None
    file: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Job:
    """One video of a visitor.

    Args:
        id: Unguessable name, 128 bits.
        owner: Cookie of the visitor's browser. None for a program, to which the id is enough.
        name: Name of the file, as the visitor sees it.
        folder: Folder for its files.
        video: The file.
        is_example: Whether the file is an example of the server, which stays.
    """

    id: str
    owner: str | None
    name: str
    folder: Path
    video: Path
    is_example: bool = False
    steps: dict[Step, Work] = field(default_factory=lambda: {"predict": Work("uploading")})
    result: dict[str, Any] | None = None
    bytes: int = 0
    finished: float | None = None
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def main(self) -> Work:
        """The classification, which is the first step."""
        return self.steps["predict"]

    @property
    def is_busy(self) -> bool:
        """True if a step is not finished."""
        return any(work.state not in _FINISHED for work in self.steps.values())


class Jobs:
    """All jobs of the server.

    Args:
        config: The options of the server.
        folder: Folder for all files.
        scorers: Scoring processes, which are started.
    """

    def __init__(self, config: ServeConfig, folder: Path, scorers: Sequence[ScoringProcess]) -> None:
        self.config = config
        self._folder = folder
        self._scorers = scorers
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[Job, Step]] = deque()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.is_open = True

    # --- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to work, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work(scorer)) for scorer in self._scorers]
        self._tasks.append(asyncio.create_task(self._expire()))

    async def close(self) -> None:
        """Refuse new jobs, stop the processes and wake everybody who waits."""
        self.is_open = False
        for scorer in self._scorers:
            scorer.stop()
        for job in self._jobs.values():
            job.gone = True
            job.changed.set()
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_ready(self) -> bool:
        """True if a scoring process is ready, or will be restarted for the next video."""
        return self.is_open and not all(scorer.is_broken for scorer in self._scorers)

    # --- jobs ---------------------------------------------------------------------------------------------

    def open(self, *, owner: str | None, example: Path | None = None) -> Job:
        """Reserve a place in the queue, before an upload.

        Args:
            owner: See `Job`.
            example: The example that the visitor chose, instead of an upload.

        Raises:
            Refusal: The queue or the disk is full.
        """
        self.check_room(1)
        if example is None:
            self._make_space()
        name = secrets.token_urlsafe(16)
        folder = self._folder / name
        try:
            folder.mkdir()
        except OSError as error:
            raise _no_space() from error
        job = Job(name, owner, "", folder, example or folder / "video", is_example=example is not None)
        self._jobs[name] = job
        return job

    def check_room(self, more: int) -> None:
        """Refuse more work if the queue is full.

        Raises:
            Refusal: The queue is full, or the server is about to end.
        """
        if not self.is_open:
            raise Refusal(503, "The server is about to end.", {"Retry-After": "60"})
        uploading = sum(job.main.state == "uploading" for job in self._jobs.values())
        if uploading + len(self._waiting) + more > self.config.queue:
            raise Refusal(
                503,
                f"{uploading + len(self._waiting)} videos are waiting, as many as this server allows. Try "
                "again in a minute.",
                {"Retry-After": "30"},
            )

    def submit(self, job: Job, step: Step = "predict") -> None:
        """Put a job into the queue; its upload is complete.

        Args:
            job: The job.
            step: The work.
        """
        job.steps[step] = Work("waiting")
        self._waiting.append((job, step))
        self._arrived.set()
        self._changed(job)

    def find(self, name: str, owner: str | None) -> Job:
        """Return a job of a visitor.

        Args:
            name: Id of the job.
            owner: Cookie of the visitor's browser.

        Raises:
            Refusal: There is no such job, or it is of another visitor. The answer is the same.
        """
        job = self._jobs.get(name)
        same = job is not None and (
            job.owner is None or (owner is not None and secrets.compare_digest(job.owner, owner))
        )
        if job is None or not same:
            raise Refusal(
                404,
                f"There is no such video. Videos and results are kept for {self.config.keep_minutes:g} "
                "minutes, and only the visitor who sent a video can see it.",
            )
        return job

    def remove(self, job: Job) -> None:
        """Delete a job and its files. Work on it is stopped."""
        job.gone = True
        self._jobs.pop(job.id, None)
        self._waiting = deque(each for each in self._waiting if each[0] is not job)
        shutil.rmtree(job.folder, ignore_errors=True)
        self._changed(job)

    def position(self, job: Job, step: Step = "predict") -> int:
        """Return how many pieces of work are done before one: 0 if it is next or at work."""
        for place, (other, kind) in enumerate(self._waiting):
            if other is job and kind == step:
                return place
        return 0

    def counts(self) -> dict[str, int]:
        """Return the number of jobs that wait, and of those at work."""
        working = sum(w.state == "working" for job in self._jobs.values() for w in job.steps.values())
        return {"waiting": len(self._waiting), "working": working}

    async def wait(self, job: Job, step: Step = "predict") -> None:
        """Wait until a step of a job is finished.

        Raises:
            Refusal: The job was deleted, or the server ends.
        """
        while True:
            changed = job.changed
            if job.gone:
                raise Refusal(
                    503 if not self.is_open else 404, "The video was deleted before it was classified."
                )
            if job.steps[step].state in _FINISHED:
                return
            await changed.wait()

    # --- work ---------------------------------------------------------------------------------------------

    async def _work(self, scorer: ScoringProcess) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            job, step = self._waiting.popleft()
            await self._do(scorer, job, step)

    async def _do(self, scorer: ScoringProcess, job: Job, step: Step) -> None:
        work = job.steps[step]
        work.state = "working"
        self._changed(job)
        out = job.folder / f"{step}.mp4"

        def report(share: float) -> None:  # in the thread below
            work.progress = share

        task = Task(step, str(job.video), str(out))
        try:
            answer = await asyncio.to_thread(scorer.run, task, report=report, unwanted=lambda: job.gone)
        except TaskStopped:
            shutil.rmtree(job.folder, ignore_errors=True)  # the process may have written after it was deleted
            return
        except TaskError as error:
            self._finish(job, step, str(error))
            return
        if step == "predict":
            job.result = answer
        else:
            work.file, work.facts = out, answer
        self._finish(job, step)

    def _finish(self, job: Job, step: Step, error: str | None = None) -> None:
        if job.gone:
            shutil.rmtree(job.folder, ignore_errors=True)
            return
        work = job.steps[step]
        work.state, work.error = ("failed", error) if error else ("done", None)
        work.progress = 1.0
        job.finished = time.monotonic()
        if error and step == "predict":
            shutil.rmtree(job.folder, ignore_errors=True)
        job.bytes = _size(job.folder)
        self._changed(job)

    def _changed(self, job: Job) -> None:
        job.changed.set()
        job.changed = asyncio.Event()

    # --- space --------------------------------------------------------------------------------------------

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(_TICK, self.config.keep_minutes * 60 / 4))
            limit = time.monotonic() - self.config.keep_minutes * 60
            finished = self._finished()
            for number, job in enumerate(finished):
                if (job.finished or 0) < limit or len(finished) - number > _MOST_JOBS:
                    self.remove(job)

    def _finished(self) -> list[Job]:
        """Return the jobs without unfinished work, the oldest first."""
        jobs = [job for job in self._jobs.values() if not job.is_busy and job.finished is not None]
        return sorted(jobs, key=lambda job: job.finished or 0)

    def _make_space(self) -> None:
        """Delete the oldest results until one more upload fits.

        Raises:
            Refusal: It does not fit, because other visitors' videos are not finished.
        """
        finished = self._finished()
        while self._used() + self.config.max_bytes > self.config.max_disk_gb * _GB:
            if not finished:
                raise _no_space()
            self.remove(finished.pop(0))

    def _used(self) -> int:
        """Return the bytes of all files, with the largest size for uploads that are not complete."""
        uploading = sum(job.main.state == "uploading" for job in self._jobs.values())
        return uploading * self.config.max_bytes + sum(job.bytes for job in self._jobs.values())


def _no_space() -> Refusal:
    message = "The server has no space for another video at the moment. Try again in a few minutes."
    return Refusal(503, message, {"Retry-After": "120"})


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total
