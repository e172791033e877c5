"""`t3d bench model`: time a network in every way of computing it, in turn.

Legend: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from t3d.bench.candidates import CHANNELS_LAST, COMPILED, EAGER, Candidate, torch_candidate
from t3d.bench.config import ModelBenchConfig, Numbers, Program
from t3d.bench.exported import Exports, installed, open_file
from t3d.bench.finish import finished
from t3d.bench.layers import layer_times
from t3d.bench.measure import measure_rows
from t3d.bench.opening import Subject, open_subject, threads
from t3d.bench.peaks import Peaks
from t3d.bench.peers import open_peers
from t3d.bench.result import BenchResult, LayerTime
from t3d.bench.textbook import has_textbook, textbook
from t3d.bench.work import Work, work_of
from t3d.device import has_bf16, pick_device
from t3d.errors import ConfigError
from t3d.models.densenet3d import DenseNet3D
from t3d.runtime.formats import INSTALL

_PROGRAMS: dict[Program, str] = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}


def bench_model(config: ModelBenchConfig) -> BenchResult:
    """Time a network in every way of computing it.

    The reference is the network in eager PyTorch: inference mode, float32, contiguous, batch 1.

    Args:
        config: What to measure.

    Returns:
        One row per way, the reference first.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: There is no such model or device, or a package is not installed.
    """
    device = pick_device(config.device)
    subject = open_subject(config.model, num_frames=config.num_frames, size=config.size)
    precisions, programs = _precisions(config, device), _programs(config, subject, device)
    with threads(config.threads) as count, tempfile.TemporaryDirectory() as folder:
        exports = Exports(subject.net, subject.spec, Path(folder))
        candidates = [
            *_own(subject, precisions, programs, device, Path(folder)),
            *_exported(subject, precisions, programs, exports),
            *(_peers(subject, precisions, programs, device, Path(folder)) if config.peers else ()),
        ]
        measured = measure_rows(candidates, batch=config.batch, seconds=config.seconds, device=device)
        result = finished("model", subject, candidates, measured, device, count, memory=config.memory)
        if config.layers:
            layers = _layers(subject, exports, precisions, result.peaks)
            result = replace(result, layers=layers)
        return result


def _precisions(config: ModelBenchConfig, device: torch.device) -> tuple[Numbers, ...]:
    if config.precision:
        return tuple(dict.fromkeys(("fp32", *config.precision)))  # the reference is fp32
    return ("fp32", "bf16") if has_bf16(device) else ("fp32",)


def _programs(config: ModelBenchConfig, subject: Subject, device: torch.device) -> tuple[Program, ...]:
    """Return the programs to measure.

    Raises:
        ConfigError: One of them cannot be used here.
    """
    exportable: list[Program] = []
    if device.type == "cpu" and subject.file is None:
        exportable = [name for name in ("openvino", "onnx") if installed(name)]
    for name in config.runtimes:
        if name in ("torch", "compile", *exportable) or subject.file is not None:
            continue
        if device.type != "cpu":
            raise ConfigError(
                f"runtimes contains {name}, which computes on the CPU, and device is {device}. Remove {name} "
                "from `runtimes`, or use device cpu"
            )
        raise ConfigError(f"runtimes contains {name}, whose packages are not installed: {INSTALL}")
    if config.runtimes:
        return tuple(dict.fromkeys(("torch", *config.runtimes)))
    return ("torch", "compile", *exportable) if config.peers else ("torch", *exportable)


def _own(
    subject: Subject,
    precisions: Sequence[Numbers],
    programs: Sequence[Program],
    device: torch.device,
    folder: Path,
) -> Iterator[Candidate]:
    """Yield the network in torch, the reference first."""
    work = work_of(subject.scorer, subject.shape)
    saved = folder / "network.pt"
    torch.save(subject.scorer, saved)
    network = (subject.name, subject.scorer, subject.shape, work)
    yield torch_candidate(network, EAGER, "fp32", device, saved=saved, eager=True, fixed_batch=1)
    settings = [EAGER, CHANNELS_LAST, *([COMPILED] if "compile" in programs else [])]
    for setting in settings:
        for precision in precisions:
            if precision == "int8" or (setting, precision) == (EAGER, "fp32"):
                continue
            yield torch_candidate(network, setting, precision, device, saved=saved, eager=True)


def _exported(
    subject: Subject, precisions: Sequence[Numbers], programs: Sequence[Program], exports: Exports
) -> Iterator[Candidate]:
    """Yield the rows of exported files."""
    work = work_of(subject.scorer, subject.shape)
    if subject.file is not None:
        form: Program = "openvino" if subject.file.suffix.lower() == ".xml" else "onnx"
        for precision in precisions if form == "openvino" else ("fp32",):
            yield _file(subject, subject.file, form, precision, work)
        return
    for form in ("openvino", "onnx"):
        if form not in programs:
            continue
        for precision in precisions:
            if form == "onnx" and precision != "fp32":
                continue
            yield _file(subject, exports, form, precision, work)


def _file(
    subject: Subject, source: Exports | Path, form: Program, precision: Numbers, work: Work
) -> Candidate:
    """Return the row of an exported file: one that exists, or one that is written when the row is opened."""
    assert form in ("openvino", "onnx")

    def path() -> Path:
        return source if isinstance(source, Path) else source.path(form, int8=precision == "int8")

    job = {"kind": "exported", "path": path, "precision": "auto" if precision == "int8" else precision}
    return Candidate(
        subject.name,
        _PROGRAMS[form],
        precision,
        lambda: open_file(path(), precision),
        False,
        subject.shape,
        work,
        job=job,
    )


def _peers(
    subject: Subject,
    precisions: Sequence[Numbers],
    programs: Sequence[Program],
    device: torch.device,
    folder: Path,
) -> Iterator[Candidate]:
    """Yield the textbook version of the network, then torchvision's networks."""
    floats = [precision for precision in precisions if precision != "int8"]
    if isinstance(subject.net, DenseNet3D) and has_textbook(subject.net) and subject.spec.segments == 1:
        plain = textbook(subject.net)
        saved = folder / "textbook.pt"
        torch.save(plain, saved)
        network = (f"{subject.name}, textbook", plain, subject.shape, work_of(plain, subject.shape))
        for setting in (EAGER, *([COMPILED] if "compile" in programs else [])):
            for precision in floats:
                yield torch_candidate(
                    network, setting, precision, device, saved=saved, eager=True, channels_last=False
                )
    frames, side = subject.shape[1:3]
    for number, (name, net, clip) in enumerate(open_peers(frames, side, num_classes=subject.net.num_classes)):
        shape = (3, clip[0], clip[1], clip[1])
        saved, work = folder / f"peer{number}.pt", work_of(net, shape)
        torch.save(net, saved)
        for setting, precision in ((EAGER, "fp32"), *((CHANNELS_LAST, each) for each in floats[1:])):
            other = (name, net, shape, work)
            yield torch_candidate(other, setting, precision, device, saved=saved)


def _layers(
    subject: Subject, exports: Exports, precisions: Sequence[Numbers], peaks: Peaks
) -> tuple[LayerTime, ...]:
    """Return the times of layers in the last precision that OpenVINO computes."""
    path = subject.file or exports.path("openvino", int8=precisions[-1] == "int8")
    return layer_times(path, bf16=precisions[-1] != "fp32", peaks=peaks)
