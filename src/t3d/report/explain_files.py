"""Write the explanations of videos into a folder: a page, videos with heat, contact sheets and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from t3d.card import ModelCard
from t3d.data.catalog import open_index
from t3d.data.listing import is_video
from t3d.errors import ConfigError, Failed, VideoError
from t3d.explanation.by_class import depths_by_class
from t3d.explanation.config import ExplainConfig
from t3d.explanation.depths import DepthShare
from t3d.explanation.pictures import contact_sheet
from t3d.explanation.result import Explanation
from t3d.io.files import atomic_path
from t3d.report.explain_page import MOST_BYTES, VideoSection, video_section, write_explanation_page
from t3d.report.heat_video import write_heat_video

PAGE, RECORD = "explanation.html", "explanation.json"


@dataclass
class Written:
    """Files of a folder of explanations.

    Args:
        page: The page.
        record: All explanations as JSON.
        videos: Number of explained videos.
        bad: Videos that could not be read.
    """

    page: Path
    record: Path
    videos: int = 0
    bad: list[Failed] = field(default_factory=list)


def check_out(config: ExplainConfig) -> None:
    """Refuse a folder that has explanations already.

    Raises:
        ConfigError: It has, and `overwrite` is not set; or it is a file.
    """
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"`out` is {out}, which is a file; choose a folder")
    if (out / RECORD).exists() and not config.overwrite:
        raise ConfigError(f"{out / RECORD} already exists; choose another `out`, or set `overwrite`")


def write_explanations(
    results: Iterable[Explanation | Failed],
    config: ExplainConfig,
    card: ModelCard,
    *,
    command: str = "",
    shown: Callable[[Explanation], None] = lambda _: None,
) -> Written:
    """Write explanations as they are made. Without any, there is no page.

    Args:
        results: Explanations, see `Explainer.many`.
        config: What is explained.
        card: Card of the model.
        command: Command that made them.
        shown: Called with each explanation.

    Raises:
        WriteError: A file cannot be written.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    written = Written(out / PAGE, out / RECORD)
    sections: list[VideoSection] = []
    depths: list[tuple[str, tuple[DepthShare, ...]]] = []
    lines = []
    taken: set[str] = set()
    size = 0
    index = open_index(config.index)
    for result in results:
        if isinstance(result, Failed):
            written.bad.append(result)
            continue
        line = result.to_dict()
        if len(sections) < config.detailed:
            name = _name(result.path, taken)
            files = [f"{name}.png", f"{name}-gradcam.mp4"]
            with atomic_path(out / files[0]) as temporary:
                contact_sheet(result.clips).save(temporary, "PNG")
            try:
                write_heat_video(
                    result, out / files[1], index=index, limits=config.limits, image_fps=config.image_fps
                )
            except VideoError as error:
                written.bad.append(Failed(error.path, error.reason))
                continue
            line["files"] = files
            sections.append(video_section(result, files=files, pictures=size < MOST_BYTES))
            size += sections[-1].size
        lines.append(line)
        depths.append((result.label, result.depths))
        written.videos += 1
        shown(result)
    if not written.videos:
        return written
    classes = depths_by_class(depths)
    values = {
        "model": config.model,
        "architecture": card.architecture,
        "videos": lines,
        "classes": [
            {"label": each.label, "videos": each.videos, "depths": [vars(depth) for depth in each.depths]}
            for each in classes
        ],
        "bad": [{"path": failed.path, "reason": failed.reason} for failed in written.bad],
    }
    with atomic_path(written.record) as temporary:
        temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_explanation_page(
        written.page,
        config,
        card,
        sections=sections,
        classes=classes,
        videos=written.videos,
        bad=[str(failed) for failed in written.bad],
        command=command,
    )
    return written


def _name(path: str, taken: set[str]) -> str:
    """Return a name for the files of a video that no other video has."""
    file = Path(path.rpartition("/")[2])
    stem = file.stem if is_video(path) else file.name  # that of a folder of images may have dots
    name, number = stem, 2
    while name in taken:
        name = f"{stem}-{number}"
        number += 1
    taken.add(name)
    return name
