"""Outcomes of the FFmpeg command line for the odd videos, to compare with.

python tests/video/ffmpeg_outcomes.py $T3D_REAL_DATA > tests/video/ffmpeg_outcomes.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDERS = ("odd_videos", "reported")
SECONDS = 120  # for one file


def outcome(path: Path) -> dict[str, object]:
    """Decode the video stream that FFmpeg chooses.

    Returns:
        The number of frames, and the number of errors that FFmpeg prints.
    """
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-an", "-sn", "-dn"]
    command += ["-fps_mode", "passthrough", "-f", "framemd5", "-"]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    frames = [line for line in done.stdout.splitlines() if line and not line.startswith(b"#")]
    return {"frames": len(frames), "errors": len(done.stderr.splitlines())}


def main(data: Path) -> None:
    """Print the outcomes of all files, one per line."""
    banner = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    version = banner.split()[2]
    lines = [f'"version": {json.dumps(version)}']
    for folder in FOLDERS:
        for path in sorted((data / folder).rglob("*")):
            if path.is_file() and path.suffix != ".md":
                name = str(path.relative_to(data))
                lines.append(f"{json.dumps(name)}: {json.dumps(outcome(path))}")
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
