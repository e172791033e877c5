"""Names of the files that belong to a video."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from t3d.data.listing import is_video
from t3d.io.files import is_url

_LONGEST = 120  # bytes, so that endings and the temporary names of unfinished files fit into 255


def stem_of(path: str, *, longest: int = _LONGEST) -> str:
    """Return a name for files of a video: that of its file or URL without its ending, at most 120 bytes long.

    Args:
        path: The file, folder of images, or URL. The query of a URL may be a secret, so it is left out.
        longest: Largest number of bytes in UTF-8. A character is never cut.

    Example:
        >>> stem_of("https://example.org/clips/a%20b.mp4?signature=1"), stem_of("/videos/2024.05.01")
        ('a b', '2024.05.01')
        >>> stem_of("/videos/坐坐坐.mp4", longest=7)
        '坐坐'
    """
    name = unquote(urlsplit(path).path) if is_url(path) else path
    file = Path(name.rstrip("/").rpartition("/")[2])
    stem = file.stem if is_video(file.name) else file.name  # that of a folder of images may have dots
    stem = stem.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore").strip()
    return stem if stem.strip(".") else "video"


def numbered(stem: str, number: int) -> str:
    """Return the name of the second and later videos with the same stem.

    Example:
        >>> numbered("clip", 1), numbered("clip", 2)
        ('clip', 'clip-2')
    """
    return stem if number == 1 else f"{stem}-{number}"
