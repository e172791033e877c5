from __future__ import annotations

import re

import pytest

from t3d.data.manifest.sources import HMDB51_CLASSES
from t3d.data.official.published import PUBLISHED


def test_the_parts_of_a_split_add_up() -> None:
    for split in (1, 2, 3):
        ucf101, hmdb51 = (
            [PUBLISHED[f"{name} split {split} {part}"] for part in ("train", "test")]
            for name in ("UCF101", "HMDB51")
        )
        assert sum(part.videos[0] for part in ucf101) == 13_320
        assert [part.videos[0] for part in hmdb51] == [51 * 70, 51 * 30]
    assert len(set(HMDB51_CLASSES)) == 51
    assert all(published.source for published in PUBLISHED.values())


def test_a_whole_list_does_not_differ() -> None:
    whole = dict.fromkeys(HMDB51_CLASSES, 30)
    assert PUBLISHED["HMDB51 split 3 test"].difference(whole) is None
    assert PUBLISHED["Kinetics-400 test"].difference({None: 38_685}) is None
    assert PUBLISHED["Kinetics-400 test"].difference({None: 39_805}) is None
    assert PUBLISHED["Kinetics-700 train"].difference({str(i): 9 for i in range(700)}) is None


@pytest.mark.parametrize(
    ("name", "counts", "says"),
    [
        (
            "Kinetics-400 test",
            {None: 5},
            "it lists 5 videos, but Kinetics-400 test has 39,805 or 38,685 of 400",
        ),
        ("Kinetics-700 val", {"a": 1, "b": 2}, "it lists 3 videos of 2 classes, but .* has videos of 700 as"),
        (
            "HMDB51 split 1 train",
            {**dict.fromkeys(HMDB51_CLASSES, 70), "run": 71, "eat": 69},
            "it lists 3,570 videos of 51 .* as published; not 70 of each class: eat 69, run 71",
        ),
    ],
)
def test_differences_are_reported(name: str, counts: dict[str | None, int], says: str) -> None:
    difference = PUBLISHED[name].difference(counts)
    assert difference is not None
    assert re.search(says, difference)
