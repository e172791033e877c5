"""Routes of the server: the page, the API, and its description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from t3d.progress import in_words
from t3d.report.pages import render
from t3d.serve.allowed import CONTAINERS
from t3d.serve.answers import ErrorAnswer, Health, JobAnswer, Limits, ModelAnswer, answer_of
from t3d.serve.config import ServeConfig
from t3d.serve.job import Job
from t3d.serve.jobs import Jobs
from t3d.serve.refusal import Refusal
from t3d.serve.score import MoreStep, more_steps
from t3d.serve.security import Guard, Rules, Visitors, is_browser, network_of
from t3d.serve.upload import FIELD, display_name, largest, receive

_MOST_LOGIN = 4096  # bytes of the form with the token
_LOGIN_TIME = 10.0  # seconds for it
_STATIC = {"serve.js": "text/javascript", "serve.css": "text/css"}
_CONTAINER_OF = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".webm": "webm",
    ".mkv": "matroska",
    ".avi": "avi",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "Refused; `error` says why and what to do."},
    "503": {"model": ErrorAnswer, "description": "Too many videos are waiting, or no model; try later."},
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"video/*": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A file.",
    }
}
_FORM = {
    "requestBody": {
        "required": False,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        FIELD: {"type": "string", "format": "binary", "description": "The video."}
                    },
                }
            }
        },
    }
}


class Site:
    """Everything that the routes use.

    Args:
        config: The options of the server.
        jobs: The videos of visitors.
        rules: Who may send requests.
        model: Facts about the model, see `t3d.serve.score.described`.
        examples: Example videos by name.
    """

    def __init__(
        self, config: ServeConfig, jobs: Jobs, rules: Rules, model: dict[str, Any], examples: dict[str, Path]
    ) -> None:
        self.config = config
        self.jobs = jobs
        self.rules = rules
        self.model = model
        self.examples = examples
        self.steps = more_steps(config.model)
        self.visitors = Visitors()

    def job(self, request: Request, name: str) -> Job:
        """Return a job of the visitor who sends a request.

        Raises:
            Refusal: Nothing has this name.
        """
        return self.jobs.find(name, self.visitors.of(request))

    def example(self, name: str) -> Path:
        """Return the file of an example.

        Raises:
            Refusal: Nothing has this name.
        """
        if name not in self.examples:
            raise Refusal(404, "There is no such example. /api/model lists the names.")
        return self.examples[name]

    def facts(self) -> ModelAnswer:
        """Return the model, the bounds and the examples."""
        names = Limits.model_fields
        return ModelAnswer(
            **self.model,
            steps=list(self.steps),
            limits=Limits(**{name: getattr(self.config, name) for name in names}),
            examples=list(self.examples),
        )

    async def predict(self, request: Request, example: str | None) -> Job:
        """Take a video, from the request or from the examples, and put it into the queue.

        Raises:
            Refusal: The video is refused.
        """
        visitor = self.visitors.of(request)
        key = visitor or network_of(request)
        owner = self.visitors.new() if visitor is None and is_browser(request) else visitor
        if example is not None:
            job = await self.jobs.open(owner=owner, key=key, example=self.example(example))
            job.name = display_name(example)
        else:
            job = await self._receive(request, owner, key)
        self.jobs.submit(job)
        return job

    async def _receive(self, request: Request, owner: str | None, key: str) -> Job:
        size = largest(request.headers.get("content-length"), self.config)
        job = await self.jobs.open(owner=owner, key=key, size=size)
        try:
            job.name = await receive(
                request.stream(),
                job.video,
                content_type=request.headers.get("content-type", ""),
                config=self.config,
                claim=lambda more: self.jobs.claim(job, more),
            )
            self.jobs.check_open()
        except BaseException:
            await self.jobs.remove(job)
            raise
        return job


def make_app(site: Site) -> ASGIApp:
    """Return the application.

    Args:
        site: Everything that the routes use.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        site.jobs.start()
        yield
        await site.jobs.close()

    app = FastAPI(
        title="t3d serve",
        version=metadata.version("t3d"),
        description="Classify videos. The page at / uses this API.",
        docs_url=None,  # the usual page loads scripts from another site
        redoc_url=None,
        lifespan=lifespan,
        responses=_REFUSALS,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    _add_api(app, site)
    _add_files(app, site)
    _add_pages(app, site)
    return Guard(app, site.rules, partial(render, "login.html"))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{error.detail}. /docs lists the addresses."}, error.status_code)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    names = ", ".join(f"`{each['loc'][-1]}`" for each in error.errors())
    return JSONResponse({"error": f"The value of {names} is not allowed. /docs lists what is."}, 422)


async def _broken(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "The server has an error. Its operator can see the details."}, 500)


def _add_api(app: FastAPI, site: Site) -> None:
    @app.post("/api/predict", status_code=202, response_model=JobAnswer, openapi_extra=_FORM)
    async def predict(
        request: Request, response: Response, example: str | None = None, wait: bool = False
    ) -> JobAnswer:
        """Classify a video.

        Send the file as the form field `video`, or choose an example by its name. With `wait`, the answer
        comes when the work is finished.
        """
        job = await site.predict(request, example)
        if job.owner is not None:
            site.visitors.remember(request, response, job.owner)
        if wait:
            await site.jobs.wait(job)
            response.status_code = 200 if job.main.state == "done" else 422
        return answer_of(job, site.jobs)

    @app.get("/api/jobs/{job_id}", response_model=JobAnswer)
    async def job(request: Request, job_id: str, brief: bool = False) -> JobAnswer:
        """Return the state of a video, and its result when it is classified, unless `brief` is set."""
        return answer_of(site.job(request, job_id), site.jobs, brief=brief)

    @app.delete("/api/jobs/{job_id}", status_code=204)
    async def delete(request: Request, job_id: str) -> None:
        """Delete a video and its result. Work on it is stopped."""
        await site.jobs.remove(site.job(request, job_id))

    @app.post("/api/jobs/{job_id}/{step}", status_code=202, response_model=JobAnswer)
    async def more(
        request: Request, response: Response, job_id: str, step: MoreStep, wait: bool = False
    ) -> JobAnswer:
        """Ask for further work on a classified video.

        `annotated` draws the classes of each moment into the video, as H.264, which every browser plays.
        `explained` draws where the evidence for the class is, and computes the shares of the temporal depths.
        """
        kept = site.job(request, job_id)
        if step not in site.steps:
            message = "An exported model cannot explain. Start the server with the run folder or the weights."
            raise Refusal(409, message)
        if kept.main.state != "done":
            raise Refusal(409, "This video is not classified. Wait until its state is `done`.")
        if step not in kept.steps or kept.steps[step].state == "failed":
            site.jobs.check_room(kept.key)
            site.jobs.submit(kept, step)
        if wait:
            await site.jobs.wait(kept, step)
            response.status_code = 200 if kept.steps[step].state == "done" else 422
        return answer_of(kept, site.jobs)

    @app.get("/api/model", response_model=ModelAnswer)
    async def model() -> ModelAnswer:
        """Return the classes of the model, the bounds of the server, and the names of its examples."""
        return site.facts()

    @app.get("/healthz", response_model=Health)
    async def health(response: Response) -> Health:
        """Return whether the server takes videos. Needs no token."""
        status = site.jobs.status
        if status != "ok":
            response.status_code = 503
        return Health(status=status, **site.jobs.counts())


def _add_files(app: FastAPI, site: Site) -> None:
    @app.get("/api/jobs/{job_id}/video", response_class=FileResponse, responses=_FILE)
    async def video(request: Request, job_id: str) -> Response:
        """Return the video. Ranges of bytes work, so that a player can seek."""
        kept = site.job(request, job_id)
        if kept.main.state != "done" or kept.result is None:
            raise Refusal(409, "This video is not classified. Wait until its state is `done`.")
        return _media(kept.video, str(kept.result["video"]["media_type"]))

    @app.get("/api/jobs/{job_id}/{step}", response_class=FileResponse, responses=_FILE)
    async def written(request: Request, job_id: str, step: MoreStep) -> Response:
        """Return the file that further work wrote."""
        work = site.job(request, job_id).steps.get(step)
        if work is None or work.state != "done" or work.file is None:
            raise Refusal(409, "There is no such file. Ask for it with POST, and wait until it is `done`.")
        return _media(work.file, "video/mp4")

    @app.get("/api/examples/{name}", response_class=FileResponse, responses=_FILE)
    async def example(name: str) -> Response:
        """Return an example video."""
        file = site.example(name)
        return _media(
            file, CONTAINERS.get(_CONTAINER_OF.get(file.suffix.lower(), ""), "application/octet-stream")
        )


def _media(file: Path, media_type: str) -> Response:
    if not file.is_file():
        raise Refusal(404, "The file was deleted.")
    headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
    return FileResponse(file, media_type=media_type, headers=headers)


def _add_pages(app: FastAPI, site: Site) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        longest = in_words(site.config.max_seconds)
        response = HTMLResponse(render("serve.html", model=site.model, config=site.config, duration=longest))
        response.headers["Referrer-Policy"] = "no-referrer"  # the address may have the token
        if site.rules.is_token(request.query_params.get("token", "")):
            site.rules.remember(request, response)
        if is_browser(request) and site.visitors.of(request) is None:
            site.visitors.remember(request, response, site.visitors.new())
        return response

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise Refusal(404, "There is no such file.")
        text = resources.files("t3d").joinpath("templates", name).read_text(encoding="utf-8")
        return Response(text, media_type=_STATIC[name])

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(render("serve_api.html", api=app.openapi()))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        body = b""
        try:
            async with asyncio.timeout(_LOGIN_TIME):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MOST_LOGIN:
                        raise Refusal(413, "The form is too large.", {"Connection": "close"})
        except TimeoutError:
            message = f"The form did not come within {_LOGIN_TIME:g} s. Send the token again."
            raise Refusal(408, message, {"Connection": "close"}) from None
        (given, *_) = parse_qs(body.decode("ascii", "replace")).get("token", [""])
        if not site.rules.is_token(given.strip()):
            return HTMLResponse(render("login.html", wrong=True), 401)
        response = RedirectResponse("./", 303)
        site.rules.remember(request, response)
        return response
