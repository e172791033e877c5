"""Page of a test: one self-contained HTML file to send to others."""

from __future__ import annotations

from pathlib import Path

from t3d.card import ModelCard
from t3d.evaluation.config import TestConfig
from t3d.evaluation.frame_orders import FrameOrders
from t3d.evaluation.run_test import TestResult
from t3d.io.files import content_digest
from t3d.models.weights_file import weights_file
from t3d.report.pages import headline_figures, write_page
from t3d.report.pictures import Camera
from t3d.report.sections import clip_text, curve_drawings, listed, made_of, order_section, result_section
from t3d.runtime.load import read_model_card
from t3d.training.logging import read_log


def write_evaluation(
    result: TestResult,
    path: str | Path,
    config: TestConfig,
    *,
    orders: FrameOrders | None = None,
    command: str = "",
) -> Path:
    """Write the page of a test.

    Args:
        result: The result.
        path: The .html file.
        config: What was tested, and how.
        orders: Accuracies with the frames in other orders, if they were tested, too.
        command: Command that made the page.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    card = read_model_card(config.model, allow_unfinished=config.allow_unfinished)
    metrics, reading = result.metrics, config.reading
    return write_page(
        path,
        "evaluation.html",
        title=f"{Path(config.model).name} on {Path(config.videos).name}",
        headline=metrics.headline(),
        remarks=[*metrics.remarks(), *result.shared_sentences()],
        figures=headline_figures(metrics),
        section=result_section(metrics, result.scores, Camera(reading.limits, reading.image_fps)),
        orders=None if orders is None else order_section(orders),
        curves=curves_of(config.model),
        bad=[str(failed) for failed in result.scores.bad],
        made=made_of_test(config, card, command),
    )


def curves_of(model: str) -> list[str]:
    """Return the curves of the run that a model is from; empty for other models.

    Args:
        model: Run folder, or a file in it.
    """
    path = Path(model)
    return curve_drawings(read_log((path if path.is_dir() else path.parent) / "log.jsonl"))


def made_of_test(config: TestConfig, card: ModelCard | None, command: str) -> list[tuple[str, str]]:
    """Return where the figures of a test come from: names and values.

    Args:
        config: What was tested, and how.
        card: Card of the model.
        command: Command that made the page.
    """
    weights = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    facts: dict[str, object] = {
        "model": f"{config.model} ({'' if card is None else card.architecture})",
        "weights": f"{weights.name}, digest {content_digest(weights)}",
        "videos": listed(config.videos),
        "clip": "" if card is None else clip_text(card.clip),
        "frame order": config.frame_order,
        "precision": config.compute.precision,
    }
    if card is not None:
        facts |= {f"model: {name}": value for name, value in card.provenance.items()}
    return made_of(command, facts)
