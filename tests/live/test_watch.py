"""`t3d watch` from the source to the printed lines: the numbers are those of `t3d predict`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.transforms import normalize
from t3d.device import Compute
from t3d.errors import DivergedError, VideoError
from t3d.evaluation.parts import Part
from t3d.evaluation.predictor import Predictor
from t3d.live.config import WatchConfig
from t3d.live.run import LiveResult, Summary, Watch
from t3d.live.scorer import clip_scorer
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.runtime.exported import ExportedModel
from t3d.runtime.stamp import Stamp

CLASSES = ("a", "b", "c")
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
PLAIN = Compute(precision="fp32", workers=0, batch_size=1)


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    numbered_frames: Callable[..., torch.Tensor],
    write_stream: Callable[..., Path],
) -> Path:
    """Two models, and a film of 1.5 s at 20 frames per second."""
    root = tmp_path_factory.mktemp("home")
    for name, spec in {
        "stride": ClipSpec(num_frames=4, stride=2, size=32, resize=40),
        "fps": ClipSpec(num_frames=4, fps=8, size=32, resize=40),
    }.items():
        torch.manual_seed(0)
        net = create_model("densenet3d_tiny", num_classes=3, options=SMALL)
        torch.nn.init.normal_(net.get_classifier().weight, std=3.0)
        card = ModelCard("densenet3d_tiny", SMALL, classes=CLASSES, clip=spec)
        save_model(net, root / f"{name}.safetensors", card=card)
    write_stream(root / "film.mp4", numbered_frames(30), fps=20)
    return root


def check(results: list[dict[str, Any]], home: Path, name: str) -> None:
    """Compare results of the film with predictions of the same time spans."""
    predictor = Predictor(home / f"{name}.safetensors", compute=PLAIN)
    spec = predictor.card.clip
    assert results
    for result in results:
        # A clip by time ends 1 / fps after its last time; one by frames ends with its last frame.
        end = result["end"] + (1 / spec.fps if spec.fps else 1 / 20)
        (expected,) = predictor.many([Part(str(home / "film.mp4"), result["start"], end)])
        assert expected.clips == 1
        probs = dict(zip(expected.classes, expected.probs, strict=True))
        assert result["classes"] == pytest.approx(probs, abs=1e-4)
        assert list(result["classes"]) == list(expected.classes)


def test_the_scores_are_those_of_a_prediction(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--json", "--precision", "fp32", "--device", "cpu"]
    assert main(["watch", str(home / "fps.safetensors"), str(home / "film.mp4"), *words]) == 0
    shown = capsys.readouterr()
    results = [json.loads(line) for line in shown.out.splitlines()]
    check(results, home, "fps")
    assert {result["connection"] for result in results} == {1}
    assert all(result["latency"] >= 0 for result in results)
    err = shown.err.splitlines()
    assert err[0].endswith("film.mp4: connected: 80 × 48, 20 frames per second, h264")
    assert err[1].endswith("film.mp4: the source has ended")
    assert err[2].startswith(f"t3d: {len(results)} clips in ")
    assert "; 30 frames, " in err[2]


@pytest.mark.slow
def test_overlapping_clips_by_stride_from_standard_input(home: Path) -> None:
    """The pipe is read by another process than the one that it was given to."""
    words = [str(home / "stride.safetensors"), "-", "--every", "0.05", "--json", "--precision", "fp32"]
    ts = home / "film.ts"
    if not ts.exists():
        import av

        with av.open(str(home / "film.mp4")) as source, av.open(str(ts), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    with ts.open("rb") as stdin:
        run = subprocess.run(
            [sys.executable, "-m", "t3d", "watch", *words], stdin=stdin, capture_output=True, check=False
        )
    assert run.returncode == 0, run.stderr
    check([json.loads(line) for line in run.stdout.splitlines()], home, "stride")


class Linear(ExportedModel):
    """An exported model that needs no runtime."""

    runtime = "onnx"

    def __init__(self, card: ModelCard) -> None:
        super().__init__(Path("x.onnx"), card, Stamp("fp32", "", ""), precision="fp32")

    def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return clips.mean(axis=(2, 3, 4))


@pytest.mark.parametrize("targets", ["single", "multi"])
def test_an_exported_model_gives_the_probabilities_of_a_network(
    targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard("t3d_tiny", {}, CLASSES, ClipSpec(num_frames=4, size=8, resize=8), targets=targets)
    clip = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with clip_scorer(Linear(card), card, PLAIN) as scorer:
        probs = scorer(clip)
    scores = normalize(torch.from_numpy(clip).permute(0, 3, 1, 2)[None], card.clip).mean((2, 3, 4)).double()
    expected = scores.softmax(1) if targets == "single" else scores.sigmoid()
    np.testing.assert_allclose(probs, expected[0], atol=1e-6)
    model = Linear(card)
    monkeypatch.setattr(model, "_run", lambda _: np.full((1, 3), np.nan, np.float32))
    with clip_scorer(model, card, PLAIN) as scorer, pytest.raises(DivergedError, match="not finite"):
        scorer(clip)


def result(**values: Any) -> LiveResult:
    given = {"time": 0.0, "start": 1.0, "end": 2.0, "classes": CLASSES, "probs": (0.5, 0.3, 0.2)}
    return LiveResult(**(given | {"latency": 0.25, "dropped": 3, "connection": 2} | values))


def test_lines_and_summary() -> None:
    assert result().to_json(2)["classes"] == {"a": 0.5, "b": 0.3}
    assert "targets" not in result().to_json(2)
    assert result(targets="multi").to_json(1)["targets"] == "multi"
    summary = Summary(125, clips=5, frames=900, dropped=7, connections=2, latencies=deque([0.1, 0.2, 0.9]))
    assert str(summary) == (
        "5 clips in 2 min 5 s; 900 frames, 7 dropped; connected 2 times; "
        "latency 0.20 s (median), 0.90 s (maximum)"
    )
    assert str(Summary(1.26)) == "0 clips in 1.3 s; 0 frames, 0 dropped"


def test_time_is_over_and_no_clip_was_classified(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing listens at this address."""
    words = ["--max-seconds", "0.3", "--precision", "fp32"]
    url = "rtsp://me:secret@127.0.0.1:9/1"
    assert main(["watch", str(home / "fps.safetensors"), url, *words]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "0 clips in 0." in shown.err
    assert "secret" not in shown.err


def test_ctrl_c_ends_with_a_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(watch: Watch, stopped: Callable[[], bool]) -> Any:
        watch.summary.seconds, watch.summary.clips = 1.0, 1
        yield result()
        os.kill(os.getpid(), signal.SIGINT)
        while not stopped():
            pass

    monkeypatch.setattr(Watch, "results", results)
    assert main(["watch", "absent", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split("\t")[1:] == ["a 50.0%", "b 30.0%", "c 20.0%", "latency 0.25 s", "dropped 3\n"]
    assert shown.err == "t3d: 1 clip in 1.0 s; 0 frames, 0 dropped\n"


@pytest.mark.slow
def test_a_live_playlist_whose_server_restarts(home: Path, site: Any, segments: dict[str, bytes]) -> None:
    """The reading process is killed, too. Results continue, and memory does not grow."""
    for name, content in segments.items():
        site.put(f"/{name}", content)
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0", "#EXTINF:1,", "0.ts"]
    page = site.put("/live.m3u8", "\n".join([*lines, ""]).encode())
    timer = threading.Event()

    def publish() -> None:
        for number in range(1, 6):
            timer.wait(1)
            lines.extend(["#EXTINF:1,", f"{number}.ts"])
            page.content = "\n".join([*lines, ""]).encode()

    thread = threading.Thread(target=publish)
    thread.start()
    notes: list[str] = []
    config = WatchConfig(
        str(home / "fps.safetensors"), site.url("/live.m3u8"), precision="fp32", max_seconds=60
    )
    watch = Watch(config, note=notes.append)
    connections = []
    results = watch.results(lambda: len(set(connections)) == 2)
    for each in results:
        if len(connections) < 2:
            (child,) = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
            child.kill() if connections else child.terminate()  # SIGTERM is ignored
        connections.append(each.connection)
    thread.join()
    assert set(connections) == {1, 2}
    assert not any("SIGTERM" in note for note in notes)
    assert any("was killed by SIGKILL" in note and "retry 1 of 10 in 1 s" in note for note in notes), notes
    assert watch.summary.connections == 2


@pytest.mark.slow
def test_rtsp(
    home: Path,
    rtsp_url: Callable[[Path], str],
    numbered_frames: Callable[..., torch.Tensor],
    write_stream: Callable[..., Path],
) -> None:
    """A server of GStreamer on loopback sends a film. A wrong password is not tried again."""
    film = write_stream(home / "long.mp4", numbered_frames(200), fps=20)
    url = rtsp_url(film)
    notes: list[str] = []
    config = WatchConfig(str(home / "fps.safetensors"), url, precision="fp32", every=0.2, max_seconds=60)
    results: list[dict[str, Any]] = []
    for each in Watch(config, note=notes.append).results(lambda: len(results) == 5):
        results.append(each.to_json(3))
    assert len(results) == 5, notes
    # Times count from the first frame that arrived, so the start in the film is unknown.
    predictor = Predictor(home / "fps.safetensors", compute=PLAIN)
    predictions = list(predictor.many([Part(str(film), at / 40, at / 40 + 0.5) for at in range(300)]))
    for each in results:
        expected = [dict(zip(other.classes, other.probs, strict=True)) for other in predictions]
        assert any(each["classes"] == pytest.approx(other, abs=1e-4) for other in expected)
    assert "connected: 80 × 48" in notes[0]
    wrong = replace(config, source=url.replace("secret", "geheim"))
    with pytest.raises(VideoError, match=r"^rtsp://127\.0\.0\.1:\d+/film: .*\(401\)") as caught:
        list(Watch(wrong, note=notes.append).results())
    assert "secret" not in str([notes, caught.value])
    assert "geheim" not in str([notes, caught.value])
