"""Write the explanations of videos into a folder: a page, videos with heat, contact sheets and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3d.card import ModelCard
from t3d.data.catalog import open_index
from t3d.data.index import VideoIndex
from t3d.errors import ConfigError, Failed, VideoError, without_secrets
from t3d.explanation.by_class import depths_by_class
from t3d.explanation.config import ExplainConfig
from t3d.explanation.depths import DepthShare
from t3d.explanation.pictures import contact_sheet
from t3d.explanation.result import Explanation
from t3d.io.files import atomic_path
from t3d.io.video_cache import shown_path
from t3d.report.explain_folder import PAGE, RECORD, remove_earlier
from t3d.report.explain_page import MOST_BYTES, VideoRow, VideoSection, video_section, write_explanation_page
from t3d.report.file_names import numbered, stem_of
from t3d.report.heat_video import write_heat_video


@dataclass
class Written:
    """Files of a folder of explanations.

    Args:
        page: The page.
        record: All explanations as JSON.
        videos: Number of explained videos.
        bad: Videos that could not be read, or whose files could not be written. URLs have no password and no
            query.
    """

    page: Path
    record: Path
    videos: int = 0
    bad: list[Failed] = field(default_factory=list)


def write_explanations(
    results: Iterable[Explanation | Failed],
    config: ExplainConfig,
    card: ModelCard,
    *,
    command: str = "",
    shown: Callable[[Explanation], None] = lambda _: None,
) -> Written:
    """Write explanations as they are made. Without any, there is no page.

    A video whose files cannot be written is reported in `Written.bad`, and the others are explained. Files of
    an earlier explanation are deleted when the first new one is made, see `check_out`.

    Args:
        results: Explanations, see `Explainer.many`.
        config: What is explained.
        card: Card of the model.
        command: Command that made them.
        shown: Called with each explanation.

    Raises:
        WriteError: A file cannot be written.
    """
    folder = _Folder(config, card)
    for result in results:
        if isinstance(result, Failed):
            folder.failed(result.path, result.reason)
        elif folder.add(result):
            shown(result)
    if folder.written.videos:
        folder.finish(without_secrets(command))
    return folder.written


class _Folder:
    """The folder while it is written. Its record lists each file before the file exists."""

    def __init__(self, config: ExplainConfig, card: ModelCard) -> None:
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.config, self.card = config, card
        self.index: VideoIndex | None = open_index(config.index)
        self.written = Written(self.out / PAGE, self.out / RECORD)
        self.sections: list[VideoSection] = []
        self.rows: list[VideoRow] = []
        self.depths: list[tuple[str, tuple[DepthShare, ...]]] = []
        self.lines: list[dict[str, Any]] = []
        self.files: list[str] = []
        self.taken: set[str] = set()
        self.cleared = False

    def failed(self, path: str, reason: str) -> None:
        """Report a video."""
        self.written.bad.append(Failed(shown_path(path), without_secrets(reason)))

    def add(self, result: Explanation) -> bool:
        """Write the files of a video. Returns whether this was possible."""
        if not self.cleared:
            remove_earlier(self.out)
            self.cleared = True
        line = result.to_dict()
        anchor = ""
        if len(self.sections) < self.config.detailed:
            files = self._write_files(result)
            if files is None:
                return False
            line["files"] = files
            pictures = sum(section.size for section in self.sections) < MOST_BYTES
            anchor = f"video-{len(self.sections) + 1}"
            self.sections.append(video_section(result, files=files, pictures=pictures, anchor=anchor))
        self.rows.append(VideoRow.of(result, anchor))
        self.lines.append(line)
        self.depths.append((result.label, result.depths))
        self.written.videos += 1
        return True

    def _write_files(self, result: Explanation) -> list[str] | None:
        """Write contact sheet and video with heat; None, and neither file, if the video cannot be."""
        name = self._name(result.path)
        sheet, video = files = [f"{name}.png", f"{name}-gradcam.mp4"]
        self.files += files
        self._write_record()
        with atomic_path(self.out / sheet) as temporary:
            contact_sheet(result.clips).save(temporary, "PNG")
        limits, image_fps = self.config.limits, self.config.image_fps
        try:
            write_heat_video(result, self.out / video, index=self.index, limits=limits, image_fps=image_fps)
        except VideoError as error:
            self.failed(result.path, error.reason or str(error))
        except ConfigError as error:  # such as a size that H.264 does not have
            self.failed(result.path, f"its video with heat cannot be written: {error}")
        else:
            return files
        (self.out / sheet).unlink()
        self.files = self.files[: -len(files)]
        if not self.files:
            self.written.record.unlink()
        return None

    def _name(self, path: str) -> str:
        """Return a name for the files of a video that no other video has, whatever the case of letters."""
        stem, number = stem_of(path), 1
        while (name := numbered(stem, number)).casefold() in self.taken:
            number += 1
        self.taken.add(name.casefold())
        return name

    def _write_record(self) -> None:
        values = {
            "model": self.config.model,
            "architecture": self.card.architecture,
            "files": [PAGE, RECORD, *self.files],
            "videos": self.lines,
            "classes": [
                {"label": each.label, "videos": each.videos, "depths": [vars(depth) for depth in each.depths]}
                for each in depths_by_class(self.depths)
            ],
            "bad": [{"path": failed.path, "reason": failed.reason} for failed in self.written.bad],
        }
        with atomic_path(self.written.record) as temporary:
            temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def finish(self, command: str) -> None:
        """Write record and page."""
        self._write_record()
        write_explanation_page(
            self.written.page,
            self.config,
            self.card,
            sections=self.sections,
            rows=self.rows,
            classes=depths_by_class(self.depths),
            bad=[str(failed) for failed in self.written.bad],
            command=command,
        )
