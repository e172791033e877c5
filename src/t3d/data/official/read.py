"""Recognize official lists by their form, and check that they are complete."""

from __future__ import annotations

from pathlib import Path

from t3d.data.official.hmdb51 import named_part, read_hmdb51
from t3d.data.official.kinetics import lists_youtube, read_kinetics
from t3d.data.official.listed import OfficialList
from t3d.data.official.ucf101 import lists_ucf101, read_ucf101
from t3d.errors import ManifestError


def read_official(name: str) -> OfficialList | None:
    """Read a list in the official format of UCF101, HMDB51 or Kinetics.

    Args:
        name: One of:

            - one of UCF101's official lists (`.txt`, named as theirs, or with files named as theirs)
            - a list of YouTube videos like those of Kinetics (`.csv` or `.txt` with a column `youtube_id`)
            - the folder of HMDB51's split files, followed by a part of a split: `FOLDER:train1`

    Returns:
        The list; None if the name has none of these forms.

    Raises:
        ManifestError: The list cannot be read, or is not in its format.
    """
    if (part := named_part(name)) is not None:
        folder, word, split = part
        return read_hmdb51(folder, split=split, part=word)
    path = Path(name)
    ending = path.suffix.lower()
    if ending not in (".csv", ".txt") or not path.is_file():
        return None
    if lists_youtube(path):
        return read_kinetics(path)
    return read_ucf101(path) if ending == ".txt" and lists_ucf101(path) else None


def check_list(name: str) -> str | None:
    """Compare a list with the published one, by the numbers of videos and classes.

    Args:
        name: As in `read_official`.

    Returns:
        A sentence that says how they differ; None if they do not, or if no published list is known that this
        one should equal.

    Raises:
        ManifestError: The list cannot be read, is not in its format, or is in none that is known here.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "testlist01.txt"
        >>> _ = file.write_text("Archery/v_Archery_g01_c01.avi")
        >>> check_list(str(file))
        'it lists 1 video of 1 class, but UCF101 split 1 test has 3,783 of 101 as published'
    """
    listed = read_official(name)
    if listed is None:
        raise ManifestError(
            f"{name}: no list of UCF101 (.txt), HMDB51 (FOLDER:train1) or Kinetics (.csv with youtube_id)"
        )
    return listed.difference()
