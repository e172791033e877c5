"""Options of `t3d prepare` and `t3d data` that select the videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.errors import ManifestError, NoClassFolderError

if TYPE_CHECKING:
    from t3d.data.index import VideoIndex
    from t3d.data.manifest.manifest import Manifest


@dataclass(frozen=True)
class VideoSet:
    """The videos of a data set.

    Args:
        videos: Folder with one folder per class, table (`.csv`, `.tsv`, `.txt`, `.jsonl`), official list,
            index (`.parquet`), a single video, or a pattern of videos such as 'clips/**/*.mp4'.
        root: Folder that relative paths of a table start from, or that has the files of an official list.
        classes: Class file that names the class numbers of a list, with lines `NUMBER NAME`, `NAME NUMBER` or
            `NAME` (counted from 0), or JSON. Default: for a table, the class file in its folder, if there is
            one.
        unlabeled: Use all videos of a folder, without classes.
        source_pattern: Regular expression, searched in a video's path without its ending. The part in
            parentheses is the name of the recording or scene that the video was cut from: its group (column
            `source`).
    """

    videos: str
    root: str | None = None
    classes: str | None = None
    unlabeled: bool = False
    source_pattern: str | None = None

    def open(self) -> Manifest:
        """Read the list.

        Raises:
            ManifestError: The list cannot be read.
            ConfigError: `root` is set for a folder of videos, which does not use it.
        """
        from t3d.data.catalog import open_manifest, refuse_unused_root
        from t3d.data.listing import OTHER_ENDINGS, ending_of, is_video
        from t3d.data.manifest.manifest import Manifest
        from t3d.data.patterns import expanded, is_pattern
        from t3d.video.image_names import is_image_folder

        refuse_unused_root(self.root, self.videos)
        path = Path(self.videos)
        one = is_image_folder(path) or (is_video(path.name) and path.is_file())
        if one or (self.unlabeled and path.is_dir()):
            return Manifest.from_files([self.videos], source_pattern=self.source_pattern)
        if is_pattern(self.videos) and ending_of(self.videos) not in OTHER_ENDINGS:
            return Manifest.from_files(expanded([self.videos]), source_pattern=self.source_pattern)
        try:
            return open_manifest(
                self.videos, root=self.root, source_pattern=self.source_pattern, classes=self.classes
            )
        except NoClassFolderError as error:
            raise ManifestError(f"{error}, or add `unlabeled` to use the videos without labels") from error


@dataclass(frozen=True)
class VideoLists:
    """Lists of videos to compare.

    Args:
        lists: Lists of videos. Each is a folder with one folder per class, a table (`.csv`, `.tsv`, `.txt`,
            `.jsonl`), an official list, or an index (`.parquet`).
        root: Folder that relative paths of tables start from, or that has the files of official lists.
        source_pattern: Regular expression, searched in a video's path without its ending. The part in
            parentheses is the name of the recording or scene that the video was cut from: its group (column
            `source`).
        index: Index of the files, written by `t3d prepare index`.
        classes: Class file that names the class numbers of a list, with lines `NUMBER NAME`, `NAME NUMBER` or
            `NAME` (counted from 0), or JSON. Default: for a table, the class file in its folder, if there is
            one.
    """

    lists: list[str]
    root: str | None = None
    source_pattern: str | None = None
    index: str | None = None
    classes: str | None = None

    def open(self) -> tuple[dict[str, Manifest], VideoIndex | None]:
        """Read the lists by name, and the index of their files if there is one.

        Raises:
            ManifestError: A list cannot be read.
            ConfigError: `root` is set, but all lists are folders of videos, which do not use it.
        """
        from t3d.data.catalog import open_index, open_manifest, roots_of

        manifests = {
            name: open_manifest(name, root=root, source_pattern=self.source_pattern, classes=self.classes)
            for name, root in zip(self.lists, roots_of(self.root, *self.lists), strict=True)
        }
        return manifests, open_index(self.index, *self.lists, root=self.root)

    def folder_of(self, name: str) -> str:
        """Return the folder that relative paths in a list start from if `root` is not set."""
        return name if Path(name).is_dir() else str(Path(name).parent)
