"""Fuzz test: damage real files, and compare frames read in any order with those read from start to end.

    python benchmarks/fuzz.py VIDEO OUT                        # 1,500 mutations, resumes where OUT ends
    python benchmarks/fuzz.py VIDEO OUT --count 100 --seed 1 --only vp8 mjpeg

The first frames of VIDEO are encoded with many codecs and containers. Each mutation changes one of these
files: it flips a few bits, overwrites or removes a run of bytes, or repeats one. `--seed` and the number of
the mutation decide everything.

A mutation behaves wrongly if a frame differs from the same frame read from start to end: read on its own or
in a clip, after any other frames, without or with an index entry. It also behaves wrongly if only one of the
two is an error, if the number of frames differs, or if a reader crashes or needs over a minute.

OUT/results.jsonl has one line per mutation. Files that behave wrongly are kept. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import torch

from t3d.errors import VideoError
from t3d.prepare.examine import examine
from t3d.video.facts import VideoFacts
from t3d.video.video import Video

SECONDS = 60  # for one mutation
FRAMES = 50

# File -> encoder, pixel format and options.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h264.mkv": ("libx264", "yuv420p", {"g": "12", "x264-params": "open-gop=1:bframes=3"}),
    "h264.ts": ("libx264", "yuv420p", {"g": "12"}),
    "h264.avi": ("libx264", "yuv420p", {"g": "12", "bf": "0"}),
    "h264-refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=15:bframes=0"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "12"}),
    "mpeg4-b.avi": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "12", "b": "300k", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "12", "b": "300k", "cpu-used": "6", "deadline": "realtime"}),
    "hevc.mp4": ("libx265", "yuv420p", {"g": "12", "x265-params": "log-level=none"}),
    "ffv1.mkv": ("ffv1", "yuv420p", {"g": "5"}),
    "flv1.flv": ("flv", "yuv420p", {"g": "12"}),
    "wmv2.asf": ("wmv2", "yuv420p", {"g": "12"}),
}


def encode(path: Path, images: torch.Tensor, codec: str, pixels: str, options: dict[str, str]) -> None:
    """Write frames T C H W with an encoder."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = images.shape[2], images.shape[3], pixels
        for image in images.permute(0, 2, 3, 1).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(video.encode(frame.reformat(format=pixels)))
        container.mux(video.encode(None))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage the content of a file; its first and last bytes, where headers and indexes lie, less often."""
    changed = bytearray(data)
    start, end = (len(data) // 20, len(data) - len(data) // 20) if rng.random() < 0.8 else (0, len(data))
    kind = rng.choice(("bits", "bits", "bytes", "run", "remove", "repeat"))
    for _ in range(rng.choice((1, 2, 3, 5))):
        place = rng.randrange(start, end)
        length = min(rng.choice((4, 40, 400, 4000)), len(changed) // 10)
        if place + length >= len(changed):
            continue
        if kind == "bits":
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            changed[place] = rng.randrange(256)
        elif kind == "run":
            changed[place : place + length] = rng.choice((b"\0", b"\xff")) * length
        elif kind == "remove":
            del changed[place : place + length]
        else:
            changed[place:place] = changed[place : place + length]
    return bytes(changed)


def picture(video: Video, number: int) -> str | None:
    """Return a digest of a frame, or None if it cannot be read."""
    try:
        frame = video.frames_at([number])
    except VideoError:
        return None
    return digest(frame)


def digest(frames: torch.Tensor) -> str:
    """Return a digest of pixels."""
    return hashlib.blake2b(frames.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def wrongs(path: Path, seed: int) -> dict[str, Any]:
    """Read a file in many orders, and return what differs from reading it from start to end."""
    differences: Counter[str] = Counter()
    try:
        with Video(path) as video:
            truth = [picture(video, number) for number in range(len(video))]
            damage = video.damage
    except VideoError:
        truth, damage = [], "cannot be read"
    # First without an index entry, then with it.
    for facts in (None, facts_of(path)):
        where = "" if facts is None else "index: "
        if isinstance(facts, str) or not truth:
            if facts is not None and isinstance(facts, str) != (not truth):
                differences[f"{where}only one can be opened"] += 1
            continue
        for attempt in range(4):
            rng = random.Random(f"{seed} {attempt}")
            with Video(path, facts=facts) as video:
                if len(video) != len(truth):
                    differences[f"{where}{'more' if len(video) > len(truth) else 'fewer'} frames"] += 1
                    break
                _compare(video, truth, rng, attempt, differences, where)
    return {"frames": len(truth), "missing": truth.count(None), "damage": damage, "wrong": dict(+differences)}


def _compare(
    video: Video,
    truth: list[str | None],
    rng: random.Random,
    attempt: int,
    differences: Counter[str],
    where: str,
) -> None:
    count = len(truth)
    if attempt < 2:
        for number in [rng.randrange(count) for _ in range(12)]:
            got = picture(video, number)
            if got != truth[number]:
                kind = "picture" if got and truth[number] else "error"
                differences[f"{where}{kind}"] += 1
        return
    for _ in range(4):
        first, stride = rng.randrange(count), rng.choice((1, 2, 4))
        numbers = [min(first + stride * i, count - 1) for i in range(6)]
        try:
            frames = video.frames_at(numbers)
        except VideoError:
            differences[f"{where}error"] += all(truth[number] for number in numbers)
            continue
        for number, frame in zip(numbers, frames, strict=True):
            if digest(frame[None]) != truth[number]:
                differences[f"{where}{'picture' if truth[number] else 'error'} in a clip"] += 1


def facts_of(path: Path) -> VideoFacts | str:
    """Return the facts that an index would have, or why the file cannot be read."""
    row = examine(str(path))
    if row.get("error"):
        return str(row["error"])
    # As stored and read again.
    return VideoFacts.of_row(row)


def isolated(path: Path, seed: int) -> dict[str, Any]:
    """Run `wrongs` in a separate process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child(connection: Connection) -> None:
        connection.send(wrongs(path, seed))

    process = context.Process(target=child, args=(sender,))
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            return {"wrong": {"no answer within a minute": 1}}
        answer: dict[str, Any] = receiver.recv()
        return answer
    except EOFError:
        process.join()
        return {"wrong": {f"exit code {process.exitcode}": 1}}
    finally:
        process.kill()
        process.join()


def report(rows: list[dict[str, Any]]) -> None:
    """Print the counts of each kind of file."""
    print(f"\n{'file':18} {'mutations':>9} {'readable':>8} {'noted':>6} {'wrong':>6}  what")
    for name in [*dict.fromkeys(row["file"] for row in rows), "all"]:
        mine = [row for row in rows if name in (row["file"], "all")]
        readable = [row for row in mine if row.get("frames")]
        noted = sum(row["damage"] is not None for row in readable)
        wrong = [row for row in mine if row["wrong"]]
        what = Counter(kind for row in wrong for kind in row["wrong"])
        text = ", ".join(f"{kind} {count}" for kind, count in what.most_common())
        print(f"{name:18} {len(mine):9} {len(readable):8} {noted:6} {len(wrong):6}  {text}")


def main() -> None:
    """Read mutated files, and report those that depend on the order of access."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, help="file whose first frames are encoded")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--count", type=int, default=1500, help="mutations (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    parser.add_argument(
        "--only", nargs="*", default=[], help="kinds of files whose name contains one of these"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with Video(options.video) as video:
        images = video.frames_at(range(min(len(video), FRAMES)))
    sources: dict[str, bytes] = {}
    for name, (codec, pixels, codec_options) in KINDS.items():
        if options.only and not any(part in name for part in options.only):
            continue
        source = options.out / name
        if not source.exists():
            encode(source, images, codec, pixels, codec_options)
        sources[name] = source.read_bytes()
    results = options.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["file"], row["seed"]) for row in rows}
    names = list(sources)
    with results.open("a") as file:
        for number in range(options.count):
            name, seed = names[number % len(names)], options.seed * 1_000_000 + number
            if (name, seed) in done:
                continue
            path = options.out / f"{seed}-{name}"
            path.write_bytes(mutate(sources[name], random.Random(f"{name} {seed}")))
            row = {"file": name, "seed": seed, **isolated(path, seed)}
            if not row["wrong"]:
                path.unlink()
            else:
                print(json.dumps(row), flush=True)
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
    report(rows)


if __name__ == "__main__":
    main()
