"""Videos of visitors: a bounded queue, the state of each, and their end.

All of it runs in the event loop of the server, so nothing needs a lock. Threads wait for the scoring
processes and the disk; the only value that they change is the progress of the work.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from t3d.errors import T3DError, printable_lines
from t3d.io.files import sweep
from t3d.serve.child import ScoringProcess, TaskError, TaskStopped
from t3d.serve.config import ServeConfig
from t3d.serve.folder import delete_tree
from t3d.serve.job import FINISHED, Job, Work
from t3d.serve.refusal import Refusal, no_space
from t3d.serve.score import Step, Task
from t3d.serve.turns import Turns

_TICK = 1.0  # seconds between two looks for results that are too old
_MOST_JOBS = 1000  # that are remembered
_MOST_UPLOADS = 2  # of one visitor at the same time
_MOST_TRIES = 2  # of one step
_YOUNG = 60.0  # seconds for which other visitors' results are not deleted for space
_PAUSES = (5.0, 10.0, 20.0, 40.0)  # seconds before a process that cannot load the model is started again
_PATIENCE = 3  # failed starts after which videos that wait fail
_BROKEN = "The server cannot load its model at the moment. Try again later."
_ERROR = "The server has an error. Its operator can see the details."


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
        self._waiting = Turns()
        self._arrived = asyncio.Event()
        self._broken: set[ScoringProcess] = set()
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
    def status(self) -> Literal["ok", "broken", "ending"]:
        """State of the server: `broken` if no process can load the model, or no work is done."""
        if not self.is_open:
            return "ending"
        stuck = bool(self._tasks) and all(task.done() for task in self._tasks[:-1])
        return "broken" if stuck or len(self._broken) == len(self._scorers) else "ok"

    # --- jobs ---------------------------------------------------------------------------------------------

    async def open(self, *, owner: str | None, key: str, size: int = 0, example: Path | None = None) -> Job:
        """Reserve a place in the queue and on the disk, before an upload.

        Args:
            owner: See `Job`.
            key: See `Job`.
            size: Largest size of the upload in bytes.
            example: The example that the visitor chose, instead of an upload.

        Raises:
            Refusal: The queue or the disk is full, or the visitor has too many videos.
        """
        self.check_room(key)
        mine = [job for job in self._jobs.values() if job.key == key]
        if example is None and sum(job.main.state == "uploading" for job in mine) >= _MOST_UPLOADS:
            raise _too_many(f"You are sending {_MOST_UPLOADS} videos; wait until one of them is complete.")
        self._check_space(key, size)
        name = secrets.token_urlsafe(16)
        folder = self._folder / name
        try:
            folder.mkdir()
        except OSError as error:
            raise no_space() from error
        video = example or folder / "video"
        job = Job(name, owner, key, "", folder, video, is_example=example is not None, reserved=size)
        self._jobs[name] = job
        return job

    def check_open(self) -> None:
        """Refuse work if the server is about to end.

        Raises:
            Refusal: It is.
        """
        if not self.is_open:
            raise Refusal(503, "The server is about to end.", {"Retry-After": "60"})

    def check_room(self, key: str) -> None:
        """Refuse more work if the queue is full, or one visitor has too much of it.

        Args:
            key: See `Job`.

        Raises:
            Refusal: The queue is full, the server is about to end, or it has no model.
        """
        self.check_open()
        if self.status == "broken":
            raise Refusal(503, _BROKEN, {"Retry-After": "60"})
        waiting = len(self._waiting) + sum(job.main.state == "uploading" for job in self._jobs.values())
        if waiting >= self.config.queue:
            raise Refusal(
                503,
                f"{waiting} videos are waiting, as many as this server allows. Try again in a minute.",
                {"Retry-After": "30"},
            )
        most = max(2, self.config.queue // 4)
        if sum(job.unfinished for job in self._jobs.values() if job.key == key) >= most:
            raise _too_many(f"{most} of your videos are not finished, as many as one visitor may have.")

    def submit(self, job: Job, step: Step = "predict") -> None:
        """Put a job into the queue; its upload is complete.

        Args:
            job: The job.
            step: The work.

        Raises:
            Refusal: The server is about to end, the step failed too often, or the disk is full.
        """
        self.check_open()
        tries = 1
        if step != "predict":
            if step in job.steps:
                tries = job.steps[step].tries + 1
            if tries > _MOST_TRIES:
                raise Refusal(409, f"This failed {_MOST_TRIES} times: {job.steps[step].error}")
            self._check_space(job.key, self.config.max_output)
        job.reserved = job.bytes + (0 if step == "predict" else self.config.max_output)
        job.steps[step] = Work("waiting", tries=tries)
        self._waiting.add(job, step)
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
            job.owner is None
            or (owner is not None and secrets.compare_digest(job.owner.encode(), owner.encode()))
        )
        if job is None or not same:
            raise Refusal(
                404,
                f"There is no such video. Videos and results are kept for {self.config.keep_minutes:g} "
                "minutes, and only the visitor who sent a video can see it.",
            )
        return job

    async def remove(self, job: Job) -> None:
        """Delete a job and its files. Work on it is stopped."""
        job.gone = True
        self._jobs.pop(job.id, None)
        self._waiting.remove(job)
        self._changed(job)
        await asyncio.to_thread(delete_tree, job.folder)

    def position(self, job: Job, step: Step = "predict") -> int:
        """Return how many waiting pieces of work come before one: 0 if it is next or at work."""
        for place, (other, kind) in enumerate(self._waiting.in_order()):
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
            Refusal: The job was deleted before, or the server ends.
        """
        while True:
            changed = job.changed
            if job.steps[step].state in FINISHED:
                return
            if job.gone:
                raise Refusal(
                    503 if not self.is_open else 404, "The video was deleted before the work on it was done."
                )
            await changed.wait()

    # --- work ---------------------------------------------------------------------------------------------

    async def _work(self, scorer: ScoringProcess) -> None:
        while True:
            try:
                await self._restart(scorer)
                while not len(self._waiting):
                    self._arrived.clear()
                    await self._arrived.wait()
                if scorer.is_ready:
                    await self._do(scorer, *self._waiting.take())
                    await asyncio.to_thread(scorer.renew_if_grown)
            except Exception:  # the queue must not stand still
                print(traceback.format_exc(), file=sys.stderr, flush=True)
                await asyncio.sleep(_TICK)

    async def _restart(self, scorer: ScoringProcess) -> None:
        """Start a process that was killed or died, if needed again and again. Videos wait meanwhile."""
        failed = 0
        while not scorer.is_ready:
            try:
                await asyncio.to_thread(scorer.start)
            except TaskStopped:
                await asyncio.sleep(_TICK)  # the server ends
                continue
            except Exception as error:
                text = str(error) if isinstance(error, T3DError) else traceback.format_exc()
                print(f"t3d: {printable_lines(text)}", file=sys.stderr, flush=True)
                self._broken.add(scorer)
                failed += 1
                if failed >= _PATIENCE and self.status == "broken":
                    for job, step in self._waiting.clear():
                        await self._finish(job, step, _BROKEN)
                await asyncio.sleep(_PAUSES[min(failed, len(_PAUSES)) - 1])
        self._broken.discard(scorer)

    async def _do(self, scorer: ScoringProcess, job: Job, step: Step) -> None:
        work = job.steps[step]
        work.state = "working"
        self._changed(job)
        out = job.folder / f"{step}.mp4"

        def report(share: float) -> None:  # in the thread below
            work.progress = share

        try:
            if step != "predict":
                await self.claim(job, self.config.max_output)
            task = Task(step, str(job.video), str(out))
            answer = await asyncio.to_thread(scorer.run, task, report=report, unwanted=lambda: job.gone)
            if step == "predict":
                job.result = answer
            else:
                work.file, work.facts = out, answer
        except TaskStopped:
            await asyncio.to_thread(delete_tree, job.folder)  # the process may have written meanwhile
        except TaskError as error:
            await self._finish(job, step, str(error))
        except Refusal as refusal:  # no space
            await self._finish(job, step, refusal.message)
        except Exception:  # whatever it is, the next video is not to blame
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            await self._finish(job, step, _ERROR)
        else:
            await self._finish(job, step)

    async def _finish(self, job: Job, step: Step, error: str | None = None) -> None:
        alone = not any(work.state == "working" for kind, work in job.steps.items() if kind != step)
        left = await asyncio.to_thread(
            _tidied,
            job.folder,
            delete=job.gone or (error is not None and step == "predict"),
            swept=error is not None and alone,
        )
        if job.gone:
            return
        work = job.steps[step]
        work.state, work.error = ("failed", error) if error else ("done", None)
        work.progress = 1.0
        if error is None or job.finished is None:  # failures do not make it stay longer
            job.finished = time.monotonic()
        job.bytes = left
        self._changed(job)

    def _changed(self, job: Job) -> None:
        job.changed.set()
        job.changed = asyncio.Event()

    # --- space --------------------------------------------------------------------------------------------

    async def claim(self, job: Job, more: int) -> None:
        """Make space for bytes that are about to be written.

        Raises:
            Refusal: There is no space.
        """
        await self._make_space(job, more)
        job.bytes += more

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(_TICK, self.config.keep_minutes * 60 / 4))
            limit = time.monotonic() - self.config.keep_minutes * 60
            finished = self._finished()
            for number, job in enumerate(finished):
                if (job.finished or 0) < limit or len(finished) - number > _MOST_JOBS:
                    await self.remove(job)

    def _finished(self) -> list[Job]:
        """Return the jobs without unfinished work, the oldest first."""
        jobs = [job for job in self._jobs.values() if not job.is_busy and job.finished is not None]
        return sorted(jobs, key=lambda job: job.finished or 0)

    def _removable(self, key: str) -> list[Job]:
        """Return the results that a visitor's video may replace: their own first, then old ones of others."""
        limit = time.monotonic() - _YOUNG
        own = [job for job in self._finished() if job.key == key]
        return own + [job for job in self._finished() if job.key != key and (job.finished or 0) < limit]

    def _check_space(self, key: str, more: int) -> None:
        """Refuse a video that may need more space than there is. Nothing is deleted until it needs it.

        Raises:
            Refusal: Work that is not finished needs the space, or results that are too young to be deleted.
        """
        removable = sum(job.bytes for job in self._removable(key))
        if sum(job.claim for job in self._jobs.values()) - removable + more > self.config.max_disk:
            raise no_space()

    async def _make_space(self, job: Job, more: int) -> None:
        """Delete results until more bytes for a job fit.

        Raises:
            Refusal: They do not fit.
        """
        while sum(each.bytes for each in self._jobs.values()) + more > self.config.max_disk:
            removable = [each for each in self._removable(job.key) if each is not job]
            if not removable:
                raise no_space()
            await self.remove(removable[0])


def _too_many(message: str) -> Refusal:
    return Refusal(429, message, {"Retry-After": "10"})


def _tidied(folder: Path, *, delete: bool, swept: bool) -> int:
    """Delete the files of a job that nobody will read, and return the bytes of the others.

    Args:
        folder: Folder of the job.
        delete: Delete everything.
        swept: Delete what killed work left.
    """
    if delete:
        delete_tree(folder)
    elif swept:
        with suppress(OSError):
            sweep(folder)
    return _size(folder)


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total
