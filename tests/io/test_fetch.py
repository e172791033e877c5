from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from t3d.errors import ConfigError, FetchError
from t3d.io import fetch as module
from t3d.io.fetch import Retry, fetch, shown

Wait = Callable[[Callable[[], object]], None]
CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CERTIFICATE = Path(__file__).parents[1] / "loopback.pem"


def quick(url: str, target: Path, *, attempts: int = 5, **options: Any) -> None:
    fetch(url, target, retry=Retry(attempts, pause=0.001, timeout=5.0), **options)


def alone(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- one file comes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [SHA256, SHA256.upper(), hashlib.md5(CONTENT).hexdigest(), None])
def test_a_file_is_complete_and_leaves_no_other(site: Any, tmp_path: Path, digest: str | None) -> None:
    site.put("/a.tar", CONTENT)
    target = tmp_path / "new" / "a.tar"
    seen: list[tuple[int, int | None]] = []
    quick(site.url("/a.tar"), target, size=300_000, digest=digest, progress=lambda *at: seen.append(at))
    assert target.read_bytes() == CONTENT
    assert alone(target.parent) == ["a.tar"]
    assert seen[0] == (0, 300_000)
    assert seen[-1] == (300_000, 300_000)
    assert seen == sorted(seen)


def test_existing_files_are_not_requested_again(site: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    quick(site.url("/a"), tmp_path / "a", size=300_000)
    assert site.asked == []
    with pytest.raises(FetchError, match=r"exists with 300,000 bytes, but 5 are expected; remove it"):
        quick(site.url("/a"), tmp_path / "a", size=5)


def test_an_empty_file_is_a_file(site: Any, tmp_path: Path) -> None:
    site.put("/empty", b"")
    quick(site.url("/empty"), tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_new_file_has_the_rights_of_new_files(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT)
    before = os.umask(0o027)
    try:
        quick(site.url("/a"), tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_names_with_spaces_and_non_ascii_letters_are_quoted(site: Any, tmp_path: Path) -> None:
    site.put("/a%20%C3%BC.tar", CONTENT)
    quick(site.url("/a ü.tar"), tmp_path / "1")
    quick(site.url("/a%20%C3%BC.tar"), tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == CONTENT


# --- it does not come in one go --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("manners", [{}, {"ranges": False}, {"tagged": False}])
def test_connections_cut_anywhere(site: Any, tmp_path: Path, seed: int, manners: dict[str, Any]) -> None:
    draw = random.Random(seed)
    page = site.put("/a", CONTENT, **manners)
    page.cuts = [draw.choice([0, 1, draw.randrange(300_000)]) for _ in range(4)]
    quick(site.url("/a"), tmp_path / "a", digest=SHA256)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert alone(tmp_path) == ["a"]


def test_downloaded_files_are_not_requested_again(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000, 2000])
    quick(site.url("/a"), tmp_path / "a")
    assert site.ranges() == [None, "bytes=1000-", "bytes=3000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_attempts_that_bring_something_do_not_count(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000] * 20)
    quick(site.url("/a"), tmp_path / "a", attempts=2)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(site.asked) == 21


def test_a_later_call_resumes_a_failed_one(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000, 0, 0])
    with pytest.raises(
        FetchError, match=r"received 1,000 of the 300,000 .*after 2 attempts; the first 1,000"
    ):
        quick(site.url("/a"), tmp_path / "a", attempts=2)
    assert alone(tmp_path) == [".a.resume.part", ".a.resume.part.json"]
    site.pages["/a"].cuts.clear()
    quick(site.url("/a"), tmp_path / "a", attempts=1)
    assert site.ranges()[-1] == "bytes=1000-"
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("manners", [{}, {"ranges": False}, {"tagged": False}, {"if_range": False}])
def test_parts_of_two_contents_are_never_joined(site: Any, tmp_path: Path, manners: dict[str, Any]) -> None:
    page = site.put("/a", CONTENT, cuts=[1000], **manners)
    with pytest.raises(FetchError):
        quick(site.url("/a"), tmp_path / "a", attempts=1)
    page.content = OTHER
    quick(site.url("/a"), tmp_path / "a", attempts=1)
    assert (tmp_path / "a").read_bytes() == OTHER


def test_parts_of_two_addresses_are_never_joined(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000])
    site.put("/b", CONTENT)
    with pytest.raises(FetchError):
        quick(site.url("/a"), tmp_path / "a", attempts=1)
    quick(site.url("/b"), tmp_path / "a")
    assert site.ranges() == [None, None]


@pytest.mark.parametrize("note", [b"", b'{"url": ', b"[]", b'{"url": 1, "version": 2}', None])
def test_a_part_without_a_note_is_not_continued(site: Any, tmp_path: Path, note: bytes | None) -> None:
    site.put("/a", CONTENT)
    (tmp_path / ".a.resume.part").write_bytes(OTHER[:500])
    if note is not None:
        (tmp_path / ".a.resume.part.json").write_bytes(note)
    quick(site.url("/a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert alone(tmp_path) == ["a"]


def test_killed_between_the_last_byte_and_the_name(site: Any, tmp_path: Path) -> None:
    page = site.put("/a", CONTENT, cuts=[1000])
    with pytest.raises(FetchError):
        quick(site.url("/a"), tmp_path / "a", attempts=1)
    (tmp_path / ".a.resume.part").write_bytes(CONTENT)
    quick(site.url("/a"), tmp_path / "a", digest=SHA256)
    assert site.ranges() == [None, "bytes=300000-"]
    (tmp_path / "a").rename(tmp_path / ".a.resume.part")  # the same, and the content changes meanwhile
    (tmp_path / ".a.resume.part.json").write_text(
        json.dumps({"url": hashlib.sha256(site.url("/a").encode()).hexdigest(), "version": '"old"'})
    )
    page.content, page.if_range = OTHER, False
    quick(site.url("/a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == OTHER


@pytest.mark.parametrize(("age", "range_"), [(60, "bytes=1000-"), (-1, None)])
def test_only_a_past_modification_time_identifies_content(
    site: Any, tmp_path: Path, age: int, range_: str | None
) -> None:
    """A file that changed in this very second may change again in it."""
    changed = format_datetime(datetime.now(UTC) - timedelta(seconds=age), usegmt=True)
    site.put("/a", CONTENT, tagged=False, cuts=[1000], headers={"Last-Modified": changed})
    quick(site.url("/a"), tmp_path / "a")
    assert site.ranges() == [None, range_]
    assert site.asked[-1][1].get("if-range") == (changed if range_ else None)


def test_a_weak_etag_does_not_identify_content(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, tagged=False, cuts=[1000], headers={"ETag": 'W/"1"'})
    quick(site.url("/a"), tmp_path / "a")
    assert site.ranges() == [None, None]


# --- servers that are not well ---------------------------------------------------------------------------


def test_statuses_that_pass_are_waited_for(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site.put("/a", CONTENT, refusals=[500, 503, 429, 502], headers={})
    fetch(site.url("/a"), tmp_path / "a", retry=Retry(pause=1.0))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [pause for pause in pauses if pause] == [1, 2, 4, 8]


def test_retry_after_of_a_server_is_respected(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site.put("/a", CONTENT, refusals=[503], headers={"Retry-After": "7"})
    site.put("/b", CONTENT, refusals=[503], headers={"Retry-After": "100000"})
    fetch(site.url("/a"), tmp_path / "a")
    fetch(site.url("/b"), tmp_path / "b")
    assert [pause for pause in pauses if pause] == [7, 60]


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3)])
def test_a_status_that_stays(site: Any, tmp_path: Path, status: int, asked: int) -> None:
    site.put("/a", CONTENT, refusals=[status] * 10)
    with pytest.raises(FetchError, match=rf"{site.url('/a')}: the server answers {status} ") as caught:
        quick(site.url("/a"), tmp_path / "a", attempts=3)
    assert len(site.asked) == asked
    assert alone(tmp_path) == []
    assert caught.value.url == site.url("/a")


def test_a_refused_connection_is_an_error(site: Any, tmp_path: Path) -> None:
    site.server.shutdown()
    site.server.server_close()
    with pytest.raises(FetchError, match=r"refused, after 2 attempts"):
        quick(site.url("/a"), tmp_path / "a", attempts=2)
    with pytest.raises(FetchError, match=r"nowhere\.invalid"):
        quick("http://nowhere.invalid/a", tmp_path / "a", attempts=1)


def test_a_server_that_falls_silent(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, hold=0)
    with pytest.raises(FetchError, match="timeout"):
        fetch(site.url("/a"), tmp_path / "a", retry=Retry(attempts=1, timeout=0.1))


def test_a_length_that_is_too_long(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, length=300_001, ranges=False)
    with pytest.raises(
        FetchError, match=r"received 300,000 of the 300,001 bytes that the server announced, after 2"
    ):
        quick(site.url("/a"), tmp_path / "a", attempts=2)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("known", [{"size": 300_000}, {"digest": SHA256}])
def test_a_length_that_is_too_short(site: Any, tmp_path: Path, known: dict[str, Any]) -> None:
    site.put("/a", CONTENT, length=299_999)
    with pytest.raises(FetchError, match=r"299,999 (received )?bytes"):
        quick(site.url("/a"), tmp_path / "a", **known)
    assert alone(tmp_path) == []


def test_a_range_that_was_not_requested(site: Any, tmp_path: Path) -> None:
    page = site.put("/a", CONTENT, cuts=[1000])
    with pytest.raises(FetchError):
        quick(site.url("/a"), tmp_path / "a", attempts=1)
    page.ranges, page.refusals, page.headers = False, [206], {"Content-Range": "bytes 5-9/300000"}
    with pytest.raises(FetchError, match="a different range than requested"):
        quick(site.url("/a"), tmp_path / "a")


def test_encoded_content_is_not_taken_for_the_file(site: Any, tmp_path: Path) -> None:
    site.put("/a.csv", CONTENT, headers={"Content-Encoding": "gzip"})
    site.put("/a.tar.gz", CONTENT, headers={"Content-Encoding": "x-gzip"})
    with pytest.raises(FetchError, match=r"encoded \(gzip\)"):
        quick(site.url("/a.csv"), tmp_path / "a.csv")
    quick(site.url("/a.tar.gz"), tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == CONTENT


def test_redirects_are_followed_up_to_a_bound(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT)
    site.put("/moved", location="/a")
    site.put("/circle", location="/circle")
    site.put("/file", location="file:///etc/passwd")
    quick(site.url("/moved"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(FetchError, match="infinite loop"):
        quick(site.url("/circle"), tmp_path / "b")
    with pytest.raises(FetchError, match="is not allowed"):
        quick(site.url("/file"), tmp_path / "b")


def test_only_trusted_certificates(tls_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls_site.put("/a", CONTENT)
    with pytest.raises(FetchError, match=r"its certificate is not trusted .*SSL_CERT_FILE"):
        quick(tls_site.url("/a"), tmp_path / "a")
    assert tls_site.asked == []
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    quick(tls_site.url("/a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_never_from_https_to_http(
    site: Any, tls_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    site.put("/a", CONTENT)
    tls_site.put("/a", location=site.url("/a"))
    with pytest.raises(FetchError, match="redirects from https to http: refused"):
        quick(tls_site.url("/a"), tmp_path / "a")
    assert site.asked == []


def test_through_a_proxy(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", site.url(""))
    site.put("http://nowhere.invalid/a", CONTENT)
    quick("http://nowhere.invalid/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


# --- bounds and checks -----------------------------------------------------------------------------------


def test_a_wrong_digest_leaves_nothing(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT)
    with pytest.raises(FetchError, match=rf"have sha256 {SHA256}, but {'0' * 64} is expected"):
        quick(site.url("/a"), tmp_path / "a", digest="0" * 64)
    assert alone(tmp_path) == []


@pytest.mark.parametrize("digest", ["", "0" * 63, "g" * 64, "sha256:00"])
def test_invalid_digests_are_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ConfigError, match="must be a SHA-256"):
        fetch("http://127.0.0.1:1/", tmp_path / "a", digest=digest)


def test_a_size_that_the_server_denies(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT)
    with pytest.raises(FetchError, match=r"announces 300,000 bytes, but 5 are expected"):
        quick(site.url("/a"), tmp_path / "a", size=5)
    assert alone(tmp_path) == []


def test_more_than_is_taken(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT)
    with pytest.raises(FetchError, match=r"announces 300,000 bytes; the limit is 299,999"):
        quick(site.url("/a"), tmp_path / "a", at_most=299_999)
    quick(site.url("/a"), tmp_path / "a", at_most=300_000)
    site.put("/b", CONTENT, length=-1)
    with pytest.raises(FetchError, match=r"sends more than 299,999 bytes"):
        quick(site.url("/b"), tmp_path / "b", at_most=299_999)
    assert alone(tmp_path) == ["a"]


def test_a_missing_length(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, length=-1)
    seen: list[int | None] = []
    quick(site.url("/a"), tmp_path / "a", size=300_000, progress=lambda _, whole: seen.append(whole))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert set(seen) == {None}
    with pytest.raises(FetchError, match=r"received 300,000 bytes, but 5 are expected; they were deleted"):
        quick(site.url("/a"), tmp_path / "b", size=5)
    assert alone(tmp_path) == ["a"]


def test_more_than_the_disk_holds(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/a", CONTENT)
    used = module.shutil.disk_usage(tmp_path)._replace(free=299_999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: used)
    with pytest.raises(FetchError, match=r"needs 300,000 bytes, and .* has 299,999 bytes free"):
        quick(site.url("/a"), tmp_path / "a")


@pytest.mark.parametrize("url", ["ftp://a/b", "http://[::1", "http:///a", "http://me:secret@127.0.0.1/a"])
def test_addresses_that_cannot_be_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        quick(url, tmp_path / "a", attempts=1)
    assert "secret" not in str(caught.value)
    assert alone(tmp_path) == []


def test_a_target_that_is_a_folder(site: Any, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="is a folder"):
        quick(site.url("/a"), tmp_path)


def test_secrets_are_neither_shown_nor_written(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000])
    url = site.url("/a") + "?signature=secret"
    with pytest.raises(FetchError) as caught:
        quick(url, tmp_path / "a", attempts=1)
    assert "secret" not in str(caught.value)
    assert b"secret" not in (tmp_path / ".a.resume.part.json").read_bytes()
    assert shown("s3://key:secret@bucket/a?region=x") == "s3://bucket/a?…"


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(FetchError("http://a/b", "why")))
    assert (str(error), error.url, error.reason) == ("http://a/b: why", "http://a/b", "why")


# --- several processes, and interrupted ones ------------------------------------------------------------


def test_threads_that_download_one_file(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, cuts=[1000, 5000])
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(quick, site.url("/a"), tmp_path / "a", digest=SHA256) for _ in range(8)]:
            done.result(timeout=300)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert alone(tmp_path) == ["a"]
    assert len(site.asked) == 3  # one did it


def test_another_one_takes_over_where_one_fails(site: Any, tmp_path: Path) -> None:
    site.put("/a", CONTENT, refusals=[404] * 3)

    def once(_: int) -> bool:
        try:
            quick(site.url("/a"), tmp_path / "a", digest=SHA256)
        except FetchError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(once, range(8))) == 5
    assert alone(tmp_path) == ["a"]


_PROGRAM = """
import sys
from pathlib import Path
from t3d.io.fetch import fetch
print("ready", flush=True)
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def process(url: str, target: Path) -> subprocess.Popen[bytes]:
    """A process that is about to download a file."""
    running = subprocess.Popen([sys.executable, "-c", _PROGRAM, url, str(target)], stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    return running


def test_a_killed_download_is_resumed(site: Any, tmp_path: Path, wait_until: Wait) -> None:
    page = site.put("/a", CONTENT, hold=60_000)
    part = tmp_path / ".a.resume.part"
    with process(site.url("/a"), tmp_path / "a") as running:
        # A buffer of the process may hold the last 8 KiB.
        wait_until(lambda: running.poll() is not None or (part.exists() and part.stat().st_size >= 50_000))
        running.kill()
    assert running.returncode == -signal.SIGKILL
    assert alone(tmp_path) == [".a.lock", ".a.resume.part", ".a.resume.part.json"]
    offset = part.stat().st_size
    page.release()
    quick(site.url("/a"), tmp_path / "a")
    assert site.ranges() == [None, f"bytes={offset}-"]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert alone(tmp_path) == ["a"]


def test_processes_that_download_one_file(site: Any, tmp_path: Path, wait_until: Wait) -> None:
    page = site.put("/a", CONTENT, hold=60_000)
    running = [process(site.url("/a"), tmp_path / "a") for _ in range(3)]
    wait_until(lambda: site.asked)
    page.release()
    for one in running:
        one.communicate()
    assert [one.returncode for one in running] == [0, 0, 0]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(site.asked) == 1
    assert alone(tmp_path) == ["a"]


def test_a_waiting_process_takes_over_from_a_killed_one(site: Any, tmp_path: Path, wait_until: Wait) -> None:
    page = site.put("/a", CONTENT, hold=60_000)
    with process(site.url("/a"), tmp_path / "a") as running:
        wait_until(lambda: site.asked)  # it has the lock
        waiting = threading.Thread(target=quick, args=(site.url("/a"), tmp_path / "a"))
        waiting.start()
        running.kill()
    page.release()
    waiting.join(300)
    assert (tmp_path / "a").read_bytes() == CONTENT


# --- elsewhere than on the web ---------------------------------------------------------------------------


@pytest.mark.parametrize("as_url", [True, False])
def test_a_file_of_this_machine(tmp_path: Path, as_url: bool) -> None:
    source = tmp_path / "a ü%20?.tar"
    source.write_bytes(CONTENT)
    quick(source.as_uri() if as_url else str(source), tmp_path / "out" / "a", digest=SHA256)
    assert (tmp_path / "out" / "a").read_bytes() == CONTENT


def test_missing_files(tmp_path: Path) -> None:
    for url in (str(tmp_path / "none"), (tmp_path / "none").as_uri()):
        with pytest.raises(FetchError, match="missing"):
            quick(url, tmp_path / "a")
    with pytest.raises(FetchError, match="a folder"):
        quick(str(tmp_path), tmp_path / "a")
    with pytest.raises(FetchError, match="of this machine"):
        quick("file://elsewhere/a", tmp_path / "a")


def store(site: Any, path: str, **more: str) -> str:
    options = {"scheme": "http", "endpoint_override": site.host, "region": "us-east-1"} | more
    return f"s3://key:secret@bucket{path}?" + "&".join(f"{name}={value}" for name, value in options.items())


def test_an_object_store(site: Any, tmp_path: Path) -> None:
    site.put("/bucket/a.tar", CONTENT, headers={"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"})
    quick(store(site, "/a.tar"), tmp_path / "a", digest=SHA256)
    assert (tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"s3://bucket/b\?…: it is missing") as caught:
        quick(store(site, "/b"), tmp_path / "b")
    assert "secret" not in str(caught.value)
    with pytest.raises(FetchError, match="always verified"):
        quick(store(site, "/a.tar", tls_verify_certificates="false"), tmp_path / "b")
    asked = len(site.asked)
    site.pages["/bucket/a.tar"].refusals = [403]
    with pytest.raises(FetchError, match="ACCESS_DENIED"):
        quick(store(site, "/a.tar"), tmp_path / "b")
    assert len(site.asked) == asked + 1


def test_another_object_store(site: Any, tmp_path: Path) -> None:
    facts = {"name": "a.gz", "bucket": "b", "size": "300000", "generation": "1"}
    times = dict.fromkeys(("updated", "timeCreated"), "2020-01-01T00:00:00Z")
    page = site.put("/storage/v1/b/b/o/a.gz", json.dumps(facts | times).encode())
    page.media = CONTENT
    options = f"scheme=http&endpoint_override={site.host}&retry_limit_seconds=5"
    quick(f"gs://anonymous@b/a.gz?{options}", tmp_path / "a", digest=SHA256)
    assert (tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"gs://b/none\?…: it is missing"):
        quick(f"gs://anonymous@b/none?{options}", tmp_path / "b")


@pytest.mark.parametrize("where", ["store", "file"])
def test_elsewhere_too_a_part_is_continued_if_nothing_changed(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("t3d.io.remote._STORE_BLOCK", 100_000)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    page = site.put("/bucket/a", CONTENT, headers={"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"})
    url = store(site, "/a") if where == "store" else str(source)

    def stop(position: int, _: int | None) -> None:
        if position >= 200_000:
            raise KeyboardInterrupt

    for changed in (False, True):
        with pytest.raises(KeyboardInterrupt):
            quick(url, tmp_path / "a", progress=stop)
        assert (tmp_path / ".a.resume.part").stat().st_size == 200_000
        if changed:
            source.write_bytes(OTHER)
            os.utime(source, ns=(0, 0))
            page.content, page.headers["Last-Modified"] = OTHER, "Thu, 02 Jan 2020 00:00:00 GMT"
        first: list[int] = []
        quick(url, tmp_path / "a", progress=lambda position, _, first=first: first.append(position))
        assert first[0] == (0 if changed else 200_000)
        assert (tmp_path / "a").read_bytes() == (OTHER if changed else CONTENT)
        (tmp_path / "a").unlink()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.io.remote._STORE_BLOCK", 100_000)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    os.utime(source, ns=(0, 0))

    def change(position: int, _: int | None) -> None:
        if position == 100_000 and source.stat().st_mtime_ns == 0:
            source.write_bytes(OTHER)

    quick(str(source), tmp_path / "a", progress=change)
    assert (tmp_path / "a").read_bytes() == OTHER
