from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_manifest
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.prefetch import Prefetcher, needs
from t3d.errors import ConfigError, FetchError, ManifestError
from t3d.io.shard_cache import shard_cache_of
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.video.encode import write_video
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")

SPEC = ClipSpec(4, 1, 32, 32)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, numbered_frames) -> Path:
    """`shards`, a folder of 6 shards with a video of 20 numbered frames each, and the videos."""
    root = tmp_path_factory.mktemp("packed")
    (root / "videos").mkdir()
    for number in range(6):
        write_video(root / "videos" / f"{number}.mp4", numbered_frames(20, first=100 * number), crf=10)
    manifest = Manifest.from_files([root / "videos"])
    index_videos(manifest, root / "set.parquet", workers=1)
    write_shards(manifest, VideoIndex.read(root / "set.parquet"), root / "shards", shard_mb=0.001, workers=1)
    return root


@pytest.fixture
def url(packed: Path, tmp_path: Path, site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Folder of the shards."""
    monkeypatch.setenv("T3D_SHARDS", str(tmp_path / "twin"))
    shard_cache_of.cache_clear()
    yield site.put_folder("/shards", packed / "shards")
    shard_cache_of.cache_clear()


def room_for(shards: float, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(path.stat().st_size for path in packed.glob("shards/*.tar"))
    monkeypatch.setenv("T3D_SHARDS_GB", str(shards * largest / 1e9))


def opened(url: str) -> tuple[Manifest, FrameStore, list[Path]]:
    name = f"{url}/index.parquet"
    manifest = open_manifest(name)
    return manifest, FrameStore(SPEC, index=open_index(None, name)), [entry.path for entry in manifest]


def test_a_shard_is_downloaded_on_first_use_and_kept(url: str, site, packed: Path) -> None:
    manifest, store, paths = opened(url)
    assert [path for path, _ in site.asked] == ["/shards/shards.json", "/shards/index.parquet"]
    frames = store.open(paths[2])
    assert len(frames.times) == 20
    assert not list(paths[2].parent.parent.glob("*.tar")), "its times are known without its shard"
    for _ in range(3):
        got = store.open(paths[2]).get(np.arange(3, 9))
    assert site.fetched(f"/shards/{paths[2].parent.name}") == 1
    with Video(packed / "videos" / f"{manifest[2].source}.mp4") as video:
        wanted = FrameStore(SPEC).open(video.path).get(np.arange(3, 9))
    assert torch.equal(got, wanted)
    opened(url)
    assert site.fetched("/shards/index.parquet") == 1


def test_old_shards_make_room_and_shards_in_use_do_not(
    url: str, site, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(3.5, packed, monkeypatch)
    _, store, paths = opened(url)
    folder = paths[0].parent.parent
    held = Video(paths[0], facts=store.index.facts(paths[0]))
    held.frames_at([0])
    for path in paths[1:]:
        time.sleep(0.02)  # times of use must differ
        store.open(path).get(np.arange(2))
        assert len(list(folder.glob("*.tar"))) <= 3
    assert paths[0].parent.exists()
    assert paths[5].parent.exists()
    assert not paths[1].parent.exists()
    held.close()
    store.open(paths[1]).get(np.arange(2))  # comes again
    store.open(paths[2]).get(np.arange(2))
    assert not paths[0].parent.exists()
    assert site.fetched(f"/shards/{paths[1].parent.name}") == 2


def read_all(number: int, name: str, failures: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    try:
        manifest, store = open_manifest(name), FrameStore(SPEC, index=open_index(None, name))
        rng = np.random.default_rng(number)
        for row in rng.integers(len(manifest), size=40).tolist():
            store.open(manifest[row].path).get(np.arange(2))
    except BaseException as error:
        failures.put(repr(error))


def test_many_processes_share_a_cache_that_is_too_small_for_all(
    url: str, site, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(2.2, packed, monkeypatch)
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [
        context.Process(target=read_all, args=(number, f"{url}/index.parquet", failures))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    assert failures.empty(), failures.get()
    assert site.fetched("/shards/index.parquet") == 1
    assert len(site.asked) > 8, "shards had to come again"


def test_shards_are_prefetched(url: str, site, wait_until) -> None:
    _, store, paths = opened(url)
    shards = store.index.shards([str(path) for path in paths])
    assert shards is not None
    assert shards.remote
    order = np.array([4, 2, 0, 5, 3, 1])
    assert [path.name for _, path in needs(order, shards)] == [paths[row].parent.name for row in order]
    folder = paths[0].parent.parent
    with Prefetcher(order, shards) as ahead:
        wait_until(lambda: len(list(folder.glob("*.tar"))) == 5)  # the first, and four ahead
        time.sleep(0.1)
        assert not paths[1].parent.exists()
        ahead.at(1)
        wait_until(paths[1].parent.exists)
    assert all(site.fetched(f"/shards/{path.parent.name}") == 1 for path in paths)


def test_reading_ahead_of_a_local_folder_does_nothing(packed: Path) -> None:
    index = VideoIndex.read(packed / "shards" / "index.parquet")
    manifest = open_manifest(str(packed / "shards" / "index.parquet"))
    shards = index.shards(manifest.table["path"].to_pylist())
    assert shards is not None
    assert not shards.remote
    with Prefetcher(np.arange(6), shards) as ahead:
        ahead.at(3)
        assert not ahead._thread.is_alive()
    assert VideoIndex.read(packed / "set.parquet").shards(["x", "y"]) is None


def test_a_corrupt_shard_is_refused(url: str, site) -> None:
    _, store, paths = opened(url)
    one, two = (f"/shards/{path.parent.name}" for path in paths[:2])
    changed = bytearray(site.pages[one].content)
    changed[700] ^= 1
    site.put(one, bytes(changed))
    with pytest.raises(FetchError, match=one):
        store.open(paths[0]).get(np.arange(2))
    assert not paths[0].parent.exists()
    del site.pages[two]
    with pytest.raises(FetchError, match="404"):
        store.open(paths[1]).get(np.arange(2))


def in_a_store(site, packed: Path) -> str:
    headers = {"Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}
    for path in (packed / "shards").iterdir():
        site.put(f"/bucket/shards/{path.name}", path.read_bytes(), headers=headers)
    options = f"scheme=http&endpoint_override={site.host}&region=us-east-1"
    return f"s3://key:secret@bucket/shards/index.parquet?{options}"


def test_shards_in_an_object_store(url: str, site, packed: Path) -> None:  # noqa: ARG001 (makes a twin)
    name = in_a_store(site, packed)
    manifest, index = open_manifest(name), open_index(None, name)
    store = FrameStore(SPEC, index=index)
    origins = {path.stem: path for path in (packed / "videos").iterdir()}
    for entry in manifest:
        wanted = FrameStore(SPEC).open(origins[entry.source]).get(np.arange(2))
        assert torch.equal(store.open(entry.path).get(np.arange(2)), wanted)
    (origin,) = {entry.path.parent.parent / "origin.json" for entry in manifest}
    assert origin.stat().st_mode & 0o077 == 0, "it holds the key"
    other = name.replace("secret", "changed")
    assert open_manifest(other)[0].path.parent.parent != origin.parent


def read_some(number: int, manifest: Manifest, store: FrameStore) -> None:
    for row in range(number, len(manifest), 2):
        store.open(manifest[row].path).get(np.arange(2))


def test_forked_processes_ask_an_object_store_after_their_parent(url: str, site, packed: Path) -> None:  # noqa: ARG001 (makes a twin)
    name = in_a_store(site, packed)
    manifest, store = open_manifest(name), FrameStore(SPEC, index=open_index(None, name))
    store.open(manifest[0].path).get(np.arange(2))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_some, args=(number, manifest, store)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        worker.kill()
        assert worker.exitcode == 0


def test_a_changed_url_signature_finds_the_same_copy(url: str, site) -> None:
    first = open_manifest(f"{url}/index.parquet?signature=1")[0].path
    asked = len(site.asked)
    assert open_manifest(f"{url}/index.parquet?signature=2")[0].path == first
    assert len(site.asked) == asked
    cache = shard_cache_of(first.parent.parent)
    assert cache is not None
    assert cache.query == "?signature=2"


def test_invalid_names_and_cache_sizes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = r"https://x/list\.csv: this is a URL; download it first .* Only shards are read from a URL"
    with pytest.raises(ManifestError, match=reason):
        open_manifest("https://x/list.csv")
    with pytest.raises(FetchError, match="404"):
        open_manifest(f"{url}/elsewhere/index.parquet")
    for wrong in ("0", "-1", "many", "nan"):
        monkeypatch.setenv("T3D_SHARDS_GB", wrong)
        _, store, paths = opened(url)
        with pytest.raises(ConfigError, match=r"T3D_SHARDS_GB is .*; it must be a number of GB above 0"):
            store.open(paths[0]).get(np.arange(2))


def test_a_list_of_shards_that_is_not_finished_is_refused(url: str) -> None:
    _, store, paths = opened(url)
    (paths[0].parent.parent / "shards.json").write_text(json.dumps({"format": 1}))
    shard_cache_of.cache_clear()
    with pytest.raises(ManifestError, match="not a finished list of t3d prepare shards"):
        store.open(paths[0]).get(np.arange(2))
