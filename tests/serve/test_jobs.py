"""The queue, the space and the end of jobs, with processes that are not real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from t3d.io.files import temporary_name
from t3d.serve import jobs as module
from t3d.serve.child import TaskError, TaskStopped
from t3d.serve.config import ServeConfig
from t3d.serve.job import Job
from t3d.serve.jobs import Jobs
from t3d.serve.refusal import Refusal
from t3d.serve.score import Task
from t3d.serve.turns import Turns

MB = 1_000_000


class Scorer:
    """A scoring process that runs the function of a test."""

    def __init__(self, work: Callable[[Task], dict[str, Any]] = lambda _: {}) -> None:
        self.work = work
        self.is_ready = True
        self.starts = 0
        self.fails = 0
        self.done: list[str] = []

    def run(self, task: Task, *, report: Any, unwanted: Callable[[], bool]) -> dict[str, Any]:
        report(0.5)
        answer = self.work(task)
        self.done.append(Path(task.video).parent.name)
        if unwanted():
            raise TaskStopped
        return answer

    def start(self) -> None:
        self.starts += 1
        if self.starts <= self.fails:
            raise BlockingIOError("no process")
        self.is_ready = True

    def renew_if_grown(self) -> None: ...

    def stop(self) -> None: ...


def play(
    folder: Path, script: Callable[[Jobs], Coroutine[Any, Any, None]], scorer: Scorer | None, **options: Any
) -> None:
    """Run a script with jobs at work; without a scorer, all of them wait."""

    async def main() -> None:
        config = ServeConfig("model", **{"max_mb": 10, "max_disk_gb": 0.1, **options})
        jobs = Jobs(config, folder, [scorer or Scorer()])  # type: ignore[list-item]
        if scorer is not None:
            jobs.start()
        try:
            async with asyncio.timeout(60):
                await script(jobs)
        finally:
            await jobs.close()

    asyncio.run(main())


async def uploaded(jobs: Jobs, key: str = "me", size: int = 1000) -> Job:
    job = await jobs.open(owner=None, key=key, size=size)
    await jobs.claim(job, size)
    job.video.write_bytes(bytes(size))
    jobs.submit(job)
    return job


async def classified(jobs: Jobs, key: str = "me", size: int = 1000) -> Job:
    job = await uploaded(jobs, key, size)
    await jobs.wait(job)
    return job


@pytest.mark.parametrize("error", [BlockingIOError("no process"), ValueError("bug"), AssertionError()])
def test_an_error_of_the_server_stops_no_other_video(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Task) -> dict[str, Any]:
        if not scorer.done:
            scorer.done.append("")
            raise error
        return {}

    scorer = Scorer(work)

    async def script(jobs: Jobs) -> None:
        first, second = await uploaded(jobs), await uploaded(jobs)
        await jobs.wait(first)
        await jobs.wait(second)
        assert (first.main.state, "operator" in str(first.main.error)) == ("failed", True)
        assert second.main.state == "done"
        assert type(error).__name__ in capsys.readouterr().err

    play(tmp_path, script, scorer)


def test_videos_wait_while_the_model_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.01,))
    monkeypatch.setattr(module, "_PATIENCE", 1000)
    scorer = Scorer()
    scorer.is_ready, scorer.fails = False, 10**6

    async def script(jobs: Jobs) -> None:
        assert jobs.status == "ok"  # it was not tried
        job = await uploaded(jobs)
        while jobs.status != "broken":
            await asyncio.sleep(0.01)
        with pytest.raises(Refusal, match="cannot load its model") as refused:
            await jobs.open(owner=None, key="other", size=1)
        assert refused.value.status == 503
        assert job.main.state == "waiting"
        scorer.fails = 0
        await jobs.wait(job)
        assert (job.main.state, jobs.status) == ("done", "ok")
        scorer.is_ready, scorer.fails = False, 10**6
        monkeypatch.setattr(module, "_PATIENCE", 1)
        lost = await uploaded(jobs)
        await jobs.wait(lost)
        assert lost.main.state == "failed"

    play(tmp_path, script, scorer)


def test_visitors_take_turns_and_have_a_bound(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        mine = [await uploaded(jobs, "me") for _ in range(3)]
        with pytest.raises(Refusal, match="3 of your videos are not finished") as refused:
            await uploaded(jobs, "me")
        assert (refused.value.status, "Retry-After" in refused.value.headers) == (429, True)
        other = await uploaded(jobs, "other")
        assert [jobs.position(job) for job in (*mine, other)] == [0, 2, 3, 1]
        await jobs.remove(mine[0])
        assert [jobs.position(job) for job in (*mine[1:], other)] == [0, 2, 1]
        await jobs.open(owner=None, key="third", size=1)
        await jobs.open(owner=None, key="third", size=1)
        with pytest.raises(Refusal, match="sending 2 videos"):
            await jobs.open(owner=None, key="third", size=1)

    play(tmp_path, script, None, queue=12)


def test_work_is_taken_in_turns() -> None:
    turns = Turns()
    names = ("ax", "bx", "cx", "dy", "ey", "fz")
    for name, key in names:
        turns.add(Job(name, None, key, "", Path(), Path()), "predict")
    expected = [job.id for job, _ in turns.in_order()]
    assert expected == ["a", "d", "f", "b", "e", "c"]
    assert [turns.take()[0].id for _ in names] == expected
    assert len(turns) == 0


def test_what_sends_nothing_deletes_nothing(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        others = [await classified(jobs, f"{number}", 9 * MB) for number in range(8)]
        for job in others:
            job.finished = time.monotonic() - 120
        own = await classified(jobs, "me", 9 * MB)
        idle = [await jobs.open(owner=None, key=f"idle{number}", size=10 * MB) for number in range(9)]
        assert not any(job.gone for job in others)
        with pytest.raises(Refusal, match="no space"):
            await jobs.open(owner=None, key="more", size=10 * MB)
        for job in idle[1:]:
            await jobs.remove(job)
        mine = await jobs.open(owner=None, key="me", size=10 * MB)
        await jobs.claim(mine, 20 * MB)
        assert own.gone  # the visitor's own result first
        assert [job.gone for job in others] == [False] * 8
        await jobs.claim(mine, 20 * MB)
        assert [job.gone for job in others] == [True] * 2 + [False] * 6  # then the oldest
        assert not others[0].folder.exists()

    play(tmp_path, script, Scorer())


def test_young_results_of_others_are_not_deleted(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        young = [await classified(jobs, f"{number}", 10 * MB) for number in range(9)]
        with pytest.raises(Refusal, match="no space"):
            await jobs.open(owner=None, key="me", size=11 * MB)
        await jobs.open(owner=None, key="3", size=11 * MB)  # their own result may go
        assert not any(job.gone for job in young)

    play(tmp_path, script, Scorer())


def test_failed_work_leaves_no_file_and_is_tried_twice(tmp_path: Path) -> None:
    def work(task: Task) -> dict[str, Any]:
        if task.step == "predict":
            return {}
        temporary_name(Path(task.out)).write_bytes(bytes(1000))  # as a killed process leaves it
        raise TaskError("It was killed.")

    async def script(jobs: Jobs) -> None:
        job = await classified(jobs)
        finished = job.finished
        for _ in range(2):
            jobs.submit(job, "annotated")
            assert job.claim > 1000  # what the work may write
            await jobs.wait(job, "annotated")
            assert [path.name for path in job.folder.iterdir()] == ["video"]
            assert (job.bytes, job.claim, job.finished) == (1000, 1000, finished)
        with pytest.raises(Refusal, match="failed 2 times: It was killed"):
            jobs.submit(job, "annotated")

    play(tmp_path, script, Scorer(work))


def test_work_that_is_stopped_leaves_no_folder(tmp_path: Path) -> None:
    loop: list[Any] = []

    def work(task: Task) -> dict[str, Any]:
        job = loop[1]._jobs[Path(task.video).parent.name]
        asyncio.run_coroutine_threadsafe(loop[1].remove(job), loop[0]).result()
        Path(task.video).parent.mkdir()  # a last file that comes after the deletion
        Path(task.video).write_text("x")
        return {}

    async def script(jobs: Jobs) -> None:
        loop.extend((asyncio.get_running_loop(), jobs))
        job = await uploaded(jobs)
        with pytest.raises(Refusal, match="was deleted"):
            await jobs.wait(job)
        other = await uploaded(jobs, "other")
        while other.main.state != "working":
            await asyncio.sleep(0.01)
        assert not job.folder.exists()

    play(tmp_path, script, Scorer(work))


def test_a_result_that_was_deleted_immediately_is_still_an_answer(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        job = await classified(jobs)
        await jobs.remove(job)
        await jobs.wait(job)
        assert job.result == {}

    play(tmp_path, script, Scorer())


def test_no_work_is_taken_after_the_end(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        job = await jobs.open(owner=None, key="me", size=1)
        await jobs.close()
        assert jobs.status == "ending"
        with pytest.raises(Refusal, match="about to end"):
            jobs.submit(job)

    play(tmp_path, script, Scorer())


def test_a_foreign_or_odd_cookie_finds_nothing(tmp_path: Path) -> None:
    async def script(jobs: Jobs) -> None:
        job = await jobs.open(owner="right", key="right", size=1)
        assert jobs.find(job.id, "right") is job
        for wrong in (None, "", "é", "wrong"):
            with pytest.raises(Refusal, match="no such video"):
                jobs.find(job.id, wrong)

    play(tmp_path, script, Scorer())
