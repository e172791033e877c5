from __future__ import annotations

import csv
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.views import FrameOrder, Views
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute, Precision
from t3d.errors import DivergedError, Failed, ManifestError, OutOfMemoryError, VideoError
from t3d.evaluation.figures import Majority
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import Scores
from t3d.evaluation.scores_table import write_scores
from t3d.evaluation.scoring import Processes, each_clip, score_videos
from t3d.evaluation.task import measure
from t3d.models.registry import create_model
from t3d.progress import Bar
from t3d.video.encode import write_video
from t3d.video.video import Video

SPEC = ClipSpec(num_frames=8, stride=1, size=16, resize=20)
CLASSES = ("jump", "run", "sit")


def batches(size: int, *, workers: int = 0, precision: Precision = "fp32") -> Compute:
    return Compute(batch_size=size, workers=workers, precision=precision)


class Mean(nn.Module):
    """Scores a clip by its mean color and by how it changes from its first frame to its last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 3)
        nn.init.normal_(self.head.weight, std=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = x.mean((3, 4))  # B C T
        return self.head(torch.cat([planes.mean(2), planes[..., -1] - planes[..., 0]], 1))


def manifest_of(paths: list[Path], labels: list[int | None]) -> Manifest:
    names = [str(path) for path in paths]
    label = pa.array(labels, pa.int32())
    seconds = pa.nulls(len(names), pa.float64())
    return Manifest(
        CLASSES, pa.table({"path": names, "label": label, "start": seconds, "end": seconds, "source": names})
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six films of changing colors, 5 to 45 frames; the fourth is broken, the last has no label."""
    folder = tmp_path_factory.mktemp("films")
    paths = []
    for i, length in enumerate((5, 8, 17, 20, 45, 30)):
        rng = np.random.default_rng(i)
        colors = np.cumsum(rng.normal(0, 12, size=(length, 3)), 0) + 128
        frames = np.repeat(colors.clip(0, 255).astype(np.uint8), 24 * 32, 1).reshape(length, 3, 24, 32)
        paths.append(write_video(folder / f"film {i}.mp4", frames))
    paths[3].write_bytes(b"broken")
    return manifest_of(paths, [0, 1, 2, 0, 1, None])


def slow_scores(model: nn.Module, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Clip probabilities and their mean, a clip and a frame at a time, without the pipeline."""
    with Video(path) as video:
        frames = video.frames_at(range(len(video)))
    small = nn.functional.interpolate(frames.float(), (20, 27), mode="bilinear", antialias=True)
    small = small.round().clamp(0, 255)[..., 2:18, 6:22]  # the 5.5 columns left and right: 6 and 5
    clips = []
    for first in range(0, max(len(small) - 7, 1), 8):
        clip = torch.stack([small[(first + k) % len(small)] for k in range(8)], 1)  # C T H W
        x = clip / 255
        for channel, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
            x[channel] = (x[channel] - mean) / std
        with torch.no_grad():
            logits = model(x[None])[0].double().numpy()
        exps = [math.exp(logit - max(logits)) for logit in logits]
        clips.append([e / sum(exps) for e in exps])
    return np.array(clips), np.array(clips).mean(0)


def test_a_video_scores_the_mean_of_its_clips(films: Manifest) -> None:
    model = Mean()
    scores = score_videos(model, films, Protocol(SPEC))
    assert scores.classes == CLASSES
    assert scores.paths == tuple(str(entry.path) for entry in films)
    assert scores.labels.tolist() == [0, 1, 2, 0, 1, -1]
    assert scores.clip_video.tolist() == [0, 1, 2, 2, 4, 4, 4, 4, 4, 5, 5, 5]
    for row, entry in enumerate(films):
        if row == 3:
            assert np.isnan(scores.video_probs[row]).all()
            continue
        clips, mean = slow_scores(model, entry.path)
        # Colors are flat, so that only the rounding of resizing differs.
        np.testing.assert_allclose(scores.clip_probs[scores.clip_video == row], clips, atol=1e-4)
        np.testing.assert_allclose(scores.video_probs[row], mean, atol=1e-4)
    assert len({tuple(np.round(row, 3)) for row in scores.clip_probs}) > 6  # the net does tell clips apart
    (bad,) = scores.bad
    assert (bad.row, bad.path) == (3, str(films[3].path))
    assert bad.reason


def test_segments_are_averaged_before_the_softmax(films: Manifest) -> None:
    """Two clips of a video, in the middle of its halves, each scored alone."""
    model = Mean()
    scores = score_videos(model, films, Protocol(replace(SPEC, segments=2)))
    assert scores.clip_video.tolist() == [0, 1, 2, 4, 5]
    for row, length in ((1, 8), (2, 17), (4, 45), (5, 30)):
        with Video(films[row].path) as video:
            frames = video.frames_at(range(length))
        small = nn.functional.interpolate(frames.float(), (20, 27), mode="bilinear", antialias=True)
        x = (small.round()[..., 2:18, 6:22] / 255 - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(
            SPEC.std
        ).view(3, 1, 1)
        half = length // 2
        starts = [max(half - 8, 0) // 2, half + max(length - half - 8, 0) // 2]
        logits = [model(x[min(s, length - 8) :][:8].transpose(0, 1)[None]) for s in starts]
        expected = (sum(logits) / 2).softmax(1)[0].detach().numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(scores.video_probs[row], expected, atol=1e-4)


class Corner(nn.Module):
    """Score a clip by one pixel of its first frame and one of its last. No two views score the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(6, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([x[:, :, 0, 1, 2], x[:, :, -1, 3, 1]], 1).double())


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A wide film, a high one, one just as long as a clip and a shorter one, all of noise; one is broken."""
    folder = tmp_path_factory.mktemp("noise")
    paths = []
    for i, shape in enumerate([(29, 3, 20, 28), (19, 3, 26, 20), (8, 3, 20, 36), (5, 3, 20, 20)]):
        coarse = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        paths.append(write_video(folder / f"{i}.mp4", coarse))
    (folder / "4.mp4").write_bytes(b"broken")
    return manifest_of([*paths, folder / "4.mp4"], [0, 1, 2, 0, 1])


# By hand, for 20 × 28, 26 × 20, 20 × 36 and 20 × 20 pixels and crops of 16: top and left.
FIVE = [
    [(0, 0), (0, 12), (4, 0), (4, 12), (2, 6)],
    [(0, 0), (0, 4), (10, 0), (10, 4), (5, 2)],
    [(0, 0), (0, 20), (4, 0), (4, 20), (2, 10)],
    [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)],
]
THREE = [
    [(2, 0), (2, 6), (2, 12)],
    [(0, 2), (5, 2), (10, 2)],
    [(2, 0), (2, 10), (2, 20)],
    [(2, 0), (2, 2), (2, 4)],
]
# Clips of 8 frames in 29, 19, 8 and 5.
SPREAD = {
    4: [[0, 7, 14, 21], [0, 3, 7, 11], [0] * 4, [0] * 4],
    1: [[10], [5], [0], [0]],
    None: [[0, 8, 16], [0, 8], [0], [0]],
}


@pytest.mark.parametrize("targets", ["single", "multi"])
@pytest.mark.parametrize(("clips", "crops"), [(4, 1), (None, 3), (4, 3), (1, 5), (4, 10)])
def test_many_views_are_averaged(noise: Manifest, clips: int | None, crops: int, targets: Any) -> None:
    model = Corner()
    views = Views(clips=clips, crops=crops)  # type: ignore[arg-type]
    scores = score_videos(model, noise, Protocol(SPEC, targets, views), compute=batches(7))
    for row in range(4):
        with Video(noise[row].path) as video:
            frames = video.frames_at(range(len(video))).numpy()
        places = THREE[row] if crops == 3 else FIVE[row][4:] if crops == 1 else FIVE[row]
        view_probs: list[list[np.ndarray]] = []
        for start in SPREAD[clips][row]:
            clip = np.stack([frames[(start + k) % len(frames)] for k in range(8)], 1)  # C T H W
            shown = [clip[..., top : top + 16, left : left + 16] for top, left in places]
            if crops == 10:
                shown += [view[..., ::-1] for view in shown]
            view_probs.append([])
            for view in shown:
                x = (view / 255 - np.reshape(SPEC.mean, (3, 1, 1, 1))) / np.reshape(SPEC.std, (3, 1, 1, 1))
                with torch.no_grad():
                    z = model(torch.from_numpy(x[None]))[0].numpy()
                odds = np.exp(z)
                view_probs[-1].append(odds / sum(odds) if targets == "single" else 1 / (1 + np.exp(-z)))
        assert {len(of_clip) for of_clip in view_probs} == {crops}
        expected = [sum(of_clip) / crops for of_clip in view_probs]
        np.testing.assert_allclose(scores.clip_probs[scores.clip_video == row], expected, atol=1e-6)
        every = [view for of_clip in view_probs for view in of_clip]
        np.testing.assert_allclose(scores.video_probs[row], sum(every) / len(every), atol=1e-6)
        if crops > 1:  # otherwise a wrong crop would go unnoticed
            assert np.ptp(view_probs[0], 0).max() > 1e-2
    assert [video.row for video in scores.bad] == [4]


def test_batches_workers_and_processes_change_no_views(noise: Manifest) -> None:
    net, views = Corner(), Views(clips=3, crops=10)
    reference = score_videos(net, noise, Protocol(SPEC, views=views), compute=batches(1))
    assert np.bincount(reference.clip_video).tolist() == [3] * 4
    for batch_size in (4, 1000):
        same(
            score_videos(net, noise, Protocol(SPEC, views=views), compute=batches(batch_size)),
            reference,
            atol=1e-12,
        )
    four = score_videos(net, noise, Protocol(SPEC, views=views), compute=batches(2))
    same(score_videos(net, noise, Protocol(SPEC, views=views), compute=batches(2, workers=2)), four)
    for scores in in_processes(3, noise, net, Protocol(SPEC, views=views), compute=batches(2)):
        same(scores, four)


def test_crops_of_segments_are_averaged_after_their_consensus(noise: Manifest) -> None:
    model = Corner()
    spec = replace(SPEC, segments=2)
    scores = score_videos(model, noise, Protocol(spec, views=Views(crops=3)))
    with Video(noise[0].path) as video:
        frames = video.frames_at(range(29))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    x = (frames / 255 - mean) / std
    crop_probs = []
    for top, left in THREE[0]:
        parts = [x[s : s + 8, :, top : top + 16, left : left + 16] for s in (3, 17)]  # of 0–13 and 14–28
        logits = [model(part.transpose(0, 1)[None]) for part in parts]
        crop_probs.append(((logits[0] + logits[1]) / 2).softmax(1)[0].detach().numpy())
    np.testing.assert_allclose(scores.video_probs[0], sum(crop_probs) / 3, atol=1e-6)


def same(a: Scores, b: Scores, *, atol: float = 0.0) -> None:
    assert (a.classes, a.paths, a.bad) == (b.classes, b.paths, b.bad)
    np.testing.assert_array_equal(a.clip_video, b.clip_video)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_allclose(a.clip_probs, b.clip_probs, atol=atol, rtol=0)
    np.testing.assert_allclose(a.video_probs, b.video_probs, atol=atol, rtol=0)


def in_processes(
    world: int, films: Manifest, model: nn.Module, protocol: Protocol, *, compute: Compute
) -> list[Scores]:
    """Score as `world` processes would, one after another: once to learn what each sends, once to gather."""
    sent: list[list[list[Any]]] = []
    for rank in range(world):
        own: list[list[Any]] = []
        score_videos(
            model,
            films,
            protocol,
            compute=compute,
            processes=Processes(rank, world, lambda part, own=own: own.append(part) or part),
        )
        sent.append(own)
    results = []
    for rank in range(world):
        joined = iter([[item for own in sent for item in own[call]] for call in range(len(sent[0]))])
        results.append(
            score_videos(
                model,
                films,
                protocol,
                compute=compute,
                processes=Processes(rank, world, lambda _, joined=joined: next(joined)),
            )
        )
    return results


def test_batches_workers_processes_and_cache_change_nothing(films: Manifest, tmp_path: Path) -> None:
    model = Mean().double()

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.net(clip[None].double()) for clip in x])  # no clip meets another

    net = Exact()
    reference = score_videos(net, films, Protocol(SPEC))
    for batch_size in (1, 3, 5, 100):
        same(score_videos(net, films, Protocol(SPEC), compute=batches(batch_size)), reference)
    same(score_videos(net, films, Protocol(SPEC), compute=batches(3, workers=2)), reference)
    store = FrameStore(SPEC, cache=str(tmp_path))
    assert sum(store.prepare(films[row].path) for row in range(6) if row != 3) == 5
    same(score_videos(net, films, Protocol(SPEC), store=store), reference)
    for world in (2, 3, 7):
        for scores in in_processes(world, films, net, Protocol(SPEC), compute=batches(4)):
            same(scores, reference)


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-6), ("bf16", 1e-2)])
def test_a_real_net_scores_the_same_in_any_batch(films: Manifest, precision: Precision, atol: float) -> None:
    net, spec = real_net()
    reference = score_videos(net, films, Protocol(spec), compute=batches(1, precision=precision))
    assert np.ptp(reference.clip_probs, 0).max() > 1e-4
    same(
        score_videos(net, films, Protocol(spec), compute=batches(5, precision=precision)),
        reference,
        atol=atol,
    )


def real_net() -> tuple[nn.Module, ClipSpec]:
    torch.manual_seed(0)
    net = create_model("densenet3d_tiny", num_classes=3).eval()
    return net, ClipSpec(num_frames=8, stride=1, size=64, resize=64)


@pytest.mark.parametrize("threads", ["one_thread", "two_threads"])
def test_the_promise_same_batches_same_bits_other_batches_within_1e_6(
    films: Manifest, request: pytest.FixtureRequest, threads: str
) -> None:
    """Scores in fp32 depend on the batches by rounding, on workers and processes not at all."""
    request.getfixturevalue(threads)
    net, spec = real_net()
    protocol, fours = Protocol(spec), batches(4)
    reference = score_videos(net, films, protocol, compute=fours)
    # The same batches: the same bits, whoever reads them and however often.
    same(score_videos(net, films, protocol, compute=fours), reference)
    same(score_videos(net, films, protocol, compute=batches(4, workers=2)), reference)
    for scores in in_processes(2, films, net, protocol, compute=fours):
        same(scores, reference)
    # Other batches: another size, other positions, and other videos in the same batch.
    for batch_size in (1, 3, 64):
        same(score_videos(net, films, protocol, compute=batches(batch_size)), reference, atol=1e-6)
    backwards = score_videos(net, films.select(range(len(films) - 1, -1, -1)), protocol, compute=fours)
    np.testing.assert_allclose(backwards.video_probs[::-1], reference.video_probs, atol=1e-6, rtol=0)
    for row in (0, 1, 2, 4, 5):
        alone = score_videos(net, films.select([row]), protocol, compute=fours)
        np.testing.assert_allclose(alone.video_probs[0], reference.video_probs[row], atol=1e-6, rtol=0)


def test_the_order_of_frames_reaches_the_net(films: Manifest) -> None:
    def colors_and_change(order: FrameOrder) -> tuple[np.ndarray, np.ndarray]:
        seen: list[torch.Tensor] = []

        class Spy(Mean):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                seen.append(x.mean((3, 4)))
                return super().forward(x)

        score_videos(Spy(), films, Protocol(SPEC, order=order), compute=batches(1))
        planes = torch.cat(seen)  # N C T
        return planes.mean(2).numpy(), (planes[..., -1] - planes[..., 0]).numpy()

    mean, change = colors_and_change("normal")
    back_mean, back = colors_and_change("reversed")
    shuffled_mean, shuffled = colors_and_change("shuffled")
    still = colors_and_change("static")[1]
    np.testing.assert_allclose(back_mean, mean, atol=1e-5)
    np.testing.assert_allclose(back, -change, atol=1e-6)
    np.testing.assert_allclose(shuffled_mean, mean, atol=1e-5)
    assert np.abs(shuffled - change).max() > 0.05
    assert np.abs(still).max() == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_scored_in_eval_mode_and_then_put_back(
    films: Manifest, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    modes = []

    class Spy(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    model = Spy().train(training)
    score_videos(model, films, Protocol(SPEC))
    assert set(modes) == {(False, False)}
    assert model.training is training

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Mean, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        score_videos(model, films, Protocol(SPEC))
    assert model.training is training


def test_every_clip_of_every_video_is_given_to_a_function(films: Manifest) -> None:
    seen: list[int] = []

    def means(clips: torch.Tensor) -> torch.Tensor:
        seen.append(len(clips))
        return clips.float().mean((1, 3, 4))

    rows, bad = each_clip(means, films, Protocol(SPEC))
    assert [row[:2] for row in rows] == [
        *((0, 0), (1, 0), (2, 0), (2, 1)),
        *((4, clip) for clip in range(5)),
        *((5, clip) for clip in range(3)),
    ]
    assert seen == [7, 5]  # eight at a time, the unreadable video among the first
    assert [video.row for video in bad] == [3]


@pytest.mark.parametrize("size", [1, 5])
def test_progress_counts_the_videos_by_their_clips(films: Manifest, size: int) -> None:
    class Steps(Bar):
        def advance(self, count: float = 1, *, note: str = "") -> None:
            super().advance(count, note=note)
            steps.append(count)

    steps: list[float] = []
    bar = Steps("Scoring", len(films))
    score_videos(Mean(), films, Protocol(SPEC), compute=batches(size), shown=bar)
    assert bar.done == pytest.approx(len(films))
    if size == 1:
        assert sorted(filter(None, steps))[:5] == pytest.approx([1 / 5] * 5)  # the clips of the longest video


def test_a_video_that_breaks_in_the_middle_counts_nowhere(
    films: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Video.images_at

    def breaks(self: Video, indices: Any, **_: Any) -> np.ndarray:
        if max(indices) > 30:
            raise VideoError(self.path, "damaged at frame 31")
        return true(self, indices)

    monkeypatch.setattr(Video, "images_at", breaks)
    for batch_size in (1, 8):
        scores = score_videos(Mean(), films, Protocol(SPEC), compute=batches(batch_size))
        assert [video.row for video in scores.bad] == [3, 4]
        assert 4 not in scores.clip_video
        assert np.isnan(scores.video_probs[4]).all()


def test_a_network_with_scores_that_are_not_finite_is_refused(films: Manifest) -> None:
    model = Mean()
    nn.init.constant_(model.head.bias, math.nan)
    with pytest.raises(DivergedError, match="not finite numbers"):
        score_videos(model, films, Protocol(SPEC))


@pytest.mark.parametrize("diverged", [0, 1])
def test_all_processes_stop_if_one_has_scores_that_are_not_finite(films: Manifest, diverged: int) -> None:
    """Two processes simulated by two threads. One has broken weights."""
    barrier, sent = threading.Barrier(2, timeout=300), {}

    def score(rank: int) -> str:
        def gather(part: list[Any]) -> list[Any]:
            sent[rank] = part
            barrier.wait()
            whole = [*sent[0], *sent[1]]
            barrier.wait()
            return whole

        model = Mean()
        if rank == diverged:
            nn.init.constant_(model.head.bias, math.nan)
        parts = Processes(rank, 2, gather)
        with pytest.raises(DivergedError, match="not finite numbers") as caught:
            score_videos(model, films, Protocol(SPEC), compute=batches(1), processes=parts)
        return str(caught.value)

    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(score, (0, 1)))) == 1


@pytest.mark.parametrize("targets", ["single", "multi"])
def test_a_single_score_that_is_not_finite_is_enough_to_refuse_a_network(
    films: Manifest, targets: Any
) -> None:
    """Some clips or some classes: such a video must not pass for one that cannot be read."""

    class Partly(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            logits[-1, 0] = math.nan
            return logits

    with pytest.raises(DivergedError, match="not finite numbers"):
        score_videos(Partly(), films, Protocol(SPEC, targets=targets))


def test_a_video_counts_if_all_its_scores_are_finite(tmp_path: Path) -> None:
    probs = np.array([[0.75, 0.25], [0.5, np.nan], [np.nan, np.nan]])
    scores = Scores(("a", "b"), probs[:1], np.array([0]), probs, np.array([0, 0, 0]), ("x", "y", "z"), ())
    metrics = measure(scores)
    assert isinstance(metrics, Metrics)
    assert (metrics.videos, metrics.confusion) == (1, [[1, 0], [0, 0]])
    write_scores(scores, tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[1:] == ["x,,,a,a,1,0.750000,0.250000", "y,,,a,,0,,", "z,,,a,,0,,"]


def test_where_no_video_can_be_read_nothing_can_be_measured(tmp_path: Path) -> None:
    scores = score_videos(
        Mean(), manifest_of([tmp_path / "a.mp4", tmp_path / "b.mp4"], [0, 1]), Protocol(SPEC)
    )
    assert scores.clip_probs.shape == (0, 3)
    assert scores.video_probs.shape == (2, 3)
    assert len(scores.bad) == 2
    with pytest.raises(ManifestError, match=r"none of the 2 videos.*2 could not be read"):
        measure(scores)


# --- what scores are worth ----------------------------------------------------------------------------------


def random_scores(*, classes: int, videos: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    clip_video = np.sort(rng.integers(videos, size=4 * videos))
    clip_video = np.concatenate([np.arange(videos), clip_video])
    clip_video.sort()
    clip_probs = rng.dirichlet(np.full(classes, 0.5), size=len(clip_video))
    broken = [1, videos - 1]
    keep = ~np.isin(clip_video, broken)
    clip_video, clip_probs = clip_video[keep], clip_probs[keep]
    video_probs = np.full((videos, classes), np.nan)
    for video in range(videos):
        if video not in broken:
            video_probs[video] = clip_probs[clip_video == video].mean(0)
    labels = rng.integers(classes - 1, size=videos)  # nothing of the last class
    labels[::7] = -1
    return Scores(
        classes=tuple(f"class {i}" for i in range(classes)),
        clip_probs=clip_probs,
        clip_video=clip_video,
        video_probs=video_probs,
        labels=labels,
        paths=tuple(f"{i}.mp4" for i in range(videos)),
        bad=tuple(Failed(f"{i}.mp4", "broken", i) for i in broken),
    )


@pytest.mark.parametrize(
    ("classes", "videos", "seed"), [(8, 60, 0), (12, 200, 1), (4, 30, 2), (2, 20, 3), (101, 300, 4)]
)
def test_measures_are_those_of_a_slow_count(classes: int, videos: int, seed: int) -> None:
    scores = random_scores(classes=classes, videos=videos, seed=seed)
    got = measure(scores)

    def rank(probs: np.ndarray, label: int) -> int:
        return sum(p > probs[label] for p in probs)

    rows = [v for v in range(videos) if scores.labels[v] >= 0 and not np.isnan(scores.video_probs[v][0])]
    ranks = [rank(scores.video_probs[v], scores.labels[v]) for v in rows]
    clip_ranks = [
        rank(probs, scores.labels[v])
        for v, probs in zip(scores.clip_video, scores.clip_probs, strict=True)
        if v in rows
    ]
    confusion = [[0] * classes for _ in range(classes)]
    for v in rows:
        confusion[scores.labels[v]][max(range(classes), key=lambda k: scores.video_probs[v][k])] += 1
    per_class = {
        scores.classes[k]: confusion[k][k] / sum(confusion[k]) for k in range(classes) if sum(confusion[k])
    }
    assert got.videos == len(rows)
    assert got.bad == 2
    assert got.video_top1 == pytest.approx(sum(r < 1 for r in ranks) / len(ranks), abs=1e-6)
    assert got.correct == sum(r < 1 for r in ranks)
    assert got.clips == len(clip_ranks)
    assert got.clip_top1 == pytest.approx(sum(r < 1 for r in clip_ranks) / len(clip_ranks), abs=1e-6)
    if classes < 6:
        assert got.video_top5 is got.clip_top5 is None
    else:
        assert got.video_top5 == pytest.approx(sum(r < 5 for r in ranks) / len(ranks))
        assert got.clip_top5 == pytest.approx(sum(r < 5 for r in clip_ranks) / len(clip_ranks))
    counts = [sum(row) for row in confusion]
    assert got.chance == 1 / classes
    assert got.majority == Majority(scores.classes[counts.index(max(counts))], max(counts) / len(rows))
    assert got.confusion == confusion
    assert got.per_class == pytest.approx(per_class, abs=1e-6)
    assert f"class {classes - 1}" not in got.per_class
    assert got.balanced_accuracy == pytest.approx(np.mean(list(per_class.values())), abs=1e-6)
    loss = -np.mean([math.log(scores.video_probs[v][scores.labels[v]]) for v in rows])
    assert got.loss == pytest.approx(loss, rel=1e-6)


def test_a_confident_mistake_has_a_large_but_finite_loss() -> None:
    probs = np.array([[1.0, 0.0]])
    scores = Scores(("a", "b"), probs, np.array([0]), probs, np.array([1]), ("x",), ())
    assert measure(scores).loss == pytest.approx(-math.log(1e-12))


# --- the table of scores ------------------------------------------------------------------------------------


def test_the_table_of_scores_reads_back(tmp_path: Path) -> None:
    classes = ('with, comma and "quotes"', "naïve 猫", "line\nbreak")
    probs = np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [0.1, 0.3, 0.6]])
    scores = Scores(
        classes=classes,
        clip_probs=probs[[0, 0, 2]],
        clip_video=np.array([0, 0, 2]),
        video_probs=probs,
        labels=np.array([1, 2, -1]),
        paths=("a, b.mp4", "kaputt.mp4", "ü.mp4"),
        bad=(Failed("kaputt.mp4", "broken", 1),),
        spans=((0.5, 2.0), (None, 3.0), (None, None)),
    )
    write_scores(scores, tmp_path / "deep" / "scores.csv")
    with (tmp_path / "deep" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "start", "end", "label", "prediction", "clips", *classes],
        ["a, b.mp4", "0.5", "2.0", classes[1], classes[0], "2", "0.700000", "0.200000", "0.100000"],
        ["kaputt.mp4", "", "3.0", classes[2], "", "0", "", "", ""],
        ["ü.mp4", "", "", "", classes[2], "1", "0.100000", "0.300000", "0.600000"],
    ]


def test_memory_that_runs_out_is_an_error_with_a_remedy(films: Manifest) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, _x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(
        OutOfMemoryError, match=r"while \d+ clips of .* computed .*allocate 9 .* Lower `batch_size`"
    ):
        score_videos(Large(), films, Protocol(SPEC))
