"""Load on `t3d serve`: many visitors on this machine send a video again and again.

    python benchmarks/serve_load.py MODEL --video a.mp4 --visitors 20 --minutes 5

It starts a server on a free port of the loopback address and ends it. It prints the time from the upload to
the result (median and 95th percentile), and how many videos were lost or had a wrong result. It also prints
the memory of the server and its scoring process over time. The exit status is 1 if a video was lost or wrong,
if memory grew, or if files are left.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

_POLL = 0.2  # seconds
_SAMPLE = 1.0  # seconds between two measurements of memory
_GROWTH = 1.2  # largest memory in the last quarter, as a multiple of that in the second one


@dataclass
class Load:
    """Measurements of all visitors."""

    seconds: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, bytes of server and scorer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1


def visit(url: str, video: bytes, right: dict[str, float], load: Load, end: float) -> None:
    """Send the video again and again, as one visitor with one browser."""
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": url.rstrip("/")}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        client.get("")  # the page, with the cookie of this visitor
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                answer = client.post("api/predict", files={"video": ("a.mp4", video)})
                while answer.status_code in (429, 503) and time.monotonic() < end:
                    load.count("asked to come back")
                    time.sleep(1)
                    answer = client.post("api/predict", files={"video": ("a.mp4", video)})
                if answer.status_code in (429, 503):
                    return
                job = answer.json()
                while job["state"] not in ("done", "failed"):
                    time.sleep(_POLL)
                    job = client.get(f"api/jobs/{job['id']}").json()
                classes = (job["result"] or {}).get("classes", {})
                same = all(abs(classes.get(name, -1) - share) < 1e-4 for name, share in right.items())
                load.count("right" if same else "wrong")
                load.seconds.append(time.monotonic() - began)
                if len(load.seconds) % 2:  # the others stay until they are deleted for space
                    client.delete(f"api/jobs/{job['id']}")
            except (httpx.HTTPError, KeyError, ValueError) as error:
                load.count("lost")
                print(f"lost: {error!r}", file=sys.stderr)
                time.sleep(1)


def watch_memory(server: psutil.Process, load: Load, stop: threading.Event) -> None:
    """Measure the memory of the server and of the processes that it started."""
    began = time.monotonic()
    while not stop.wait(_SAMPLE):
        try:
            scorers = sum(child.memory_info().rss for child in server.children())
            load.memory.append((time.monotonic() - began, server.memory_info().rss, scorers))
        except psutil.Error:
            return


def measure(url: str, server: psutil.Process, video: bytes, visitors: int, seconds: float) -> Load:
    """Let all visitors send videos for some time."""
    with httpx.Client(base_url=url, timeout=120) as client:
        answer = client.post("api/predict", params={"wait": 1}, files={"video": ("a.mp4", video)}).json()
        right = answer["result"]["classes"]
    load, stop = Load(), threading.Event()
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=visit, args=(url, video, right, load, end)) for _ in range(visitors)]
    watcher = threading.Thread(target=watch_memory, args=(server, load, stop))
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    return load


def report(load: Load, *, visitors: int, seconds: float) -> bool:
    """Print the measurements, and return whether memory grew from the second to the last quarter."""
    grew = False
    lost, wrong = load.counts["lost"], load.counts["wrong"]
    print(
        f"{visitors} visitors, {seconds:.0f} s: {len(load.seconds)} results, {lost} lost, {wrong} wrong, ",
        end="",
    )
    print(f"{load.counts['asked to come back']} times asked to come back")
    if load.seconds:
        median, late = np.percentile(load.seconds, [50, 95])
        print(f"upload to result: median {median:.2f} s, 95th percentile {late:.2f} s, ", end="")
        print(f"{len(load.seconds) / seconds:.2f} videos per second")
    for title, column in (("server", 1), ("scoring processes", 2)):
        values = np.array([each[column] for each in load.memory]) / 1e6
        if len(values) < 4:
            continue
        quarters = [part.max() for part in np.array_split(values, 4)]
        print(f"memory of the {title} in MB, largest per quarter: {', '.join(f'{x:.0f}' for x in quarters)}")
        grew = grew or quarters[-1] > _GROWTH * quarters[1]
    if grew:
        print("memory grew")
    return grew


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "t3d", "serve", given.model, "--port", "0"]
        environment = {**os.environ, "TMPDIR": folder}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            return process.wait()
        try:
            seconds = given.minutes * 60
            content = given.video.read_bytes()
            load = measure(url, psutil.Process(process.pid), content, given.visitors, seconds)
            grew = report(load, visitors=given.visitors, seconds=seconds)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
        left = list(Path(folder).glob("t3d-serve-*"))
        print(f"files left after the end: {len(left)}")
    return 1 if left or grew or load.counts["lost"] or load.counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
