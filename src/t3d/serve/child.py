"""A process that holds the model and works on one video at a time, watched by the server.

Whatever a file does to FFmpeg or to the model happens in this process. If it takes too long or too much
memory, the server kills it, reports why, and starts another one.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from t3d.errors import CheckpointError, ConfigError, LostReaderError, T3DError
from t3d.serve.config import GB
from t3d.serve.inside import LONGEST, Setup, serve_tasks
from t3d.serve.score import Report, Task

_POLL = 0.05  # seconds between two looks at the process
_LOADING = 600.0  # seconds for the start of a process
_STOPPING = 2.0  # seconds for the end of unwanted work, after which the process is killed
_LATE = 10.0  # seconds beyond the time limit, after which the process is killed whatever the server waits for
_GROWN = 0.25  # share of the memory for a video that earlier videos may keep
_ERRORS = {error.__name__: error for error in (CheckpointError, ConfigError)}


class TaskError(Exception):
    """Work on a video failed, with the reason for the visitor."""


class TaskStopped(Exception):  # noqa: N818 (not an error: the visitor no longer wants the result)
    """The work was stopped from outside."""


class ScoringProcess:
    """A process that works on one video at a time. Another one replaces it when it dies.

    All methods are for one thread at a time, except `stop`.

    Args:
        setup: What the process needs.

    Attributes:
        model: Facts about the model, see `t3d.serve.score.described`.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._stopped = False
        self._base = 0  # resident bytes with the model loaded, before the first video
        self.model: dict[str, Any] = {}

    @property
    def is_ready(self) -> bool:
        """True if the process is alive and has loaded the model."""
        return self._process is not None and self._process.is_alive()

    def start(self, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Start the process and wait until it has loaded the model.

        Args:
            unwanted: Returns whether the process is no longer wanted.

        Raises:
            T3DError: The model cannot be loaded.
            TaskStopped: `stop` was called, or the process is no longer wanted.
        """
        self._kill()
        context = multiprocessing.get_context("spawn")  # not forked: this process has threads
        pipe, theirs = context.Pipe()
        process = context.Process(target=serve_tasks, args=(theirs, self._setup), daemon=True)
        process.start()
        theirs.close()
        self._process, self._pipe = process, pipe
        end = time.monotonic() + _LOADING
        try:
            while not self._is_loaded(process):
                if self._stopped or unwanted():
                    raise TaskStopped
                if time.monotonic() > end:
                    raise LostReaderError(
                        f"The process that loads the model was not ready within {_LOADING:g} s",
                        "Try another `device` or `runtime`",
                    )
        except BaseException:
            self._kill()
            raise

    def _is_loaded(self, process: multiprocessing.process.BaseProcess) -> bool:
        alive = process.is_alive()
        kind, content = self._message(_POLL)
        if kind == "error":
            raise _ERRORS.get(content["type"], T3DError)(content["text"])
        if kind == "" and not alive:
            raise LostReaderError(
                f"The process that loads the model ended with exit status {process.exitcode}",
                "Free memory, or try another `device` or `runtime`",
            )
        if kind == "ready":
            self.model = content
            self._base = _resident(process.pid)
        return kind == "ready"

    def run(self, task: Task, *, report: Report, unwanted: Callable[[], bool]) -> dict[str, Any]:
        """Work on one video.

        Args:
            task: The work.
            report: Called with the share that is done.
            unwanted: Returns whether the result is no longer wanted.

        Returns:
            The result as plain values.

        Raises:
            TaskError: The video cannot be used, with the reason for the visitor.
            TaskStopped: The result is no longer wanted.
        """
        if not self.is_ready:
            self.start()
        assert self._process is not None
        self._send(asdict(task))
        watchdog = threading.Timer(self._setup.config.timeout + _LATE, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._result(report, unwanted)
        finally:
            watchdog.cancel()

    def renew_if_grown(self) -> None:
        """End the idle process if earlier videos left much in memory that would count for the next one."""
        most = _GROWN * self._setup.config.max_memory_gb * GB
        if self._process is not None and _resident(self._process.pid) - self._base > most:
            self._kill()

    def _result(self, report: Report, unwanted: Callable[[], bool]) -> dict[str, Any]:
        assert self._process is not None
        config = self._setup.config
        end = time.monotonic() + config.timeout
        while True:
            alive = self._process.is_alive()
            kind, content = self._message(_POLL)
            if kind == "progress":
                report(float(content))
            elif kind == "result":
                return dict(content)
            elif kind == "refused":
                raise TaskError(sentence(str(content)))
            elif kind == "" and not alive:
                self._kill()
                raise TaskError(
                    "Reading this file crashed a library, so it is probably damaged. Convert it first, for "
                    "example with `ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4`."
                )
            if self._stopped:
                self._kill()
                raise TaskStopped
            if unwanted():
                self._end_task()
                raise TaskStopped
            if time.monotonic() > end:
                self._kill()
                raise TaskError(
                    f"This video took longer than {config.timeout:g} s, the limit of this server. Send a "
                    "shorter one."
                )
            if _resident(self._process.pid) - self._base > config.max_memory_gb * GB:
                self._kill()
                raise TaskError(
                    f"This video needs more than {config.max_memory_gb:g} GB of memory, the limit of this "
                    "server. Send a shorter or smaller one."
                )

    def _end_task(self) -> None:
        """Let the process end its work, so that it can keep the model. Kill it if it does not soon."""
        self._send(None)
        end = time.monotonic() + _STOPPING
        while time.monotonic() < end and not self._stopped:
            kind, _ = self._message(_POLL)
            if kind in ("stopped", "result", "refused"):
                return
        self._kill()

    def stop(self) -> None:
        """End the process, also while another thread is in `run`."""
        self._stopped = True
        process = self._process
        if process is not None and process.is_alive():
            process.kill()

    def close(self) -> None:
        """End the process and wait until it has ended. No thread may be in `run`."""
        self.stop()
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _message(self, seconds: float) -> tuple[str, Any]:
        """Return the next message of the process; `("", None)` if there is none within some seconds."""
        assert self._pipe is not None
        try:
            if not self._pipe.poll(seconds):
                return "", None
            # Not a pickle: the process decodes files from strangers.
            kind, content = json.loads(self._pipe.recv_bytes(LONGEST))
        except (EOFError, OSError):  # the process died
            return "", None
        except (ValueError, TypeError):  # not a message of this program
            self._kill()
            raise TaskError("Reading this file confused the server. Convert it first.") from None
        return str(kind), content

    def _send(self, content: object) -> None:
        assert self._pipe is not None
        with suppress(OSError):  # it died: found out by who waits for its answer
            self._pipe.send_bytes(json.dumps(content).encode())


def _resident(pid: int | None) -> int:
    """Return the bytes that a process has in memory; 0 if it ended."""
    import psutil  # not above: on Linux, it imports a module that only POSIX has

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def sentence(reason: str) -> str:
    """Return the reason of a `VideoError` as a sentence for the visitor.

    Example:
        >>> sentence("is empty (0 bytes)"), sentence("timeout: not read within 3 s")
        ('This file is empty (0 bytes).', 'Timeout: not read within 3 s.')
    """
    verb = reason.partition(" ")[0] in ("is", "has", "needs", "cannot")
    text = f"This file {reason}" if verb else reason[:1].upper() + reason[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
