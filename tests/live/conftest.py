"""Streams for the tests of `t3d.live`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch


def _write_stream(
    path: Path,
    frames: torch.Tensor,
    *,
    fps: int = 10,
    form: str | None = None,
    begin: int = 0,
    keep: Callable[[av.Packet], bool] = lambda _: True,
    **options: str,
) -> Path:
    """Write frames uint8 T C H W as H.264 with a key frame per second."""
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height = frames.shape[3], frames.shape[2]
        stream.pix_fmt, stream.gop_size = "yuv420p", fps
        for number, image in enumerate(frames.permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = begin + number
            container.mux([packet for packet in stream.encode(frame) if keep(packet)])
        container.mux([packet for packet in stream.encode(None) if keep(packet)])
    return path


@pytest.fixture(scope="session")
def write_stream() -> Callable[..., Path]:
    """Writer of frames uint8 T C H W with a key frame per second: `write_stream(path, frames, fps=10)`."""
    return _write_stream


@pytest.fixture(scope="session")
def segments(
    tmp_path_factory: pytest.TempPathFactory, numbered_frames: Callable[..., torch.Tensor]
) -> dict[str, bytes]:
    """Playlist `all.m3u8` and six segments `0.ts` of one second, 10 frames each."""
    folder = tmp_path_factory.mktemp("segments")
    names = str(folder / "%d.ts")
    _write_stream(
        folder / "all.m3u8",
        numbered_frames(60),
        form="hls",
        hls_time="1",
        hls_list_size="0",
        hls_segment_filename=names,
    )
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Runs in the system's Python, which has the bindings of GStreamer.
_RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer as Rtsp
Gst.init(None)
for name in ("qtdemux", "h264parse", "rtph264pay"):
    if Gst.ElementFactory.find(name) is None:
        sys.exit(f"GStreamer has no element {name}")
if len(sys.argv) == 1:
    sys.exit(0)
server = Rtsp.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
auth, token = Rtsp.RTSPAuth(), Rtsp.RTSPToken()
token.set_string("media.factory.role", "user")
auth.add_basic(Rtsp.RTSPAuth.make_basic("me", "secret"), token)
server.set_auth(auth)
factory = Rtsp.RTSPMediaFactory()
factory.set_launch(f"( filesrc location={sys.argv[1]} ! qtdemux ! h264parse ! rtph264pay name=pay0 )")
permissions = Rtsp.RTSPPermissions()
for name in ("access", "construct"):
    permissions.add_permission_for_role("user", f"media.factory.{name}", True)
factory.set_permissions(permissions)
server.get_mount_points().add_factory("/film", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.timeout_add_seconds(300, sys.exit)
GLib.MainLoop().run()
"""
_SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture
def rtsp_url() -> Iterator[Callable[[Path], str]]:
    """Start an RTSP server on loopback that sends a file: `rtsp_url(path)`. User `me`, password `secret`."""
    command = [_SYSTEM_PYTHON, "-c", _RTSP_SERVER]
    missing = "no Python in /usr/bin"
    if Path(_SYSTEM_PYTHON).exists():
        missing = subprocess.run(command, capture_output=True, text=True, check=False).stderr[-300:]
    if missing:
        message = f"needs the Debian packages that .ci/run installs: {missing}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    servers = []

    def start(path: Path) -> str:
        server = subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout is not None
        return f"rtsp://me:secret@127.0.0.1:{int(server.stdout.readline())}/film"

    yield start
    for server in servers:
        server.kill()
        server.communicate()
