"""Classify a live source, clip by clip, until it ends or the caller stops."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from t3d.card import ModelCard
from t3d.clip import Targets
from t3d.live.address import parse_address
from t3d.live.config import WatchConfig
from t3d.live.feed import Feed, FeedOptions
from t3d.live.ring import Samples
from t3d.live.schedule import Schedule
from t3d.live.scorer import Scorer, clip_scorer
from t3d.runtime.load import load

_WAIT = 0.01  # seconds between two looks at the ring
_KEPT = 10_000  # latencies for the median


@dataclass(frozen=True)
class LiveResult:
    """Classes of one clip of a live source.

    Args:
        time: Time at which the last frame of the clip arrived, in seconds since 1970 (UTC).
        start: Time of the first frame, in seconds from the first frame of the connection.
        end: Time of the last frame.
        classes: Every class name, most probable first.
        probs: Their probabilities.
        latency: Seconds from the arrival of the last frame to this result.
        dropped: Frames since the result before that no clip contains, because model or reading are too slow.
        connection: Number of the connection, from 1.
        targets: `single`: the probabilities sum to 1. `multi`: each is of that class alone.
    """

    time: float
    start: float
    end: float
    classes: tuple[str, ...]
    probs: tuple[float, ...]
    latency: float
    dropped: int
    connection: int
    targets: Targets = "single"

    def to_json(self, top: int) -> dict[str, Any]:
        """Return the result as plain values, with the most probable classes."""
        likely = list(zip(self.classes, self.probs, strict=True))[:top]
        line = {
            "time": self.clock().isoformat(timespec="milliseconds"),
            "start": round(self.start, 6),
            "end": round(self.end, 6),
            "classes": dict(likely),
            "latency": round(self.latency, 4),
            "dropped": self.dropped,
            "connection": self.connection,
        }
        return line if self.targets == "single" else line | {"targets": self.targets}

    def clock(self) -> datetime:
        """Return `time` with the time zone of this machine."""
        return datetime.fromtimestamp(self.time).astimezone()


@dataclass
class Summary:
    """Figures of a command that watches a source.

    Args:
        seconds: Seconds of watching.
        clips: Clips that were classified.
        frames: Frames that were decoded.
        dropped: Frames that no clip contains, because model or reading were too slow.
        connections: Connections that delivered frames.
        latencies: The last latencies, in seconds.
    """

    seconds: float = 0.0
    clips: int = 0
    frames: int = 0
    dropped: int = 0
    connections: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def __str__(self) -> str:
        minutes, seconds = divmod(self.seconds, 60)
        length = f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
        clips = "1 clip" if self.clips == 1 else f"{self.clips} clips"
        text = f"{clips} in {length}; {self.frames} frames, {self.dropped} dropped"
        if self.connections > 1:
            text += f"; connected {self.connections} times"
        if self.latencies:
            median, most = float(np.median(list(self.latencies))), max(self.latencies)
            text += f"; latency {median:.2f} s (median), {most:.2f} s (maximum)"
        return text


class Watch:
    """Classification of a live source.

    Args:
        config: The options.
        note: Function that is called with each message about the source.

    Attributes:
        summary: What was watched so far.

    Example:
        >>> watch = Watch(WatchConfig("runs/mine", "0"), note=print)  # doctest: +SKIP
        >>> for result in watch.results():  # doctest: +SKIP
        ...     print(result.classes[0], result.probs[0])
    """

    def __init__(self, config: WatchConfig, *, note: Callable[[str], None]) -> None:
        self.summary = Summary()
        self._config, self._note = config, note

    def results(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[LiveResult]:
        """Yield results until the source ends, the time is over or the caller stops.

        Args:
            stopped: Function that returns whether to stop.

        Raises:
            CheckpointError: The weights cannot be used.
            ConfigError: There is no such device, or the runtime does not compute this file.
            VideoError: The source cannot be read, and no further attempt is left.
            WriteError: Shared memory is full.
            DivergedError: Some scores are infinite or NaN.
        """
        config = self._config
        model, card = load(
            config.model,
            runtime=config.runtime,
            compute=config.compute,
            allow_unfinished=config.allow_unfinished,
        )
        frames = card.clip.num_frames * card.clip.segments
        address = parse_address(config.source)
        options = FeedOptions(config.timeout, config.retries, config.max_megapixels)
        with clip_scorer(model, card, config.compute) as scorer:
            # The first computation of a model is slow. Its latency would not be that of the later ones.
            scorer(np.zeros((frames, card.clip.size, card.clip.size, 3), np.uint8))
            with Feed(address, card.clip, options, note=self._note) as feed:
                yield from self._watch(feed, scorer, card, Schedule(frames, config.every), stopped)

    def _watch(
        self,
        feed: Feed,
        scorer: Scorer,
        card: ModelCard,
        schedule: Schedule,
        stopped: Callable[[], bool],
    ) -> Iterator[LiveResult]:
        begin = time.monotonic()
        limit = self._config.max_seconds
        skipped = 0
        try:
            while not stopped() and (limit is None or time.monotonic() - begin < limit):
                ended = feed.ended  # asked before the ring: frames before the end count
                newest = feed.newest_place()
                due = newest is not None and schedule.is_due(newest)
                clip = feed.newest() if due else None
                if clip is None or not schedule.is_due(clip.last):
                    if ended:
                        return
                    feed.poll(_WAIT)
                    continue
                dropped = schedule.take(clip.first, clip.last) + feed.skipped - skipped
                skipped = feed.skipped
                result = self._classified(clip, scorer, card, dropped, feed.connections)
                self._count(result, feed, time.monotonic() - begin)
                yield result
                feed.poll(0)  # messages appear even if the model is never idle
        finally:
            self.summary.seconds = time.monotonic() - begin
            self.summary.frames = feed.frames + feed.skipped
            self.summary.connections = feed.connections
            self.summary.dropped += feed.skipped - skipped

    def _count(self, result: LiveResult, feed: Feed, seconds: float) -> None:
        summary = self.summary
        summary.seconds, summary.frames, summary.connections = seconds, feed.frames, feed.connections
        summary.clips += 1
        summary.dropped += result.dropped
        summary.latencies.append(result.latency)

    @staticmethod
    def _classified(
        clip: Samples, scorer: Scorer, card: ModelCard, dropped: int, connection: int
    ) -> LiveResult:
        probs = scorer(clip.images)
        order = np.argsort(-probs, kind="stable")
        now = time.monotonic()
        return LiveResult(
            time=time.time() - (now - clip.arrived),
            start=clip.first.time,
            end=clip.last.time,
            classes=tuple(card.classes[i] for i in order),
            probs=tuple(float(probs[i]) for i in order),
            latency=now - clip.arrived,
            dropped=dropped,
            connection=connection,
            targets=card.targets,
        )
