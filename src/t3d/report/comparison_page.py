"""Page of a comparison of models: one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from t3d.data.inspect.browse import short_names
from t3d.evaluation.comparison import Comparison
from t3d.evaluation.config import CompareConfig
from t3d.evaluation.figures import interval_text
from t3d.evaluation.pictures import inline_svg
from t3d.io.files import content_digest
from t3d.models.weights_file import weights_file
from t3d.report.pages import write_page
from t3d.report.plots import scatter_figure
from t3d.report.sections import Bar, listed, made_of


def write_comparison(
    result: Comparison, path: str | Path, config: CompareConfig, *, command: str = ""
) -> Path:
    """Write the page of a comparison.

    Args:
        result: The comparison.
        path: The .html file.
        config: The models and videos.
        command: Command that made the page.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    rows = result.rows
    names = short_names([row.model for row in rows])
    where = f"{result.threads} thread(s)" if result.device == "cpu" else result.device
    points = [(names[row.model], row.cost.ms_per_video, row.accuracy, row.interval) for row in rows]
    return write_page(
        path,
        "comparison.html",
        title=f"{len(rows)} models on {Path(config.videos).name}",
        sentences=result.sentences(),
        videos=f"{result.videos:,}",
        first=names[rows[0].model],
        accuracies=[
            Bar(
                names[row.model],
                row.accuracy,
                f"{row.accuracy:.1%} ({row.correct:,} right; 95% interval {interval_text(row.interval)})",
            )
            for row in rows
        ],
        scatter=inline_svg(lambda: scatter_figure(points)),
        differences=[
            (
                names[row.model],
                f"{paired.points:+.1f}",
                "–" if paired.standard_error is None else f"{paired.standard_error:.1f}",
                paired.only_this,
                paired.only_first,
                f"{paired.p:.2g}",
                "clear" if paired.clear else "may be chance",
            )
            for row in rows
            if (paired := row.difference) is not None
        ],
        costs=[
            (
                names[row.model],
                f"{row.cost.megabytes:.1f}",
                f"{row.cost.gmac:.2f}",
                f"{row.cost.ms_per_clip:.1f}",
                f"{row.cost.clips_per_video:.1f}",
                f"{row.cost.ms_per_video:.1f}",
            )
            for row in rows
        ],
        machine=where,
        notes=result.notes,
        made=made_of(command, {"videos": listed(config.videos)} | _weights(config)),
    )


def _weights(config: CompareConfig) -> dict[str, str]:
    """Return the weights of each model, with the digest of their content."""
    files = {model: weights_file(model, allow_unfinished=config.allow_unfinished) for model in config.models}
    return {f"model {name}": f"{file.name}, digest {content_digest(file)}" for name, file in files.items()}
