"""Number of videos of the official lists, to detect a truncated list.

UCF101 and HMDB51 have three splits each. The counts are those of the official split files: 13,320 videos in
all for UCF101 (as in its paper and site), and 6,766 for HMDB51 (its site mentions 6,849). For Kinetics, only
counts are here that two places agree on, or that were counted in a list. Without one, `videos` is empty and
only the classes are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_UCF101 = "Soomro et al. 2012, CRCV-TR-12-01, and the lists of its site"
_HMDB51 = "Kuehne et al. 2011: 70 training and 30 test clips per class and split"
_CVDF = "lines of the lists that CVDF hosts, as its arrange_by_classes.py gives them"
_ACTIVITYNET = "lines of the lists in ActivityNet's crawler"


@dataclass(frozen=True)
class Published:
    """Published counts of a list.

    Args:
        dataset: Name of the data set, such as `UCF101`.
        part: Name of the list, such as `split 1 train`.
        classes: Number of classes.
        videos: Number of videos; several where editions differ, empty where no count is sure.
        source: Who says so.
        each: Videos of each class, where all have the same number.

    Example:
        >>> str(PUBLISHED["UCF101 split 1 train"]), PUBLISHED["UCF101 split 1 train"].videos
        ('UCF101 split 1 train', (9537,))
    """

    dataset: str
    part: str
    classes: int
    videos: tuple[int, ...]
    source: str
    each: int | None = None

    def __str__(self) -> str:
        return f"{self.dataset} {self.part}"

    def difference(self, counts: Mapping[str | None, int]) -> str | None:
        """Say how a list differs from the published one.

        Args:
            counts: Videos by class, under None those without a label.

        Returns:
            A sentence without its full stop; None if the numbers agree.

        Example:
            >>> PUBLISHED["UCF101 split 1 train"].difference({"Archery": 104})
            'it lists 104 videos of 1 class, but UCF101 split 1 train has 9,537 of 101 as published'
        """
        total, labeled = sum(counts.values()), [name for name in counts if name is not None]
        odd = [f"{name} {counts[name]}" for name in labeled if self.each not in (None, counts[name])]
        right_total = not self.videos or total in self.videos
        right_classes = not labeled or len(labeled) == self.classes
        if right_total and right_classes and not odd:
            return None
        listed = f"{total:,} video{'s' * (total != 1)}"
        listed += f" of {len(labeled)} class{'es' * (len(labeled) != 1)}" if labeled else ""
        allowed = " or ".join(f"{number:,}" for number in self.videos) or "videos"
        uneven = f"; not {self.each} of each class: {', '.join(odd[:5])}" if odd else ""
        return f"it lists {listed}, but {self} has {allowed} of {self.classes} as published{uneven}"


def _all() -> list[Published]:
    ucf101 = ((9537, 3783), (9586, 3734), (9624, 3696))
    lists = []
    for split, (train, test) in enumerate(ucf101, 1):
        lists.append(Published("UCF101", f"split {split} train", 101, (train,), _UCF101))
        lists.append(Published("UCF101", f"split {split} test", 101, (test,), _UCF101))
        lists.append(Published("HMDB51", f"split {split} train", 51, (3570,), _HMDB51, each=70))
        lists.append(Published("HMDB51", f"split {split} test", 51, (1530,), _HMDB51, each=30))
    return [
        *lists,
        Published("Kinetics-400", "train", 400, (246_534,), _CVDF),
        Published("Kinetics-400", "val", 400, (19_906,), f"{_CVDF}, and {_ACTIVITYNET}"),
        Published("Kinetics-400", "test", 400, (39_805, 38_685), f"{_CVDF}, or {_ACTIVITYNET}"),
        Published("Kinetics-600", "train", 600, (), "Carreira et al. 2018"),
        Published("Kinetics-600", "val", 600, (30_000,), _ACTIVITYNET),
        Published("Kinetics-600", "test", 600, (72_924,), _ACTIVITYNET),
        *(
            Published("Kinetics-700", part, 700, (), "Carreira et al. 2019")
            for part in ("train", "val", "test")
        ),
    ]


PUBLISHED: Mapping[str, Published] = {str(published): published for published in _all()}
"""Every list with its name as key, such as `HMDB51 split 2 test` or `Kinetics-400 val`."""
