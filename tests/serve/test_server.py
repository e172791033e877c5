"""A server as users start it, on loopback, with plain HTTP clients."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from t3d.evaluation.predictor import Predictor
from t3d.serve.folder import delete_orphans

from .conftest import CLASSES, Served, make_film

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def server(start_server: Start, examples: Path) -> Iterator[Served]:
    """A server with tight bounds, for all tests that do not end it."""
    bounds = ("--max-mb", "2", "--max-seconds", "60", "--max-megapixels", "4", "--upload-timeout", "2")
    with start_server("--examples", str(examples), *bounds) as started:
        yield started


def send(client: httpx.Client, file: Path | bytes, name: str = "film.mp4", **query: object) -> httpx.Response:
    content = file.read_bytes() if isinstance(file, Path) else file
    return client.post("api/predict", params={"wait": 1, **query}, files={"video": (name, content)})


def visitor(server: Served) -> httpx.Client:
    """A client with the headers of a browser, which has seen the page and has its cookie."""
    browser = {"Sec-Fetch-Site": "same-origin", "Origin": server.url.rstrip("/")}
    return server.client(headers=browser, cookies=httpx.get(server.url, headers=browser).cookies)


def cookie_of(client: httpx.Client) -> str:
    (value,) = {cookie.value for cookie in client.cookies.jar if cookie.name.startswith("t3d_visitor_")}
    assert value is not None
    return value


def raw(server: Served, request: bytes) -> bytes:
    """Send bytes, and return the answer until the server closes the connection."""
    host, port = server.url.removeprefix("http://").strip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request.replace(b"HOST", f"{host}:{port}".encode()))
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


# --- the result -----------------------------------------------------------------------------------------


def test_the_result_is_that_of_predict(server: Served, model: Path, film: Path) -> None:
    predictor = Predictor(model, per_clip=True)
    prediction, timeline = predictor(film), predictor.predict_timeline(film)
    with server.client() as client:
        answer = send(client, film)
        assert answer.status_code == 200, answer.text
        job = answer.json()
        result = job["result"]
        assert result["classes"] == pytest.approx(dict(prediction.top(3)), abs=1e-4)
        assert list(result["classes"]) == list(prediction.classes)
        assert result["clips"] == prediction.clips == len(result["per_clip"]) == 4
        assert result["segments"] == timeline.to_dict()["segments"]
        assert result["segments"]
        assert "path" not in answer.text
        assert job["video"] | {"media_type": "video/mp4"} == job["video"]
        assert (job["video"]["seconds"], job["video"]["width"], job["video"]["height"]) == (3, 80, 64)
        assert job["name"] == "film.mp4"
        assert client.get(f"api/jobs/{job['id']}").json() == job


def test_progress_is_reported_and_a_deleted_video_is_stopped(server: Served, tmp_path: Path) -> None:
    long = make_film(tmp_path / "long.mp4", length=500)
    process = scoring_process(server)
    with server.client() as client:
        jobs = [
            client.post("api/predict", files={"video": ("a.mp4", long.read_bytes())}).json() for _ in range(3)
        ]
        assert all(job["state"] in ("waiting", "working") for job in jobs)
        places = [client.get(f"api/jobs/{job['id']}").json()["position"] for job in jobs]
        assert places == sorted(places)
        shares = [0.0]
        while (state := client.get(f"api/jobs/{jobs[0]['id']}").json())["state"] != "done":
            shares.append(state["progress"])
        assert shares == sorted(shares)
        assert client.delete(f"api/jobs/{jobs[1]['id']}").status_code == 204  # it may be at work
        assert client.delete(f"api/jobs/{jobs[2]['id']}").status_code == 204
        assert client.get(f"api/jobs/{jobs[2]['id']}").status_code == 404
        assert client.get("healthz").json()["waiting"] == 0
        assert client.get(f"api/jobs/{jobs[0]['id']}?brief=1").json()["result"] is None
    assert client_works(server)
    assert scoring_process(server) == process  # it was not killed, so the model is not loaded again


def scoring_process(server: Served) -> int:
    """Return the id of the process that has the model."""
    children = psutil.Process(server.process.pid).children()
    (scorer,) = [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    return scorer


def test_the_video_is_played_again_in_ranges(server: Served, film: Path) -> None:
    content = film.read_bytes()
    with server.client() as client:
        address = send(client, film).json()["file"]
        whole, part = client.get(address), client.get(address, headers={"Range": "bytes=10-19"})
        assert whole.content == content
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["accept-ranges"] == "bytes"
        assert (part.status_code, part.content) == (206, content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
        assert "sandbox" in part.headers["content-security-policy"]


def test_an_annotated_video_is_drawn_on_demand(server: Served, film: Path, tmp_path: Path) -> None:
    with server.client() as client:
        job = send(client, film).json()
        assert client.get(f"api/jobs/{job['id']}/annotated").status_code == 409
        answer = client.post(f"api/jobs/{job['id']}/annotated", params={"wait": 1})
        assert answer.status_code == 200
        written = client.get(answer.json()["steps"]["annotated"]["file"])
        (tmp_path / "a.mp4").write_bytes(written.content)
        with av.open(str(tmp_path / "a.mp4")) as drawn, av.open(str(film)) as original:
            assert drawn.streams.video[0].codec_context.name == "h264"
            pairs = zip(drawn.decode(video=0), original.decode(video=0), strict=True)
            changed = [
                np.abs(a.to_ndarray().astype(int) - b.to_ndarray().astype(int)).mean() for a, b in pairs
            ]
        assert len(changed) == 30
        assert min(changed) > 2
        wrong = [client.post(f"api/jobs/{job['id']}/elsewhere"), client.post("api/predict?wait=banana")]
        assert [each.status_code for each in wrong] == [422, 422]
        assert [list(each.json()) for each in wrong] == [["error"], ["error"]]
        assert "banana" not in wrong[1].text


def test_a_decision_is_explained_on_demand(server: Served, film: Path, model: Path, tmp_path: Path) -> None:
    from t3d.explanation.explainer import explain

    explanation = explain(model, film)
    with server.client() as client:
        assert client.get("api/model").json()["steps"] == ["annotated", "explained"]
        job = send(client, film).json()
        answer = client.post(f"api/jobs/{job['id']}/explained", params={"wait": 1})
        facts = answer.json()["steps"]["explained"]["facts"]
        assert facts["label"] == explanation.label == next(iter(job["result"]["classes"]))
        shares = [each["share"] for each in facts["depths"]]
        assert shares == pytest.approx([each.share for each in explanation.depths], abs=1e-3)
        assert shares
        assert "path" not in answer.text
        written = client.get(answer.json()["steps"]["explained"]["file"])
    (tmp_path / "heat.mp4").write_bytes(written.content)
    with av.open(str(tmp_path / "heat.mp4")) as heat:
        assert heat.streams.video[0].codec_context.name == "h264"


def test_sound_that_browsers_do_not_play_is_left_out(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "sound.avi"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number in range(16):
            image = np.full((64, 64, 3), number * 10, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 8000, number * 800
            container.mux(sound.encode(samples))
        container.mux(pictures.encode(None))
    with server.client() as client:
        job = send(client, path, "sound.avi").json()
        assert job["video"]["media_type"] == "video/x-msvideo"
        done = client.post(f"api/jobs/{job['id']}/annotated", params={"wait": 1}).json()["steps"]["annotated"]
        assert (done["state"], done["facts"]) == ("done", {"frames": 16, "sound": []})


def test_an_example_is_classified_like_an_upload(server: Served, model: Path, examples: Path) -> None:
    name = "<i>one & two.mp4"
    with server.client() as client:
        assert client.get("api/model").json()["examples"] == [name]
        job = client.post("api/predict", params={"example": name, "wait": 1}).json()
        assert job["result"]["classes"] == pytest.approx(
            dict(Predictor(model)(examples / name).top(3)), abs=1e-4
        )
        assert client.get(job["file"]).content == (examples / name).read_bytes()
        for wrong in ("notes.txt", "../served/model.safetensors", "", "%2e%2e/notes.txt", "a\0b"):
            answer = client.post("api/predict", params={"example": wrong})
            assert (answer.status_code, "no such example" in answer.json()["error"]) == (404, True), wrong
        for wrong in ("notes.txt", "..%2fnotes.txt", "..%2F..%2Fetc%2Fpasswd"):
            assert client.get(f"api/examples/{wrong}").status_code == 404
        assert client.delete(f"api/jobs/{job['id']}").status_code == 204
    assert (examples / name).exists()


def test_the_api_describes_itself_without_other_sites(server: Served) -> None:
    with server.client() as client:
        paths = client.get("openapi.json").json()["paths"]
        page = client.get("docs")
        assert set(paths) >= {"/api/predict", "/api/jobs/{job_id}", "/api/model", "/healthz"}
        assert all(path in page.text for path in paths)
        for address in ("", "docs", "static/serve.js", "static/serve.css"):
            text = client.get(address).text
            assert "https://" not in text, address
            assert "<script>" not in text, address
        for address in ("static/serve.html", "static/..%2fbase.html", "nowhere"):
            assert client.get(address).status_code == 404
        assert client.get("healthz").json() == {"status": "ok", "waiting": 0, "working": 0}


# --- bad files ------------------------------------------------------------------------------------------


def _huge() -> bytes:
    """A small file whose frames are huge."""
    return write_gray(Path("huge.mp4"), length=1, height=8192, width=8192).read_bytes()


def _long() -> bytes:
    return write_gray(Path("long.mp4"), length=70, fps=1).read_bytes()


def write_gray(
    path: Path, *, length: int, fps: int = 10, height: int = 32, width: int = 32, **options: str
) -> Path:
    """A video that is quickly written, however long it is."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        image = np.full((height * 3 // 2, width), 128, np.uint8)
        for _ in range(length):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def _endless() -> bytes:
    """A long video whose header has no duration, as a recorder writes that is cut off."""
    path = Path("endless.mkv")
    write_gray(path, length=70, fps=1, live="1")
    return path.read_bytes()


def _sound() -> bytes:
    path = Path("sound.mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path.read_bytes()


def _rare() -> bytes:
    """A codec that FFmpeg decodes but the server does not accept."""
    path = Path("rare.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), format="yuv420p")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path.read_bytes()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "page": (lambda: b"<!doctype html><html><script>alert(1)</script></html>", "is not a video"),
    "noise": (lambda: bytes(range(256)) * 40, "is not a video"),
    "huge": (_huge, "has frames of 8192 × 8192 pixels"),
    "long": (_long, "has 70 seconds; this server accepts at most 60"),
    "endless": (_endless, "has 70 seconds; this server accepts at most 60"),
    "sound": (_sound, "has no pictures"),
    "rare": (_rare, "has video in the codec ffv1, which this server does not accept"),
    "zip": (lambda: b"PK\x03\x04" + bytes(1000), "is not a video"),
    "picture": (lambda: b"P6 4 4 255\n" + bytes(48), "is not a video"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_has_a_clear_message(
    name: str, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = BAD[name]
    before = server.uploads()
    with server.client() as client:
        answer = send(client, make())
        job = answer.json()
        assert (answer.status_code, job["state"]) == (422, "failed")
        assert job["error"].startswith("This file ")
        assert message in job["error"]
        assert job["error"].endswith(".")
        assert "/" not in job["error"].replace("-c:v", "")  # no path
        assert client.get(f"api/jobs/{job['id']}/video").status_code == 409
    assert server.uploads() == before
    assert client_works(server)


def client_works(server: Served) -> bool:
    """Return whether a good video is classified."""
    with server.client() as client:
        name = client.get("api/model").json()["examples"][0]
        answer = client.post("api/predict", params={"example": name, "wait": 1})
        return bool(answer.json()["state"] == "done")


def test_a_truncated_file_is_refused_or_read_as_far_as_it_goes(server: Served, tmp_path: Path) -> None:
    path = write_gray(tmp_path / "a.mp4", length=30)
    content = path.read_bytes()
    with server.client() as client:
        job = send(client, content[:300]).json()  # within the header
        assert (job["state"], job["error"][:10]) == ("failed", "This file ")
        job = send(client, content[: len(content) * 2 // 3]).json()  # the index at the end is missing
        assert (job["state"], job["error"][:10]) == ("failed", "This file ")
        stream = write_gray(tmp_path / "a.ts", length=30).read_bytes()
        job = send(client, stream[: len(stream) * 2 // 3]).json()
        assert job["state"] == "done"
        assert 0 < job["video"]["seconds"] < 3


def test_a_cover_picture_is_not_decoded(server: Served, tmp_path: Path) -> None:
    path, cover = write_gray(tmp_path / "a.mp4", length=10), tmp_path / "cover.mkv"
    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, "png")
    with av.open(str(path)) as source, av.open(str(cover), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        container.add_attachment("cover.png", "image/png", image.getvalue())
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
    with av.open(str(cover)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["h264", "png"]
    with server.client() as client:
        job = send(client, cover).json()
        assert (job["state"], job["error"], job["video"]["codec"]) == ("done", None, "h264")


def test_a_playlist_opens_no_other_file_or_address(server: Served, film: Path, web_listener: Any) -> None:
    """Neither a file of this machine nor an address is opened, whatever the file names."""
    playlists = [
        f"#EXTM3U\n#EXTINF:3,\n{film}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{web_listener.url}a.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{film}'\n",
        f"ffconcat version 1.0\nfile '{web_listener.url}a.mp4'\n",
        f'<?xml version="1.0"?><MPD><Period><BaseURL>{web_listener.url}</BaseURL></Period></MPD>',
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {web_listener.port} RTP/AVP 96\n",
    ]
    with server.client() as client:
        for text in playlists:
            for name in ("list.m3u8", "list.mp4", "list.ffconcat", "list.ts"):
                job = send(client, text.encode(), name).json()
                assert job["state"] == "failed", text
                assert "is not a video" in job["error"], text
    assert web_listener.count == 0


class _Listener:
    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.count = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def web_listener() -> Iterator[_Listener]:
    """Counts connections."""
    listener = _Listener()
    yield listener
    listener.close()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("..\\..\\a.mp4", "a.mp4"),
        ("a\0b.mp4", "a\\x00b.mp4"),
        ("x" * 300 + ".mp4", f"{'x' * 49}…{'x' * 45}.mp4"),
        ("<script>alert(1)</script>.mp4", "script>.mp4"),
        ('"><img src=x onerror=alert(1)>', '"><img src=x onerror=alert(1)>'),
        ("🎬 film.mp4", "🎬 film.mp4"),
        ("\u202egpm.4pm", "\\u202egpm.4pm"),
    ],
)
def test_the_name_of_a_file_is_only_shown(name: str, shown: str, server: Served, film: Path) -> None:
    from t3d.serve.upload import display_name

    assert display_name(name) == shown
    boundary = b"----b"
    escaped = name.encode().replace(b"\\", b"\\\\").replace(b'"', b"%22")
    body = b'--%b\r\nContent-Disposition: form-data; name="video"; filename="%b"\r\n\r\n%b\r\n--%b--\r\n' % (
        boundary,
        escaped,
        film.read_bytes(),
        boundary,
    )
    with server.client() as client:
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
        answer = client.post("api/predict", params={"wait": 1}, content=body, headers=headers)
    if "\0" not in name:  # a strict reader of forms may refuse it
        assert answer.json()["state"] == "done"
        assert answer.json()["name"] == display_name(name)
    names = {path.name for folder in server.folders() for path in folder.rglob("*") if path.is_file()}
    assert names <= {".lock", "video", "annotated.mp4", "explained.mp4"}
    assert server.error_file.read_text().count("Traceback") == 0


# --- bounds of an upload --------------------------------------------------------------------------------


def test_an_upload_has_a_largest_size(server: Served) -> None:
    before = server.uploads()
    with server.client() as client:
        answer = send(client, bytes(3_000_000))
        assert (answer.status_code, "larger than 2 MB" in answer.json()["error"]) == (413, True)
    head = (
        b"POST /api/predict HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    start = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    blocks = [start, *[bytes(100_000)] * 20, bytes(10)]  # without a length, and without an end
    answer = raw(server, head + b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks))
    assert answer.startswith(b"HTTP/1.1 413")
    assert server.uploads() == before


@pytest.mark.parametrize("length", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_slow_or_cut_upload_leaves_nothing(length: bytes, server: Served) -> None:
    before = server.uploads()
    head = (
        b"POST /api/predict HTTP/1.1\r\nHost: HOST\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n%b\r\n\r\n" % length
    )
    start = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\nxxxx'
    if length.startswith(b"T"):
        start = b"%x\r\n%b\r\n" % (len(start), start)
    answer = raw(server, head + start)  # and then nothing: the time limit ends it
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"took longer than 2 s" in answer
    assert server.uploads() == before


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b"hello", 415, "curl -F video=@FILE"),
        ("multipart/form-data", b"hello", 415, "curl -F video=@FILE"),
        ("multipart/form-data; boundary=b", b"hello", 400, "damaged"),
        ("multipart/form-data; boundary=b", b"", 400, "cut off"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422, "no file"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--b--\r\n',
            422,
            "no file",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n\r\n--b--\r\n',
            422,
            "empty",
        ),
        (f"multipart/form-data; boundary={'b' * 300}", b"", 400, "damaged"),
    ],
)
def test_a_wrong_form_is_explained(kind: str, body: bytes, status: int, message: str, server: Served) -> None:
    before = server.uploads()
    with server.client() as client:
        answer = client.post("api/predict", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert server.uploads() == before


# --- visitors and other sites ---------------------------------------------------------------------------


def test_a_visitor_cannot_see_the_video_of_another(server: Served, film: Path) -> None:
    browser = {"Sec-Fetch-Site": "same-origin", "Origin": server.url.rstrip("/")}
    with visitor(server) as one, server.client(headers=browser) as two, server.client() as none:
        answer = send(one, film)
        cookie = answer.headers["set-cookie"].lower()
        assert all(word in cookie for word in ("httponly", "samesite=strict", "t3d_visitor_"))
        send(two, film)  # without the page before
        job = answer.json()
        assert cookie_of(one) != cookie_of(two)
        assert len(cookie_of(one).partition(".")[0]) == len(job["id"]) == 22  # 128 bits
        odd = none.get(f"api/jobs/{job['id']}", headers={"Cookie": f"{cookie.partition('=')[0]}=é".encode()})
        assert odd.status_code == 404
        for address in (f"api/jobs/{job['id']}", job["file"], f"api/jobs/{job['id']}/annotated"):
            assert one.get(address).status_code != 404
            assert two.get(address).status_code == none.get(address).status_code == 404
            assert two.get(address).json() == none.get("api/jobs/0").json()
        assert two.delete(f"api/jobs/{job['id']}").status_code == 404
        assert two.post(f"api/jobs/{job['id']}/annotated").status_code == 404
        assert one.get(f"api/jobs/{job['id']}").status_code == 200


def test_a_proxy_with_https_makes_cookies_secure(server: Served, examples: Path) -> None:
    (example,) = examples.glob("*.mp4")
    host = server.url.removeprefix("http://").strip("/")
    browser = {"Sec-Fetch-Site": "same-origin", "Origin": f"https://{host}"}
    with server.client(headers=browser) as client:
        for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
            answer = client.post("api/predict", params={"example": example.name}, headers=headers)
            assert answer.status_code == 202
            assert ("secure" in answer.headers["set-cookie"].lower()) is secure


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_another_site_cannot_post(headers: dict[str, str], server: Served, film: Path) -> None:
    with server.client(headers=headers) as client:
        assert send(client, film).status_code == 403
        assert client.delete("api/jobs/0").status_code == 403
        assert client.post("login", content="token=x").status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "a:b:c", ""]
)
def test_another_name_of_the_host_is_refused(host: str, server: Served) -> None:
    with server.client() as client:
        for address in ("", "api/model", "healthz", "static/serve.js"):
            assert client.get(address, headers={"Host": host}).status_code == 421
        port = server.url.rpartition(":")[2].strip("/")
        for right in ("localhost", f"LOCALHOST:{port}", f"[::1]:{port}"):
            assert client.get("healthz", headers={"Host": right}).status_code == 200


@pytest.mark.parametrize(
    "address", ["", "docs", "api/model", "healthz", "static/serve.js", "nowhere", "api/jobs/0"]
)
def test_every_answer_has_the_headers(address: str, server: Served) -> None:
    with server.client() as client:
        headers = client.get(address).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == ("same-origin" if address else "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_page_escapes_names_of_classes(server: Served) -> None:
    with server.client() as client:
        text = client.get("").text
    assert "坐 &lt;b&gt;bold&lt;/b&gt;" in text
    assert CLASSES[2] not in text


def test_many_visitors_at_the_same_time_get_their_own_results(
    server: Served, tmp_path: Path, model: Path
) -> None:
    films = [make_film(tmp_path / f"{seed}.mp4", length=12, seed=seed) for seed in range(4)]
    right = [dict(Predictor(model)(path).top(3)) for path in films]

    def visit(number: int) -> dict[str, float]:
        with visitor(server) as client:
            result: dict[str, float] = send(client, films[number % 4]).json()["result"]["classes"]
            return result

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(visit, range(12)))
    assert all(result == pytest.approx(right[number % 4], abs=1e-4) for number, result in enumerate(results))


# --- servers with other options, and their end ----------------------------------------------------------


@pytest.mark.long
def test_bounds_of_time_and_of_the_queue(start_server: Start, tmp_path: Path) -> None:
    long = write_gray(tmp_path / "long.mp4", length=6000, fps=100).read_bytes()
    with start_server("--timeout", "0.3", "--queue", "2") as server:
        with server.client() as client:
            assert "took longer than 0.3 s" in send(client, long).json()["error"]
        clients = [visitor(server) for _ in range(5)]
        waiting = [each.post("api/predict", files={"video": ("a", long)}) for each in clients]
        assert [each.status_code for each in waiting][:2] == [202, 202]
        full = waiting[-1]
        assert (full.status_code, "Retry-After" in full.headers) == (503, True)
        assert "2 videos are waiting" in full.json()["error"]
        for client, each in zip(clients, waiting[:2], strict=False):
            client.delete(f"api/jobs/{each.json()['id']}")


def assert_expires(server: Served) -> None:
    end = threading.Event()
    for _ in range(600):
        if not server.uploads():
            return
        end.wait(0.1)
    raise AssertionError(server.uploads())


@pytest.mark.long
def test_memory_and_keeping_have_bounds_and_the_process_is_replaced(
    start_server: Start, film: Path, tmp_path: Path
) -> None:
    big = write_gray(tmp_path / "big.mp4", length=6, height=4096, width=4096)
    bounds = ("--max-memory-gb", "0.12", "--max-megapixels", "20", "--keep-minutes", "0.02")
    with start_server(*bounds) as server, server.client() as client:
        assert "more than 0.12 GB of memory" in send(client, big).json()["error"]
        job = send(client, film).json()  # of another process
        assert job["state"] == "done"
        assert client.get("healthz").json()["status"] == "ok"
        assert_expires(server)
        assert client.get(f"api/jobs/{job['id']}").status_code == 404


@pytest.mark.long
def test_a_token_is_needed_elsewhere(start_server: Start, film: Path) -> None:
    with start_server("--host", "0.0.0.0") as server:
        port = server.url.rpartition(":")[2].strip("/")
        server.url = f"http://127.0.0.1:{port}/"
        assert len(server.token) == 32
        with server.client() as client:
            assert client.get("healthz").status_code == 200
            assert client.get("static/serve.css").status_code == 200
            login = client.get("")
            assert (login.status_code, "Token" in login.text) == (401, True)
            for address in (
                "api/model",
                "docs",
                "openapi.json",
                "api/jobs/0",
                f"api/model?token={server.token}",
            ):
                answer = client.get(address)
                assert answer.status_code == 401, address
            assert send(client, film).status_code == 401
            for wrong in ("", "x", server.token[:-1], server.token + "x", "é" * 32):
                assert client.post("login", data={"token": wrong}).status_code == 401
            assert "t3d_token" not in str(client.cookies)
            assert client.post("login", content=b"x" * 5000).status_code == 413
        with server.client(headers={"Authorization": f"Bearer {server.token}"}) as client:
            assert send(client, film).status_code == 200
        with server.client() as client:  # once in the address, then a cookie
            page = client.get("", params={"token": server.token})
            assert (page.status_code, server.token in page.text + page.headers["set-cookie"]) == (200, False)
            assert client.get("api/model").status_code == 200
        with server.client() as client:
            assert client.post("login", data={"token": server.token}).status_code == 303
            assert client.get("").status_code == 200


@pytest.mark.long
def test_ctrl_c_ends_it_and_deletes_all_files(start_server: Start, film: Path) -> None:
    with start_server() as server:
        with server.client() as client:
            send(client, film)
            assert len(server.uploads()) == 1
        with ThreadPoolExecutor(1) as pool, server.client() as client:
            long = client.build_request(
                "POST", "api/predict", params={"wait": 1}, files={"video": ("a", film.read_bytes())}
            )
            answer = pool.submit(client.send, long)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(60) == 0
            with suppress(httpx.TransportError):  # it was cut off
                assert answer.result().status_code in (200, 503)  # finished in time, or stopped
        assert server.folders() == []
        assert "Traceback" not in server.error_file.read_text()


@pytest.mark.long
@pytest.mark.parametrize("step", ["predict", "annotated"])
def test_a_killed_server_leaves_nothing(
    step: str, start_server: Start, film: Path, tmp_path: Path, wait_until: Any
) -> None:
    long = write_gray(tmp_path / "long.mp4", length=3000, fps=100)
    with start_server() as server:
        with server.client() as client:
            if step == "predict":
                client.post("api/predict", files={"video": ("a.mp4", long.read_bytes())})
            else:
                job = send(client, film if step == "predict" else long).json()
                client.post(f"api/jobs/{job['id']}/annotated")
            wait_until(lambda: client.get("healthz").json()["working"] == 1)
        assert len(server.uploads()) == 1
        server.process.kill()
        server.process.wait()
        wait_until(lambda: server.folders() == [])


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_closed_terminal_leaves_nothing(
    number: signal.Signals, start_server: Start, film: Path, wait_until: Any
) -> None:
    with start_server() as server:
        with server.client() as client:
            send(client, film)
        os.killpg(server.process.pid, number)  # a terminal sends it to all processes
        assert server.process.wait(60) == 0
        wait_until(lambda: server.folders() == [])
        assert "Traceback" not in server.error_file.read_text()


@pytest.mark.long
def test_the_next_server_deletes_what_a_killed_group_left(
    start_server: Start, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_server() as server:
        with server.client() as client:
            send(client, film)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        assert len(server.folders()) == 1
        monkeypatch.setattr(tempfile, "tempdir", str(server.temporary))
        assert len(delete_orphans()) == 1
        assert server.folders() == []


def test_a_port_in_use_is_explained(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from t3d.cli.main import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is in use by another program" in capsys.readouterr().err


def test_json_of_a_result_is_plain(server: Served, film: Path) -> None:
    with server.client() as client:
        json.dumps(send(client, film).json(), allow_nan=False)
