"""Progress of long tasks: a bar in a terminal, otherwise a line at least every 30 seconds.

Both are written to stderr, so that stdout contains only results. Nothing is shown until `show_progress` turns
progress on, as the command line does. In a run of several processes, only the main process shows progress.

A thread draws the progress. It therefore also continues during a file that takes minutes, and `Bar.advance`
is cheap. The thread draws under a lock that every fork takes first. A child process therefore inherits
neither an incomplete line nor a locked lock.

Progress never ends a task. If stderr is closed or broken, progress is switched off.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

FIRST_LINE = 5.0
"""Seconds until the first line about a task is printed. Shorter tasks print none."""
LINE_EVERY = 30.0
"""Seconds between two lines."""
_TICK = 0.2  # seconds between two updates
_JOIN = 2.0  # seconds to wait for the thread, which may be stuck in a write to stderr
_SAMPLES = 50  # number of past states of a task that its estimated speed is based on

Item = TypeVar("Item")

_clock = time.monotonic
_shown = False
_lock = threading.RLock()
_bars: list[Bar] = []  # open ones, the outermost first
_view: _View | None = None
_thread: threading.Thread | None = None
_stopping = threading.Event()


class Bar:
    """Progress of one task, see `progress`.

    Args:
        title: Name of the task, such as "Decoding videos".
        total: Number of items. None if unknown.
        unit: Name of the items, such as "steps". "bytes" shows MB or GB. Empty if the title contains it.
        done: Number of items finished earlier.
        last_line: Whether a line shows the end of the task. False if the caller prints one.
    """

    def __init__(
        self, title: str, total: float | None, *, unit: str = "", done: float = 0, last_line: bool = True
    ) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = done
        self.last_line = last_line
        self.note = ""
        self.began = _clock()
        self._samples = deque([(self.began, done)])

    def advance(self, count: float = 1, *, note: str = "") -> None:
        """Count items as done.

        Args:
            count: Number of items, or a fraction of an item.
            note: Additional text to show, such as the loss. Empty keeps the last note.
        """
        self.done += count
        self.note = note or self.note

    def move(self, done: float, total: float | None) -> None:
        """Set the number of finished items and the total. Both may change during a download."""
        self.done, self.total = done, total

    def text(self) -> str:
        """Return the state in words: `120 of 500 (24 %), about 4 min left`."""
        return ", ".join(filter(None, (self.count(), self.note, self.left())))

    def count(self) -> str:
        """Return the number of finished items: `120 of 500 (24 %)`, with parts `11.8 of 18 (65 %)`."""
        if self.unit == "bytes":
            size, name = (1e9, "GB") if max(self.total or 0, self.done) >= 1e9 else (1e6, "MB")
            done, unit = f"{self.done / size:,.1f}", f" {name}"
            total = "" if self.total is None else f"{self.total / size:,.1f}"
        else:
            whole, tenths = divmod(int(10 * self.done + 1e-6), 10)
            done = f"{whole:,}.{tenths}" if tenths else f"{whole:,}"
            unit = f" {self.unit}" if self.unit else ""
            total = "" if self.total is None else f"{self.total:,.0f}"
        if not total:
            return done + unit
        share = f" ({int(100 * self.done / self.total + 1e-6)} %)" if self.total else ""
        return f"{done} of {total}{unit}{share}"

    def left(self) -> str:
        """Return the estimated time left: `about 4 min left`. Empty if there is no estimate yet."""
        seconds = self.seconds_left()
        return f"about {in_words(seconds)} left" if seconds is not None and seconds >= 1 else ""

    def seconds_left(self) -> float | None:
        """Return the estimated seconds left; None if there is no estimate yet."""
        now = _clock()
        time_before, done_before = self._samples[0]
        if self.total is None or self.done <= done_before or now <= time_before:
            return None
        return (self.total - self.done) * (now - time_before) / (self.done - done_before)

    def sample(self, now: float) -> None:
        """Record the state of the task. Its speed is estimated from the second half of its time.

        Items that an earlier run finished are often skipped quickly, so they do not show the speed.
        """
        age = now - self.began
        if now - self._samples[-1][0] >= max(1.0, age / _SAMPLES):
            self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - age / 2:
            self._samples.popleft()


def show_progress(on: bool = True) -> None:
    """Switch progress on or off for this process.

    Args:
        on: True shows progress, False hides it.
    """
    global _shown
    _shown = on


def open_bars() -> tuple[Bar, ...]:
    """Return the tasks that are shown now, the outermost first."""
    return tuple(_bars)


@contextmanager
def progress(
    title: str,
    total: float | None = None,
    *,
    unit: str = "",
    done: float = 0,
    last_line: bool = True,
    bar: Bar | None = None,
) -> Iterator[Bar]:
    """Show the progress of a task. Tasks may be nested.

    Args:
        title: Name of the task, such as "Decoding videos".
        total: Number of items. None if unknown.
        unit: Name of the items, such as "steps". "bytes" shows MB or GB. Empty if the title contains it.
        done: Number of items finished earlier.
        last_line: Whether a line shows the end of the task. False if the caller prints one.
        bar: Bar to show. Default: a new one of the arguments above.

    Yields:
        Bar to advance.

    Example:
        >>> with progress("Decoding videos", total=3) as bar:
        ...     bar.advance(2)
        ...     bar.count()
        '2 of 3 (66 %)'
    """
    if bar is None:
        bar = Bar(title, total, unit=unit, done=done, last_line=last_line)
    if not _shown or os.environ.get("RANK", "0") != "0" or not _is_open(sys.stderr):
        yield bar
        return
    finished = False
    try:
        _open(bar)
        yield bar
        finished = True
    finally:
        _close(bar, finished)


def track(
    items: Iterable[Item], title: str, total: float | None = None, *, unit: str = "", done: float = 0
) -> Iterator[Item]:
    """Yield items, and show how many are done.

    Args:
        items: Items to yield.
        title: Name of the task, see `progress`.
        total: Number of items. None uses the length of `items` if it has one.
        unit: Name of the items, see `progress`.
        done: Number of items finished earlier.

    Example:
        >>> list(track("ab", "Reading letters"))
        ['a', 'b']
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(title, total, unit=unit, done=done) as bar:
        for item in items:
            yield item
            bar.advance()


def in_words(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> [in_words(seconds) for seconds in (7, 44, 250, 7800, 300_000)]
        ['7 s', '40 s', '4 min', '2 h 10 min', '3 days']
    """
    minutes = round(seconds / 60)
    if seconds < 20:
        return f"{seconds:.0f} s"
    if seconds < 55:
        return f"{10 * round(seconds / 10)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes / 60 / 24:.0f} days"


# --- two views ----------------------------------------------------------------------------------------------


class _View(Protocol):
    """Display of all open bars, the innermost last."""

    def draw(self, now: float) -> None: ...

    def closed(self, bar: Bar, finished: bool) -> None: ...

    def end(self) -> None: ...


class _Lines:
    """Lines for a file, a pipe or a CI log. They show the innermost task, which is the current one."""

    def __init__(self) -> None:
        self.last = _clock()
        self.titles: set[str] = set()  # already announced
        self.printed: set[Bar] = set()

    def draw(self, now: float) -> None:
        bar = _bars[-1]
        announced = bar.title in self.titles
        begins = not announced and now - bar.began >= FIRST_LINE
        if begins or now - self.last >= LINE_EVERY:
            self._print(bar, bar.text())
            self.last = now

    def closed(self, bar: Bar, finished: bool) -> None:
        if finished and bar.last_line and bar in self.printed:
            self._print(bar, f"{bar.count()}, done in {in_words(_clock() - bar.began)}")
            self.last = _clock()

    def end(self) -> None:
        pass

    def _print(self, bar: Bar, text: str) -> None:
        self.titles.add(bar.title)
        self.printed.add(bar)
        print(f"{bar.title}: {text}", file=sys.stderr, flush=True)


class _Terminal:
    """Bars in a terminal, one below the other. Other output appears above them."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=_console(),
            auto_refresh=False,
            # If stdout is a file, results must not be redirected to the terminal.
            redirect_stdout=_is_open(sys.stdout) and sys.stdout.isatty(),
        )
        self.tasks: dict[Bar, TaskID] = {}
        self.progress.start()

    def draw(self, now: float) -> None:  # noqa: ARG002 (the bars know the time)
        for bar in _bars:
            if bar not in self.tasks:
                self.tasks[bar] = self.progress.add_task(bar.title, text="")
            self.progress.update(self.tasks[bar], total=bar.total, completed=bar.done, text=bar.text())
        self.progress.refresh()

    def closed(self, bar: Bar, finished: bool) -> None:
        task = self.tasks.pop(bar, None)
        age = _clock() - bar.began
        if (
            not _bars and bar.last_line and age >= FIRST_LINE and task is not None
        ):  # its last state stays on the screen
            text = f"{bar.count()}, done in {in_words(age)}" if finished else bar.text()
            self.progress.update(task, total=bar.total, completed=bar.done, text=text)
            self.progress.refresh()
            return
        self.progress.live.transient = not _bars
        if task is not None:
            self.progress.remove_task(task)

    def end(self) -> None:
        self.progress.stop()


def _console() -> Console:
    """Return a console on stderr. If it breaks, rich's own would discard stdout and exit the process."""
    from rich.console import Console

    class Stderr(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Stderr(stderr=True)


def _is_open(stream: Any) -> bool:
    """Return whether a stream can be written to. It is None if its descriptor was closed from the start."""
    return stream is not None and not getattr(stream, "closed", False)


def _new_view() -> _View:
    dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    return _Terminal() if sys.stderr.isatty() and not dumb else _Lines()


# --- the thread that draws ----------------------------------------------------------------------------------


def _open(bar: Bar) -> None:
    global _stopping, _thread, _view
    with _lock, _drawing():
        _bars.append(bar)
        if _view is None:
            _view = _new_view()
            _stopping = threading.Event()  # a former thread may still be stuck
            _thread = threading.Thread(target=_run, args=(_stopping,), name="progress", daemon=True)
            _thread.start()


def _close(bar: Bar, finished: bool) -> None:
    thread = None
    with _lock:
        if _view is None or bar not in _bars:  # the bar of a parent process
            return
        _bars.remove(bar)
        try:
            with _drawing():
                _view.closed(bar, finished)
        finally:
            if not _bars:
                thread = _end()
    if thread is not None and thread is not threading.current_thread():
        thread.join(timeout=_JOIN)


def _end() -> threading.Thread | None:
    """End the view. Return its thread, which ends soon, or None if there is no view."""
    global _view, _thread
    view, thread = _view, _thread
    _view, _thread = None, None
    _stopping.set()
    if view is not None:
        with _drawing():
            view.end()
    return thread


@contextmanager
def _drawing() -> Iterator[None]:
    """Switch progress off if stderr is broken (OSError) or closed (ValueError)."""
    try:
        yield
    except (OSError, ValueError):
        show_progress(False)
        _bars.clear()
        _end()
        _restore_streams()


def _restore_streams() -> None:
    """Restore the streams that rich redirects while it draws."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        setattr(sys, name, getattr(stream, "rich_proxied_file", stream))


def _run(stopping: threading.Event) -> None:
    while not stopping.wait(_TICK):
        tick()


def tick() -> None:
    """Update the display of the open bars if it is due."""
    with _lock, _drawing():
        if _view is None or not _bars:
            return
        now = _clock()
        for bar in _bars:
            bar.sample(now)
        _view.draw(now)


def _stop_at_exit() -> None:
    """Stop the thread before Python exits, because a thread that writes during exit can crash the process."""
    for bar in reversed(_bars.copy()):
        _close(bar, False)


def _forget_in_child() -> None:
    """Leave the bars to the parent process."""
    global _shown, _stopping, _thread, _view
    _lock._at_fork_reinit()  # type: ignore[attr-defined] # as Python's own modules do
    _stopping = threading.Event()
    _bars.clear()
    _shown, _thread, _view = False, None, None
    _restore_streams()


atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    # Methods of the lock itself: a signal that raises within a function of ours would leave the lock locked.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget_in_child)
