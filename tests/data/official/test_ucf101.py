import pytest

from t3d.data.official.listed import open_list
from t3d.data.official.read import check_list, read_official
from t3d.data.official.ucf101 import read_ucf101
from t3d.errors import ManifestError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


TRAIN = (
    "JumpRope/v_JumpRope_g08_c01.avi 48\r\nJumpRope/v_JumpRope_g08_c02.avi 48\r\n\r\n"
    "HandstandPushups/v_HandStandPushups_g09_c01.avi 37\r\nJumpingJack/v_JumpingJack_g08_c01.avi 47\r\n"
    "YoYo/v_YoYo_g08_c01.avi 101\r\n"
)
TEST = (
    "JumpRope/v_JumpRope_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi\r\n"
    "JumpingJack/v_JumpingJack_g01_c01.avi\r\nYoYo/v_YoYo_g01_c01.avi\r\n"
)


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "train.txt").write_bytes(TRAIN.encode())
    (tmp_path / "test.txt").write_bytes(TEST.encode())
    return tmp_path / "train.txt", tmp_path / "test.txt"


FILES = [
    "JumpRope/v_JumpRope_g08_c01.mp4",
    "JumpRope/v_JumpRope_g01_c01.mp4",
    "HandstandPushups/v_HandstandPushups_g09_c01.webm",
    "JumpingJack/v_JumpingJack_g01_c01.mp4",
    "Archery/v_Archery_g01_c01.mp4",
    "JumpRope/readme.txt",
]


@pytest.mark.parametrize("flat", [False, True])
def test_ucf101_by_name_whatever_ending_and_layout(tmp_path, lists, flat):
    videos = touch(tmp_path / "videos", *(name.rpartition("/")[2] if flat else name for name in FILES))
    train, test = (open_list(read_ucf101(file), videos) for file in lists)
    # JumpingJack has a video on the test list only, Archery is on neither list, YoYo has no video.
    assert train.classes == test.classes == ("HandstandPushups", "JumpingJack", "JumpRope")
    assert [(e.path.name, e.label, e.source) for e in train] == [
        ("v_JumpRope_g08_c01.mp4", 2, "JumpRope_g08"),
        ("v_HandstandPushups_g09_c01.webm", 0, "HandstandPushups_g09"),
    ]
    assert {e.path.name for e in test} == {"v_JumpRope_g01_c01.mp4", "v_JumpingJack_g01_c01.mp4"}
    assert train.missing == {"JumpingJack": 1, "JumpRope": 1, "YoYo": 1}
    assert test.missing == {"HandstandPushups": 1, "YoYo": 1}
    assert all(entry.path.is_file() for entry in train)


def test_ucf101_mistakes_are_named(tmp_path, lists):
    videos = touch(tmp_path / "videos", "holiday.mp4", "notes.txt")
    with pytest.raises(
        ManifestError, match=r"none of the 5 videos in .*train.txt is among the 1 videos .*holiday"
    ):
        open_list(read_ucf101(lists[0]), videos)
    touch(videos, "a/v_JumpRope_g08_c01.mp4", "b/v_JumpRope_g08_c01.avi")
    with pytest.raises(ManifestError, match="2 files are named 'v_JumpRope_g08_c01'"):
        open_list(read_ucf101(lists[0]), videos)
    for text, says in [
        ("JumpRope/a.avi 1\nJumpRope a.avi\n", "line 2: 'JumpRope a.avi' is not of the form"),
        ("JumpRope/a.avi 1\n\nJumpRope/a.avi 1\n", "line 3: 'a' is listed twice"),
        ("\n", "the list is empty"),
    ]:
        lists[0].write_text(text)
        with pytest.raises(ManifestError, match=says):
            open_list(read_ucf101(lists[0]), videos)
    with pytest.raises(ManifestError, match="cannot be read"):
        open_list(read_ucf101(tmp_path / "absent.txt"), videos)
    with pytest.raises(ManifestError, match="cannot be listed"):
        open_list(read_ucf101(lists[1]), tmp_path / "absent")


def test_which_published_list_it_should_equal_is_known_by_its_name(tmp_path, lists):
    assert read_ucf101(lists[0]).published is None
    for name, expected in [("trainlist01.txt", "split 1 train"), ("TestList03.txt", "split 3 test")]:
        (tmp_path / name).write_text(TEST)
        assert str(read_ucf101(tmp_path / name).published) == f"UCF101 {expected}"


def test_a_truncated_list_is_reported_and_read(tmp_path, lists, caplog):
    cut = lists[1].rename(tmp_path / "testlist02.txt")
    videos = touch(tmp_path / "videos", *FILES)
    assert len(open_list(read_ucf101(cut), videos)) == 2
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith(
        f"{cut}: it lists 4 videos of 4 classes, but UCF101 split 2 test has 3,734 of 101"
    )
    assert second.startswith("UCF101 split 2 test: 2 of 4 listed videos, 3 of 4 classes in ")
    assert second.endswith("; videos are missing from HandstandPushups (1)")


# --- the real lists --------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_ucf101_lists(real_data):
    videos, splits = real_data / "ucf101_11" / "videos", real_data / "ucf101_11" / "splits"
    train = open_list(read_ucf101(splits / "trainlist01.txt"), videos)
    test = open_list(read_ucf101(splits / "testlist01.txt"), videos)
    assert (len(train), len(test)) == (831, 313)
    assert train.classes == test.classes
    assert len(train.classes) == 11
    assert not set(train.sources()) & set(test.sources())
    assert all(entry.path.is_file() for entry in train)
    in_classes = sum(part.missing.get(name, 0) for part in (train, test) for name in train.classes)
    assert in_classes == 1403 - 1144

    for fraction, seed in ((0.1, 0), (0.2, 1), (0.3, 2)):
        rest, held = train.split_by_source(fraction, seed=seed)
        assert abs(len(held) / len(train) - fraction) < 0.01
        for name, count in held.class_counts().items():
            assert abs(count / train.class_counts()[name] - fraction) < 0.1
        assert not set(rest.sources()) & set(held.sources())


@pytest.mark.real
def test_real_lists_are_as_published(real_data, tmp_path, caplog):
    videos, splits = real_data / "ucf101_11" / "videos", real_data / "ucf101_11" / "splits"
    train, test = (read_official(str(splits / f"{part}list01.txt")) for part in ("train", "test"))
    assert (len(train.stems), len(test.stems), len(train.classes)) == (9537, 3783, 101)
    assert not set(train.stems.to_pylist()) & set(test.stems.to_pylist())
    assert not set(train.sources.to_pylist()) & set(test.sources.to_pylist())
    assert train.classes == test.classes
    assert check_list(str(splits / "trainlist01.txt")) is None
    assert check_list(str(splits / "testlist01.txt")) is None

    open_list(read_ucf101(splits / "trainlist01.txt"), videos)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "UCF101 split 1 train: 831 of 9,537 listed videos, 11 of 101 classes in" in message
    assert message.endswith(
        "; videos are missing from Diving (50), JumpRope (44), Swing (31) and 2 more classes"
    )

    cut = (splits / "trainlist01.txt").read_bytes().splitlines(keepends=True)[:9500]
    (tmp_path / "trainlist01.txt").write_bytes(b"".join(cut))
    assert "9,500 videos of 101 classes" in check_list(str(tmp_path / "trainlist01.txt"))
