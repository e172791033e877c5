"""Export a model: trace, convert, check against the network, measure, then give the file its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_videos, refuse_other_targets, refuse_unlabeled
from t3d.data.clips.check import refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import normalize
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute, has_bf16
from t3d.errors import ExportError
from t3d.evaluation.leaks import shared_with_run, sharing_sentence
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.protocol import Protocol
from t3d.export.clips import clips_of_run, random_clips, real_clips
from t3d.export.config import ExportConfig
from t3d.export.int8 import calibration_clips, quantize
from t3d.export.measure import Difference, Scored, difference, measure_models, scores_of, time_models
from t3d.export.naming import named_at_the_end, output_file
from t3d.export.trace import import_converters, to_openvino, trace, write_onnx, write_openvino, write_torch
from t3d.io.files import content_digest
from t3d.models.net import VideoNet
from t3d.models.weights import load_classifier
from t3d.models.weights_file import weights_file
from t3d.progress import progress
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import Format, files_of
from t3d.runtime.load import load
from t3d.runtime.stamp import Stamp

TOLERANCE = 1e-5
"""Largest relative difference of the scores of an fp32 model."""
LARGEST_DROP = 0.01
"""Accuracy that an int8 model may lose before a warning."""
_CHECKED = 16  # clips

FP32, AUTO = Compute(device="cpu", precision="fp32"), Compute(device="cpu", precision="auto")


@dataclass(frozen=True)
class Row:
    """One line of the table of an export.

    Args:
        runtime: What computes the model.
        precision: What it computes in.
        megabytes: Size of its files, in 10⁶ bytes.
        milliseconds: Median time of scoring one clip.
        difference: Difference from the network in fp32; None for the network itself.
        metrics: Figures on the videos; None without videos.
    """

    runtime: str
    precision: str
    megabytes: float
    milliseconds: float
    difference: Difference | None
    metrics: Metrics | MultiMetrics | None = None


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    Args:
        files: The files written.
        rows: The network, then the exported model in each precision that T3D uses here.
        real: Whether the difference was measured on real clips.
        threads: Threads that computed.
        warnings: Reasons not to use the file as it is, or not to trust its accuracy.
    """

    files: tuple[Path, ...]
    rows: tuple[Row, ...]
    real: bool
    threads: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        rows = [
            {
                **asdict(replace(row, metrics=None)),
                "metrics": None if row.metrics is None else row.metrics.log_line(),
            }
            for row in self.rows
        ]
        return {
            "files": list(map(str, self.files)),
            "threads": self.threads,
            "clips": "real" if self.real else "random",
            "rows": rows,
            "warnings": list(self.warnings),
        }


def export_model(config: ExportConfig) -> ExportResult:
    """Export a model, check it against the network, and measure both.

    The file gets its name at the end, if its scores equal those of the network: fp32 within a relative
    difference of 1e-5. An int8 model only has to give finite scores; read its figures.

    Args:
        config: What to export, and how.

    Returns:
        The files, and the figures to decide by.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: A package is not installed, the file exists, or an option cannot work with this model.
        ExportError: The model cannot be converted, or the exported file computes something else.
        ManifestError: The videos cannot be used.
        WriteError: The file cannot be written.

    Example:
        >>> result = export_model(ExportConfig("runs/mine"))  # doctest: +SKIP
        >>> result.files  # doctest: +SKIP
        (PosixPath('runs/mine/best.xml'), PosixPath('runs/mine/best.bin'))
    """
    source = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    out = output_file(config, source)
    import_converters(config.format, int8=config.int8 is not None)
    net, card = load_classifier(config.model, allow_unfinished=config.allow_unfinished)
    reading, protocol = config.reading, Protocol(card.clip, card.targets)
    index = open_index(reading.index, *filter(None, (config.videos, config.int8)), root=reading.root)
    store = FrameStore(
        card.clip, cache=reading.cache, index=index, limits=reading.limits, image_fps=reading.image_fps
    )
    videos = None if config.videos is None else _labeled(config, config.videos, card)
    calibration = None if config.int8 is None else calibration_clips(config, card.clip, index)
    clips, real = _checked_clips(videos, calibration, source, store, card.clip, max_bad=reading.max_bad)
    stamp = Stamp("fp32" if config.int8 is None else "int8", content_digest(source), version("t3d"))
    with named_at_the_end(out, config.format, overwrite=config.overwrite) as temporary:
        _write(config.format, net, (card, stamp), temporary, calibration)
        reference = scores_of((net, FP32), clips, card.clip)
        if config.format == "torch":
            _check(_reloaded(temporary, clips, card.clip), reference, protocol, config)
        else:
            exact, _ = load(temporary, compute=FP32)
            _check(scores_of((exact, FP32), clips, card.clip), reference, protocol, config)
            del exact
        seen = {} if videos is None else shared_with_run(config.model, videos, index, name=str(config.videos))
        result = _measured(config, (net, card, source), (temporary, clips, reference), videos, store)
    notes = [sharing_sentence(shared, tested="tested", other=name) for name, shared in seen.items() if shared]
    files = tuple(files_of(out, config.format))
    return replace(result, files=files, real=real, warnings=(*result.warnings, *notes))


def _checked_clips(
    videos: Manifest | None,
    calibration: torch.Tensor | None,
    source: Path,
    store: FrameStore,
    spec: ClipSpec,
    *,
    max_bad: float,
) -> tuple[torch.Tensor, bool]:
    """Return the clips that the exported model is checked on, and whether they are real ones.

    Real clips are better: the scores of random pixels may nearly be 0, so that their rounding looks large.
    """
    if videos is not None:
        clips, bad = real_clips(videos, store, spec, most=_CHECKED, title="Reading clips")
        refuse_many(bad, among=len(clips) + len(bad), max_bad=max(max_bad, 0.5), option="max_bad")
        return clips, True
    if calibration is not None:
        return calibration[:_CHECKED], True
    trained = clips_of_run(source, store, spec, most=_CHECKED)
    return (random_clips(spec, 4), False) if trained is None else (trained, True)


def _labeled(config: ExportConfig, name: str, card: ModelCard) -> Manifest:
    videos = open_videos(name, root=config.reading.root, classes=config.reading.classes)
    refuse_other_targets(videos, card.targets, name=name, other=config.model)
    refuse_unlabeled(videos, name=name)
    return videos.with_classes(card.classes, name=name)


def _write(
    form: Format,
    net: VideoNet,
    texts: tuple[ModelCard, Stamp],
    path: Path,
    calibration: torch.Tensor | None,
) -> None:
    """Trace the network and write it in its format, quantized if there are clips to calibrate with."""
    with progress("Exporting the model", 2 if calibration is None else 3) as bar:
        graph = trace(net, texts[0].clip)
        bar.advance()
        if form == "onnx":
            write_onnx(graph, path, net, *texts)
        elif form == "torch":
            write_torch(graph, path, *texts)
        else:
            model = to_openvino(graph, net)
            if calibration is not None:
                bar.advance()
                model = quantize(model, calibration, texts[0].clip)
            write_openvino(model, path, *texts)
        bar.advance()


def _reloaded(path: Path, clips: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    """Return the scores of a .pt2 file that this process wrote."""
    network = torch.export.load(path).module()
    with torch.inference_mode():
        return torch.cat([network(normalize(part, spec)).double() for part in torch.split(clips, 2)])


def _check(scores: torch.Tensor, reference: torch.Tensor, protocol: Protocol, config: ExportConfig) -> None:
    """Refuse an exported model whose scores differ too much from the network's.

    Raises:
        ExportError: They do, or they are not finite.
    """
    if not scores.isfinite().all():
        raise ExportError(
            f"{config.model}: the exported model gives scores that are infinite or NaN, so it was not "
            "written. Use another format, or torch"
        )
    measured = difference(scores, reference, protocol)
    if config.int8 is None and measured.relative > TOLERANCE:
        raise ExportError(
            f"{config.model}: the scores of the exported model differ from the network's by "
            f"{measured.relative:.1e} (relative, {measured.clips} clips); at most {TOLERANCE:.0e} is "
            "allowed, so it was not written. Use another format, or torch"
        )


def _measured(
    config: ExportConfig,
    network: tuple[VideoNet, ModelCard, Path],
    exported: tuple[Path, torch.Tensor, torch.Tensor],
    videos: Manifest | None,
    store: FrameStore,
) -> ExportResult:
    """Time and test the network and the exported model."""
    (net, card, source), (out, clips, reference) = network, exported
    spec, protocol = card.clip, Protocol(card.clip, card.targets)
    bf16 = has_bf16(torch.device("cpu"))
    models: list[tuple[str, str, float, Scored]] = []
    size = source.stat().st_size / 1e6
    if bf16:
        models.append(("torch", "bf16", size, (net, AUTO)))
    written = files_of(out, config.format)
    if config.format != "torch":
        size = sum(path.stat().st_size for path in written) / 1e6
        computes = [FP32, AUTO] if bf16 and config.format == "openvino" else [FP32]
        for compute in computes:
            model, _ = load(out, compute=compute)
            assert isinstance(model, ExportedModel)
            models.append((model.runtime, model.precision, size, (model, compute)))
    scored = [each[-1] for each in models]
    times = time_models(scored, net, clips[:1], spec)
    figures: list[Any] = [None] * (len(models) + 1)
    if videos is not None:
        figures, bad = measure_models([(net, FP32), *scored], videos, protocol, store, workers=config.workers)
        refuse_many(bad, among=len(videos), max_bad=config.reading.max_bad, option="max_bad")
    rows = [Row("torch", "fp32", source.stat().st_size / 1e6, times[0], None, figures[0])]
    for (runtime, precision, megabytes, each), milliseconds, metrics in zip(
        models, times[1:], figures[1:], strict=True
    ):
        change = difference(scores_of(each, clips, spec), reference, protocol)
        rows.append(Row(runtime, precision, megabytes, milliseconds, change, metrics))
    return ExportResult(
        files=tuple(written),
        rows=tuple(rows),
        real=False,
        threads=torch.get_num_threads(),
        warnings=tuple(_warnings(config, rows)),
    )


def _warnings(config: ExportConfig, rows: list[Row]) -> Iterator[str]:
    if config.int8 is None:
        return
    if rows[0].metrics is None:
        yield ("int8 changes the scores: measure its accuracy on labeled videos with `t3d test` before use")
        return
    for row in rows:
        if row.metrics is None or not row.precision.startswith("int8"):
            continue
        drop = rows[0].metrics.best_by - row.metrics.best_by
        if drop > LARGEST_DROP:
            yield (
                f"{row.precision} is {100 * drop:.1f} points less accurate than fp32 "
                f"({row.metrics.best_by:.1%} instead of {rows[0].metrics.best_by:.1%}); use the fp32 export "
                "instead, or calibrate with more videos of all classes"
            )
