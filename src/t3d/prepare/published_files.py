"""Files of video data sets that their publishers offer for download.

Addresses, sizes and digests are those of the named source. Unknown ones are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_KINETICS = "https://s3.amazonaws.com/kinetics"
_HMDB51 = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_UCF101 = "https://www.crcv.ucf.edu/data/UCF101"
_YOUTUBE = (
    "is published as IDs of YouTube videos, which t3d does not download: get those you may use, name each "
    "file ID.mp4, and put them into a list (docs/guides/data.md, YouTube videos without labels)"
)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        url: Its URL.
        size: Size in bytes, if it is published.
        digest: SHA-256 or MD5, if it is published.
        nested: Whether it is an archive of archives.
    """

    url: str
    size: int | None = None
    digest: str | None = None
    nested: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a data set that can be downloaded alone.

    Args:
        files: Its files.
        links: URL of a text that lists its files instead, one address per line.
        about: Description with the size, for people.
        size: Exact or approximate size in bytes, if it is published.
        asked: Whether to download it only when the user names it.
    """

    files: tuple[RemoteFile, ...] = ()
    links: str | None = None
    about: str = ""
    size: int | None = None
    asked: bool = False


@dataclass(frozen=True)
class PublishedSet:
    """A dataset that can be downloaded.

    Args:
        parts: Its parts by name.
        terms: Terms of use, and where the publishers state them.
        train_list: Its list of training videos, below the folder that it was downloaded to.
        train_videos: The folder of the list's videos, below the same folder.
    """

    parts: Mapping[str, Part]
    terms: str
    train_list: str
    train_videos: str


def _kinetics(
    folder: str, name: str, lists: tuple[str, ...], sizes: Mapping[str, int], more: Mapping[str, Part]
) -> PublishedSet:
    videos = {
        part: Part(
            links=f"{_KINETICS}/{folder}/{part}/{name}_{part}_path.txt",
            about=f"videos, about {sizes[part]} GB",
            size=sizes[part] * 10**9,
        )
        for part in ("train", "val", "test")
    }
    files = tuple(RemoteFile(f"{_KINETICS}/{folder}/annotations/{file}") for file in lists)
    return PublishedSet(
        parts={"annotations": Part(files, about="the lists")} | videos | dict(more),
        terms="The videos are those of YouTube's users. See https://github.com/cvdfoundation/kinetics-dataset",
        train_list=f"annotations/{lists[0]}",
        train_videos="train",
    )


# UCF101: lists and zip, with size and digest, from TensorFlow Datasets (tensorflow_datasets/video/ucf101.py
# and url_checksums/ucf101.txt); the zip is that of the THUMOS challenge 2014. The rar from
# PKU-YuanGroup/Open-Sora-Plan, docs/DATA.md, and many others.
# HMDB51: torchvision's datasets/hmdb51.py, with the digest; size and license from the publishers' page. That
# its server is gone was said in voxel51/fiftyone, pull request 6528.
# Kinetics: k400_downloader.sh, k600_downloader.sh and k700_2020_downloader.sh of
# cvdfoundation/kinetics-dataset; the sizes from the Dataset Zoo of voxel51/fiftyone.
KNOWN: Mapping[str, PublishedSet] = {
    "ucf101": PublishedSet(
        parts={
            "splits": Part(
                (
                    RemoteFile(
                        f"{_UCF101}/UCF101TrainTestSplits-RecognitionTask.zip",
                        113_943,
                        "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                    ),
                ),
                about="the lists of the three splits for recognition",
                size=113_943,
            ),
            "videos": Part(
                (
                    RemoteFile(
                        "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
                        6_960_400_115,
                        "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
                    ),
                ),
                about="the videos, as the THUMOS challenge 2014 has them, 6.96 GB",
                size=6_960_400_115,
            ),
            "videos-rar": Part(
                (RemoteFile(f"{_UCF101}/UCF101.rar"),), about="the same from UCF, as rar", asked=True
            ),
        },
        terms="The videos are those of YouTube's users. See https://www.crcv.ucf.edu/data/UCF101.php",
        train_list="splits/ucfTrainTestlist/trainlist01.txt",
        train_videos="videos",
    ),
    "hmdb51": PublishedSet(
        parts={
            "splits": Part(
                (RemoteFile(f"{_HMDB51}/test_train_splits.rar", digest="15e67781e70dcfbdce2d7dbb9b3344b5"),),
                about="the lists of the three splits, as rar",
            ),
            "videos": Part(
                (RemoteFile(f"{_HMDB51}/hmdb51_org.rar", nested=True),),
                about="the videos, as rar, about 2 GB",
                size=2 * 10**9,
            ),
        },
        terms=(
            "CC BY 4.0, say its publishers. See "
            "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/ "
            "(in November 2025 this server was said to be gone)"
        ),
        train_list="splits/testTrainMulti_7030_splits:train1",
        train_videos="videos",
    ),
    "kinetics400": _kinetics(
        "400",
        "k400",
        ("train.csv", "val.csv", "test.csv"),
        {"train": 370, "val": 30, "test": 56},
        {
            "replacement": Part(
                (RemoteFile(f"{_KINETICS}/400/replacement_for_corrupted_k400.tgz"),),
                about="replacements for about 1,400 broken videos",
            )
        },
    ),
    "kinetics600": _kinetics(
        "600", "k600", ("train.txt", "val.txt", "test.csv"), {"train": 648, "val": 43, "test": 88}, {}
    ),
    "kinetics700-2020": _kinetics(
        "700_2020",
        "k700_2020",
        ("train.csv", "val.csv", "test.csv"),
        {"train": 603, "val": 48, "test": 59},
        {},
    ),
}
"""Data sets that can be downloaded, by name."""

ELSEWHERE: Mapping[str, str] = {
    "kinetics700": "is part of kinetics700-2020, which contains the videos of both: download that",
    "sports1m": _YOUTUBE,
    "youtube8m": _YOUTUBE,
    "something-something": (
        "needs a registration with its publishers: download it there, and unpack it yourself"
    ),
}
"""Data sets that cannot be downloaded here, and what to do instead."""
