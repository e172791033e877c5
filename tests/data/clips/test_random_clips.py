"""What every dataset of random clips does with keys, rows and videos that cannot be read."""

from __future__ import annotations

import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import TrainClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.random_clips import RandomClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import Failed, VideoError
from t3d.transfer.dataset import TransferClips


class Named(RandomClips[str]):
    """The path of a video, with the epoch."""

    def draw(self, key: SampleKey, entry: Entry) -> str:
        if "bad" in entry.path.name:
            raise VideoError(entry.path, "is empty")
        return f"{entry.path.name} in epoch {key.epoch}"


@pytest.fixture
def named() -> Named:
    spec, names = ClipSpec(num_frames=4, size=16), ["/a.mp4", "/bad.mp4", "/c.mp4"]
    columns = {"path": names, "label": [0, 0, 0], "start": [0.0] * 3, "end": [9.0] * 3, "source": names}
    return Named(Manifest(("Jump",), pa.table(columns)), spec, store=FrameStore(spec), seed=0)


def test_rows_are_of_the_current_epoch_and_keys_name_theirs(named: Named) -> None:
    named.set_epoch(3)
    assert (named[0], named[-1], len(named)) == ("a.mp4 in epoch 3", "c.mp4 in epoch 3", 3)
    assert named[SampleKey(7, 2)] == "c.mp4 in epoch 7"
    for row in (3, -4):
        with pytest.raises(IndexError, match=r"row -?\d does not exist; there are 3 videos"):
            named[row]


def test_a_bad_video_is_an_error_for_a_row_and_a_result_for_a_key(named: Named) -> None:
    assert named[SampleKey(0, 1)] == Failed("/bad.mp4", "is empty", 1)
    with pytest.raises(VideoError, match="is empty"):
        named[1]


def test_torchs_loader_shuffles_it(named: Named) -> None:
    named.manifest = named.manifest.select([0, 2])
    (batch,) = DataLoader(named, batch_size=2, shuffle=True)
    assert sorted(batch) == ["a.mp4 in epoch 0", "c.mp4 in epoch 0"]


def test_clips_for_training_and_transfer_share_it() -> None:
    for kind in (TrainClips, TransferClips):
        assert issubclass(kind, RandomClips)
        assert not {"__getitem__", "__len__", "set_epoch"} & vars(kind).keys()
