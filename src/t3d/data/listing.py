"""Find the videos below a folder, and count the other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from t3d.errors import Failed, ManifestError
from t3d.io.files import refuse_url
from t3d.video.image_names import are_frames

_ENDINGS = """
.264 .265 .266 .3g2 .3gp .3gp2 .3gpp .amv .apng .asf .avc .avi .bik .cavs .divx .dv .evo .f4v .flc .fli
.flv .gif .gxf .h261 .h263 .h264 .h265 .h266 .hevc .ismv .ivf .m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjp2
.mjpeg .mjpg .mk3d .mkv .mov .mp2v .mp4 .mpe .mpeg .mpg .mpv .mpv2 .mts .mxf .nsv .nut .obu .ogm .ogv .qt
.rm .rmvb .roq .smk .swf .thp .tod .trp .ts .vc1 .vob .vro .webm .wmv .wtv .y4m
"""
VIDEO_ENDINGS = frozenset(_ENDINGS.split())
"""Endings of videos. Files with these endings are taken without being opened."""
_OTHER_ENDINGS = """
.7z .aac .ac3 .aif .aiff .ass .bmp .bz2 .c .cfg .conf .css .csv .db .doc .docx .eps .exr .flac .gz .h .h5
.hdf5 .heic .htm .html .ico .idx .ini .ipynb .jpeg .jpg .js .json .jsonl .lock .log .m3u .m3u8 .m4a .mat
.md .md5 .mid .mp3 .npy .npz .nfo .odt .oga .ogg .onnx .opus .parquet .part .pdf .pgm .pickle .pkl .png
.pnm .ppm .ppt .pptx .psd .pt .pth .py .pyc .rar .rst .rtf .safetensors .sh .sha256 .sqlite .srt .sub
.svg .tar .tex .tfrecord .tga .tgz .tif .tiff .toml .torrent .tsv .txt .url .vtt .wav .webp .weights .wma
.xls .xlsx .xml .xz .yaml .yml .zip .zst
"""
OTHER_ENDINGS = frozenset(_OTHER_ENDINGS.split())
"""Endings of other files, which are not opened either. Files with any further ending are probed."""
_TRIES = 20  # files of one ending that are probed before all others of that ending are passed over
_KNOWN_FOLDER = "folder listed before"


def is_video(name: str) -> bool:
    """Return whether a file's ending is that of a video; the file is not opened.

    Args:
        name: A file name or path.

    Example:
        >>> is_video("Jump/Clip 1.MP4"), is_video("notes.txt")
        (True, False)
    """
    # pathlib needs seconds for a million names
    return os.path.splitext(name)[1].lower() in VIDEO_ENDINGS  # noqa: PTH122


def in_name_order(names: Iterator[str] | list[str] | set[str]) -> list[str]:
    """Sort by name regardless of case; names that differ in case alone keep a fixed order too."""
    return sorted(names, key=lambda name: (name.casefold(), name))


def videos_below(folder: str) -> tuple[list[str], Counter[str]]:
    """Find the videos in a folder and its subfolders; see `VideoSearch`.

    Args:
        folder: The folder.

    Returns:
        Paths relative to `folder` with forward slashes, in name order; and the number of skipped files
        by reason.

    Raises:
        ManifestError: The folder, or one below it, cannot be read.
    """
    search = VideoSearch()
    return search.below(folder), search.skipped


class VideoSearch:
    """Search for videos below one or several folders. A subfolder that holds only images is one video.

    Known endings decide alone. A file with any other ending is probed: it is a video if FFmpeg decodes a
    frame near its start (`t3d.video.probe`). If none of the first 20 files of an ending, in name order, is a
    video, the others of that ending are passed over. Hidden files and folders (whose names begin with a dot)
    are skipped. Links are followed, and each real folder is searched once, by its own name where it has one.

    Args:
        unreadable: List that collects folders that cannot be read; None raises an error instead.
    """

    def __init__(self, unreadable: list[Failed] | None = None) -> None:
        self.unreadable = unreadable
        self.skipped: Counter[str] = Counter()
        """Number of skipped files by ending (`.txt`), or as `hidden`, `no ending`, `broken link`,
        `not a file`, `folder listed before`."""
        self.probed: Counter[str] = Counter()
        """Number of files with other endings that are videos by their content, by ending."""
        self._failed: Counter[str] = Counter()
        self._seen: set[tuple[int, int]] = set()

    def enter(self, folder: str) -> bool:
        """Mark a folder as searched. Return False if it was, by this or another name.

        Raises:
            ManifestError: It does not exist, or cannot be read.
        """
        try:
            status = Path(folder).stat()
        except OSError as error:
            raise _unlisted(folder, error) from error
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            self.skipped[_KNOWN_FOLDER] += 1
            return False
        self._seen.add(identity)
        return True

    def below(self, folder: str) -> list[str]:
        """Return the videos below a folder, relative to it with forward slashes, in name order.

        Raises:
            ManifestError: The folder cannot be read; or one below it, without a list `unreadable`.
        """
        return self.below_each([folder]).get(folder, [])

    def below_each(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Return the videos below several folders, as `below` does.

        A folder that is a link to one that was searched is left out.

        Raises:
            ManifestError: As in `below`.
        """
        videos: dict[str, list[str]] = {}
        unknown: dict[str, list[str]] = {folder: [] for folder in folders}
        real = [(folder, folder, "") for folder in reversed(folders)]
        links = [place for place in reversed(real) if len(folders) > 1 and Path(place[0]).is_symlink()]
        real = [place for place in real if place not in links]
        while real or links:  # all real folders before any link, which may lead to one of them
            folder, path, prefix = real.pop() if real else links.pop(0)
            try:
                if not self.enter(path):
                    continue
                entries = scan(path)
            except ManifestError as error:
                if self.unreadable is None or not prefix:
                    raise
                self.unreadable.append(Failed(path, str(error).removeprefix(f"{path}: ").partition(";")[0]))
                continue
            names = videos.setdefault(folder, [])
            if prefix and is_frames(entries):
                names.append(prefix.rstrip("/"))
                continue
            for entry in sorted(entries, key=lambda entry: entry.name):
                reason = passed_over(entry)
                if entry.is_dir() and reason is None:
                    places = links if entry.is_symlink() else real
                    places.append((folder, entry.path, f"{prefix}{entry.name}/"))
                elif reason is None:
                    names.append(prefix + entry.name)
                elif may_be_video(reason):
                    unknown[folder].append(prefix + entry.name)
                else:
                    self.skipped[reason] += 1
        for folder, names in unknown.items():
            videos.get(folder, []).extend(name for name in in_name_order(names) if self.takes(folder, name))
        return {folder: in_name_order(videos[folder]) for folder in folders if folder in videos}

    def takes(self, folder: str, name: str) -> bool:
        """Probe a file of an unknown ending, and count it as taken or skipped."""
        from t3d.video.probe import holds_video

        ending = ending_of(name)
        tried = self.probed[ending] or self._failed[ending] < _TRIES
        if tried and holds_video(Path(*joined(folder, [name]))):
            self.probed[ending] += 1
            return True
        self._failed[ending] += 1
        self.skipped[ending] += 1
        return False


def passed_over(entry: os.DirEntry[str]) -> str | None:
    """Return why a directory entry is skipped, or None if it is a video or a folder to search.

    Args:
        entry: Entry of `os.scandir`.
    """
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_dir():
        return None
    if not entry.is_file():
        return "broken link" if entry.is_symlink() else "not a file"
    return None if is_video(entry.name) else ending_of(entry.name)


def ending_of(name: str) -> str:
    """Return the ending of a name in lower case, such as `.txt`, or `no ending`."""
    return PurePosixPath(name).suffix.lower() or "no ending"


def may_be_video(reason: str) -> bool:
    """Return whether a file that `passed_over` names by its ending is probed."""
    return (reason.startswith(".") or reason == "no ending") and reason not in OTHER_ENDINGS


def is_frames(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Return whether the entries of a folder are the frames of one video: images, and nothing else."""
    return are_frames(entry.name for entry in entries) and not any(entry.is_dir() for entry in entries)


def scan(folder: str) -> list[os.DirEntry[str]]:
    """List one folder.

    Args:
        folder: The folder.

    Raises:
        ManifestError: It does not exist, is not a folder, or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unlisted(folder, error) from error


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute path without `.` and `..`; a link stays a link, since its name may be the class.

    Raises:
        ManifestError: The path is a URL.
    """
    refuse_url(path, error=ManifestError)
    return os.path.abspath(os.fspath(path))  # noqa: PTH100


def joined(base: str, relative: list[str]) -> list[str]:
    """Join paths with forward slashes to a folder, without pathlib, which needs seconds for a million."""
    prefix = base.rstrip(os.sep) + os.sep
    return [prefix + path.replace("/", os.sep) for path in relative]


def _unlisted(folder: str, error: OSError) -> ManifestError:
    return ManifestError(f"{folder}: cannot be listed ({error.strerror}); give a readable folder")
