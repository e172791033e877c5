"""Answers of the API, as types that describe themselves in /docs and /openapi.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from t3d.serve.job import Job, State
from t3d.serve.jobs import Jobs
from t3d.serve.score import MoreStep


class Segment(BaseModel):
    """Part of a video in which a class happens."""

    label: str
    start: float = Field(description="Seconds from the first frame.")
    end: float
    score: float = Field(description="Mean probability of the class.")


class Clip(BaseModel):
    """Classes of one clip."""

    start: float = Field(description="Seconds from the first frame.")
    end: float
    classes: dict[str, float] = Field(description="The five most probable classes.")


class Result(BaseModel):
    """Classes of a video, as `t3d predict` prints them as JSON, and its segments."""

    clips: int = Field(description="Clips that the video was cut into.")
    classes: dict[str, float] = Field(description="Probability per class, most probable first.")
    targets: Literal["single", "multi"] = Field(
        "single", description="`multi`: each probability is of that class alone."
    )
    per_clip: list[Clip]
    segments: list[Segment] = Field(description="When classes happen, as `t3d timeline` finds them.")


class VideoFacts(BaseModel):
    """Facts about a video."""

    seconds: float
    width: int
    height: int
    codec: str
    media_type: str


class StepAnswer(BaseModel):
    """State of one step of the work on a video."""

    state: State
    position: int = Field(description="Waiting pieces of work before this one.")
    progress: float = Field(description="Share that is done, from 0 to 1.")
    error: str | None = Field(description="Why it failed, and what to do.")
    file: str | None = Field(description="Address of the file that it wrote, relative to the server.")
    facts: dict[str, Any] = Field(description="What else is known about its result.")


class JobAnswer(BaseModel):
    """A video and the work on it."""

    id: str = Field(description="Name of the job. Whoever knows it can read the result of a program's job.")
    name: str = Field(description="Name of the file, for display.")
    state: State
    position: int = Field(description="Waiting pieces of work before this one.")
    progress: float = Field(description="Share of the classification that is done, from 0 to 1.")
    error: str | None = Field(description="Why it failed, and what to do.")
    file: str | None = Field(description="Address of the video, relative to the server.")
    video: VideoFacts | None = None
    result: Result | None = None
    steps: dict[str, StepAnswer] = Field(description="Further work that was asked for, by its name.")


class Limits(BaseModel):
    """Bounds of the server."""

    max_mb: float
    max_seconds: float
    max_megapixels: float
    timeout: float
    queue: int
    keep_minutes: float


class ClipSettings(BaseModel):
    """Clips that the model sees."""

    num_frames: int
    stride: int | None
    fps: float | None
    size: int
    modality: str


class ModelAnswer(BaseModel):
    """The model, the bounds of the server, and its example videos."""

    architecture: str
    classes: list[str]
    targets: Literal["single", "multi"]
    clip: ClipSettings
    steps: list[MoreStep] = Field(description="Further work that can be asked for.")
    limits: Limits
    examples: list[str] = Field(description="Names of example videos.")


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok", "broken", "ending"] = Field(
        description="`broken`: no process can load the model, or none works."
    )
    waiting: int
    working: int


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str


def answer_of(job: Job, jobs: Jobs, *, brief: bool = False) -> JobAnswer:
    """Return the state of a job for its visitor: no path of this machine.

    Args:
        job: The job.
        jobs: All jobs, for its position.
        brief: Leave the result out.
    """
    main, address = job.main, f"api/jobs/{job.id}"
    result = {} if brief or job.result is None else job.result
    return JobAnswer(
        id=job.id,
        name=job.name,
        state=main.state,
        position=jobs.position(job),
        progress=round(main.progress, 3),
        error=main.error,
        file=f"{address}/video" if main.state == "done" else None,
        video=result.get("video"),
        result=result.get("result"),
        steps={
            step: StepAnswer(
                state=work.state,
                position=jobs.position(job, step),
                progress=round(work.progress, 3),
                error=work.error,
                file=f"{address}/{step}" if work.state == "done" else None,
                facts=work.facts,
            )
            for step, work in job.steps.items()
            if step != "predict"
        },
    )
