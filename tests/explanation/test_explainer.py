"""Explanations of whole videos: the same clips and numbers as in prediction, for every kind of model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.explanation.test_depths import SMALL, fused, lively, tiny, with_inserted

import t3d
from t3d.card import ModelCard
from t3d.clip import ClipSpec, Targets
from t3d.data.clips.dataset import ClipItem, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, VideoError
from t3d.evaluation.parts import Part
from t3d.evaluation.scoring import IN_PROCESS
from t3d.explanation.clips import seen_clips
from t3d.explanation.config import ExplainOptions
from t3d.explanation.explainer import Explainer
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.runtime.load import load
from t3d.video.encode import write_video
from t3d.video.video import Video

CLASSES = ("jump", "run", "坐")
SPEC = ClipSpec(num_frames=8, stride=1, size=32, resize=36, tail="shift")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("films")
    paths = []
    for number, length in enumerate((5, 8, 29)):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.randint(0, 256, (length, 3, 4, 5), generator=generator).float()
        frames = torch.nn.functional.interpolate(coarse, (48, 60), mode="bilinear").to(torch.uint8)
        paths.append(root / f"{number}.mp4")
        write_video(paths[-1], frames)
    (root / "text.mp4").write_text("no video")
    return [*paths, root / "text.mp4"]


def save(path: Path, net: VideoNet, *, name: str, spec: ClipSpec = SPEC, targets: Targets = "single") -> Path:
    options = {key: value for key, value in vars(net.options).items() if key != "members"}
    options = dict(SMALL) if name in ("t3d_tiny", "densenet3d_tiny") else options
    save_model(net, path, card=ModelCard(name, options, CLASSES, spec, targets=targets))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("net") / "t3d.safetensors", tiny(), name="t3d_tiny")


@pytest.mark.parametrize("targets", ["single", "multi"])
@pytest.mark.parametrize("segments", [1, 2])
def test_class_and_probability_equal_the_prediction(
    films: list[Path], tmp_path: Path, targets: Targets, segments: int
) -> None:
    spec = replace(SPEC, segments=segments)
    file = save(tmp_path / "m.safetensors", tiny(), name="t3d_tiny", spec=spec, targets=targets)
    explainer = Explainer(file, compute=IN_PROCESS)
    parts = [Part(str(film)) for film in films[:3]]
    results = list(explainer.many(parts))
    predictions = t3d.Predictor(file, compute=IN_PROCESS).predict([str(film) for film in films[:3]])
    for result, prediction in zip(results, predictions, strict=True):
        assert not isinstance(result, Failed)
        assert result.path == prediction.path
        assert result.label == prediction.label
        assert result.probability == pytest.approx(prediction.probability, abs=1e-4)
        assert result.prediction.classes == prediction.classes
        assert result.prediction.probs == pytest.approx(prediction.probs, abs=1e-4)
        for clip in result.clips:
            assert clip.heat is not None
            assert clip.importance is not None
            assert clip.heat.shape == (8 * segments, 32, 32)
            assert clip.frames.shape == (8 * segments, 32, 32, 3)
            assert clip.importance.shape == clip.times.shape == (8 * segments,)
            assert 0 <= clip.heat.min() <= clip.heat.max() <= 1
            if targets == "multi":  # the score is that of the network that predicts
                assert 1 / (1 + np.exp(-clip.score)) == pytest.approx(clip.probability, abs=1e-4)
        assert max(clip.heat.max() for clip in result.clips if clip.heat is not None) == pytest.approx(1)
        assert len(result.depths) == 9
        for stage in {each.stage for each in result.depths}:
            shares = [abs(each.share) for each in result.depths if each.stage == stage]
            assert sum(shares) == pytest.approx(1)


def test_clips_are_those_of_prediction(films: list[Path]) -> None:
    for film in films[:3]:
        manifest = Manifest.from_files([film])
        store = FrameStore(SPEC)
        items = [item for item in VideoClips(manifest, SPEC, store=store) if isinstance(item, ClipItem)]
        seen = list(seen_clips(manifest[0], store, range(100)))
        assert [clip.number for clip in seen] == [item.clip for item in items]
        for clip, item in zip(seen, items, strict=True):
            assert torch.equal(clip.frames, item.frames)
            assert (clip.start, clip.end) == (item.start, item.end)
            assert clip.times.min() == clip.start
        box = seen[0].box  # 48 × 60 pixels become 36 × 45, and 32 × 32 of them are seen
        assert (box.top, box.left) == pytest.approx((2 / 36, 6 / 45))
        assert (box.height, box.width) == pytest.approx((32 / 36, 32 / 45))


def test_the_most_probable_clips_are_explained(weights: Path, films: list[Path]) -> None:
    every = Explainer(weights, compute=IN_PROCESS).explain(films[2])
    assert [clip.number for clip in every.clips] == [0, 1, 2, 3]
    assert not any("clips are explained" in remark for remark in every.remarks)
    two = Explainer(weights, compute=IN_PROCESS, options=ExplainOptions(most_clips=2)).explain(films[2])
    best = sorted(sorted(every.clips, key=lambda clip: -clip.probability)[:2], key=lambda clip: clip.number)
    assert [clip.number for clip in two.clips] == [clip.number for clip in best]
    assert "2 of 4 clips are explained: those in which the class is most probable." in two.remarks
    means = np.mean([[each.contribution for each in clip.depths] for clip in best], axis=0)
    assert [each.contribution for each in two.depths] == pytest.approx(means.tolist(), abs=1e-4)


def test_a_map_without_evidence_is_reported(
    weights: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = "No place of this map speaks for the class, so there is no heat."
    explainer = Explainer(weights, compute=IN_PROCESS)
    assert remark not in explainer.explain(films[1]).remarks
    monkeypatch.setattr(
        "t3d.explanation.explainer.class_activation", lambda _net, x, *_: torch.zeros(x.shape[2], 32, 32)
    )
    assert remark in explainer.explain(films[1]).remarks


def test_another_class_can_be_explained(weights: Path, films: list[Path]) -> None:
    explainer = Explainer(weights, compute=IN_PROCESS)
    usual = explainer.explain(films[1])
    other = next(name for name in CLASSES if name != usual.label)
    result = explainer.explain(films[1], label=other)
    assert result.label == other
    assert result.prediction == usual.prediction
    assert (
        result.probability == dict(zip(usual.prediction.classes, usual.prediction.probs, strict=True))[other]
    )
    assert [each.contribution for each in result.depths] != [each.contribution for each in usual.depths]
    with pytest.raises(
        ConfigError, match=r"`label` is 'jmp', which is not a class of the model; did you mean 'jump'"
    ):
        explainer.explain(films[1], label="jmp")


@pytest.mark.parametrize("kind", ["path", "part", "video", "frames", "several threads"])
def test_a_video_in_any_form(weights: Path, films: list[Path], kind: str) -> None:
    explainer = Explainer(t3d.load(weights, runtime="torch", compute=IN_PROCESS))
    expected = explainer.explain(films[1])
    with Video(films[1]) as video:
        forms = {"path": films[1], "part": Part(str(films[1])), "video": video, "frames": video[0:8]}
        if kind == "several threads":
            with ThreadPoolExecutor(3) as pool:
                results = list(pool.map(explainer.explain, [films[1]] * 3))
        else:
            results = [explainer.explain(forms[kind])]  # type: ignore[arg-type]
    for result in results:
        assert result.label == expected.label
        assert result.depths == expected.depths
        assert result.clips[0].heat is not None
        assert expected.clips[0].heat is not None
        assert np.array_equal(result.clips[0].heat, expected.clips[0].heat)


def test_videos_that_cannot_be_read_and_those_without_pictures(weights: Path, films: list[Path]) -> None:
    explainer = Explainer(weights, compute=IN_PROCESS)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        explainer.explain(films[3])
    parts = [Part(str(films[number])) for number in (3, 0, 1)]
    bad, first, second = explainer.many(parts, detailed=1)
    assert isinstance(bad, Failed)
    assert not isinstance(first, Failed)
    assert not isinstance(second, Failed)
    assert first.clips[0].heat is not None
    assert second.clips[0].heat is None
    assert second.clips[0].importance is None
    assert second.depths == explainer.explain(films[1]).depths


def test_models_without_depths_say_so(films: list[Path], tmp_path: Path) -> None:
    plain = lively(create_model("densenet3d_tiny", num_classes=3, options=SMALL))
    result = t3d.explain(save(tmp_path / "d.safetensors", plain, name="densenet3d_tiny"), films[1])
    assert result.depths == ()
    assert "densenet3d_tiny has no Temporal Transition Layer, so it has no temporal depths." in result.remarks
    assert result.clips[0].heat is not None


def test_inserted_layers_have_depths(films: list[Path]) -> None:
    net = ("resnet3d18", with_inserted())
    options = {
        "width": 0.125,
        "ttl_after": ["layer1", "layer2"],
        "ttl_depths": [[1, 3], [1, 4]],
        "ttl_channels": 4,
    }
    file = films[0].parent / "inserted.safetensors"
    save_model(net[1], file, card=ModelCard(net[0], options, CLASSES, SPEC))
    result = t3d.explain(file, films[1])
    assert [(each.stage, each.depth) for each in result.depths] == [
        ("layer1", 1),
        ("layer1", 3),
        ("layer2", 1),
        ("layer2", 4),
    ]


def test_fused_models_and_networks_on_frames(films: list[Path], tmp_path: Path) -> None:
    model = fused()
    members = [
        {
            "architecture": each.architecture,
            "options": each.options,
            "clip": {"num_frames": each.clip.num_frames, "stride": 1, "size": 32, "resize": 32},
        }
        for each in model.options.members  # type: ignore[attr-defined]
    ]
    file = tmp_path / "fused.safetensors"
    save_model(model, file, card=ModelCard("fused", {"members": members}, CLASSES, model.clip))  # type: ignore[arg-type]
    result = Explainer(file, compute=IN_PROCESS).explain(films[2])
    assert {each.stage for each in result.depths} == {f"2 t3d_tiny: transition{n}" for n in (1, 2, 3)}
    assert np.exp(result.clips[0].score) == pytest.approx(result.clips[0].probability, abs=1e-4)
    frames = create_model("frames", num_classes=3, options={"backbone": "timm:resnet10t"})
    card = ModelCard("frames", {"backbone": "timm:resnet10t"}, CLASSES, SPEC)
    save_model(frames, tmp_path / "frames.safetensors", card=card)
    result = Explainer(tmp_path / "frames.safetensors", compute=IN_PROCESS).explain(films[1])
    assert result.depths == ()
    assert "frames has no Temporal Transition Layer, so it has no temporal depths." in result.remarks


def test_an_exported_file_cannot_be_explained(tmp_path: Path) -> None:
    (tmp_path / "last.xml").write_text("<net/>")
    with pytest.raises(
        ConfigError, match=r"last\.xml: an exported file has no gradients .* Give the run folder"
    ):
        Explainer(tmp_path / "last.xml")


def test_an_export_next_to_the_weights_predicts_and_the_network_explains(
    weights: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `t3d predict` uses an exported file, so does the prediction of an explanation."""
    calls: list[object] = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(options["runtime"])
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("t3d.evaluation.loaded_pair.load", counted)
    t3d.explain(weights, films[0])
    assert calls == ["auto"]


def test_the_result_converts_and_shows_itself(weights: Path, films: list[Path]) -> None:
    result = t3d.explain(weights, films[1])
    values = json.loads(result.to_json())
    assert values["label"] == result.label
    assert values["probability"] == result.probability
    assert [each["depth"] for each in values["depths"]] == [1, 3, 6, 1, 3, 4, 1, 3, 4]
    assert len(values["explained_clips"][0]["importance"]) == 8
    assert sum(map(_count_numbers, values["explained_clips"])) < 100  # no pixels
    lines = str(result).splitlines()
    assert lines[0] == f"{films[1]}: {result.label} {result.probability:.1%}"
    assert lines[3].startswith("  transition1, depth 6: ")
    assert repr(result) == f"Explanation({str(films[1])!r}: {result.label} {result.probability:.1%})"
    html = result._repr_html_()
    assert html.count("data:image/webp") == 1
    assert "transition3, depth 4" in html


def _count_numbers(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_count_numbers, value.values()))
    return (
        sum(map(_count_numbers, value)) if isinstance(value, Sequence) and not isinstance(value, str) else 1
    )
