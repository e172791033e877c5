"""The page of `t3d serve` in headless Chromium, as a visitor uses it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from t3d.evaluation.predictor import Predictor
from t3d.explanation.explainer import explain

from .conftest import CLASSES, Served, make_film

pytestmark = pytest.mark.browser

_WAIT = 120.0  # seconds, however busy the machine is


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], examples: Path) -> Iterator[Served]:
    with start_server("--examples", str(examples), "--max-mb", "3") as started:
        yield started


@pytest.fixture(scope="module")
def open_browser() -> Iterator[Callable[..., Page]]:
    """Open a browser with its own cookies. Skips without Chromium, except in CI."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        message = f"{' and '.join(missing)} missing: install Debian's packages chromium and chromium-driver"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    pages: list[Page] = []

    def start(url: str, *, width: int = 1200, height: int = 900) -> Page:
        pages.append(Page(url, width, height))
        return pages[-1]

    yield start
    for page in pages:
        page.driver.quit()


class Page:
    """A browser that shows the page."""

    def __init__(self, url: str, width: int, height: int) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        self.url = url
        self.driver.get(url)

    def run(self, script: str, *values: object) -> Any:
        return self.driver.execute_script(script, *values)

    def find(self, name: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.ID, name)

    def wait(self, condition: Callable[[], object]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, _WAIT, poll_frequency=0.05).until(lambda _: condition())

    def wait_for(self, *names: str) -> None:
        self.wait(lambda: any(self.find(name).is_displayed() for name in names))

    def begin(self) -> None:
        self.driver.get(self.url)
        self.wait_for("start")

    def send(self, file: Path) -> None:
        self.wait_for("start")
        self.find("file").send_keys(str(file))
        self.wait_for("result", "problem")

    def errors(self) -> list[str]:
        """Messages of the console, such as those about scripts that the policy forbids."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def is_too_wide(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > innerWidth"))


@pytest.fixture(scope="module")
def page(server: Served, open_browser: Callable[..., Page]) -> Page:
    return open_browser(server.url)


def test_an_upload_is_classified_and_played(page: Page, film: Path, model: Path) -> None:
    prediction = Predictor(model)(film)
    page.begin()
    page.send(film)
    assert page.find("label").text == prediction.label
    assert float(page.find("probability").get_attribute("title")) == pytest.approx(
        prediction.probability, abs=1e-4
    )
    assert page.find("probability").text == f"{100 * prediction.probability:.1f} %"
    bars = page.run(
        "return [...document.querySelectorAll('#bars li')].map((each) => each.innerText.split('\\n'))"
    )
    assert bars == [[name, f"{100 * share:.1f} %"] for name, share in prediction.top(5)]
    page.wait(lambda: page.run("return document.getElementById('player').videoWidth") == 80)
    page.run("return document.getElementById('player').play()")
    page.wait(lambda: page.run("return document.getElementById('player').currentTime") > 0.5)
    page.run("document.getElementById('player').pause()")
    page.wait(lambda: float(page.run("return parseFloat(document.getElementById('head').style.left)")) > 15)
    page.run("document.querySelector('.segment').click()")
    start = page.run("return JSON.parse(document.getElementById('json').textContent).segments[0].start")
    page.wait(lambda: abs(page.run("return document.getElementById('player').currentTime") - start) < 0.1)
    assert page.errors() == []


def test_a_dropped_video_and_an_example_work_too(page: Page, film: Path, examples: Path, model: Path) -> None:
    page.begin()
    page.run(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (char) => char.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.mp4"));
        const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
        document.getElementById("drop").dispatchEvent(event);
        """,
        base64.b64encode(film.read_bytes()).decode(),
    )
    page.wait_for("result")
    assert "dropped.mp4" in page.find("facts").text
    page.find("again").click()
    page.wait_for("start")
    page.run("document.querySelector('.example').click()")
    page.wait_for("result")
    (example,) = examples.glob("*.mp4")
    assert page.find("label").text == Predictor(model)(example).label
    assert example.name in page.find("facts").text  # as text: it contains HTML
    assert page.run("return document.querySelectorAll('main i i, .example b, #facts i').length") == 0


def test_names_are_shown_as_text(page: Page, film: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='hit'>.mp4"
    page.begin()
    page.send(Path(shutil.copy(film, tmp_path / name)))
    assert name in page.find("facts").text
    assert CLASSES[2] in page.find("bars").text
    assert page.run("return document.querySelectorAll('main img, #bars b b, header b').length") == 0
    bad = tmp_path / f"bad {name}"
    bad.write_text("no video")
    page.begin()
    page.send(bad)
    assert f"bad {name}" in page.find("problem-title").text
    assert page.run("return document.title") == "T3D: classify a video"


def test_a_bad_file_is_explained_and_another_one_works(page: Page, film: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("<html>no video</html>")
    page.begin()
    page.send(bad)
    assert "“bad.mp4” could not be classified" in page.find("problem").text
    assert "This file is not a video" in page.find("problem").text
    assert "send the original again" in page.find("problem").text
    page.find("problem-again").click()
    rare = tmp_path / "rare.mkv"
    with av.open(str(rare), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height = 80, 64
        container.mux(stream.encode(av.VideoFrame(80, 64, "yuv420p")))
        container.mux(stream.encode(None))
    page.send(rare)
    assert "in the codec ffv1" in page.find("problem").text
    assert page.run("return document.querySelector('#problem code').textContent").startswith("ffmpeg -i IN")
    page.find("problem-again").click()
    page.send(film)
    assert page.find("result").is_displayed()
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(3_100_000))
    page.begin()
    page.send(large)
    assert "this server accepts at most 3 MB" in page.find("problem").text
    assert page.errors() == []


def test_a_format_that_the_browser_cannot_play_is_converted(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "old.avi"
    with av.open(str(make_film(tmp_path / "a.mp4"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for frame in source.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    page.begin()
    page.send(path)
    page.wait(lambda: page.run("return document.getElementById('player').videoWidth") == 80)
    assert page.run("return document.getElementById('player').src").endswith("/annotated")
    assert "Save" in page.find("actions").text
    assert page.find("views").text == ""  # the only video that it can play


def test_the_heat_and_the_temporal_depths_are_shown(page: Page, film: Path, model: Path) -> None:
    page.begin()
    page.send(film)
    page.run(
        "[...document.querySelectorAll('#actions button')].find((b) => b.textContent === 'Explain').click()"
    )
    page.wait(lambda: page.run("return document.getElementById('player').src").endswith("/explained"))
    page.wait(lambda: page.run("return document.getElementById('player').videoWidth") == 80)
    assert page.find("depths").is_displayed()
    rows = page.run("return [...document.querySelectorAll('#depth-bars li')].map((each) => each.innerText)")
    depths = explain(model, film).depths
    assert [row.split("\n")[0] for row in rows] == [f"{each.stage}, depth {each.depth}" for each in depths]
    assert page.find("views").text.split() == ["Video", "Heat"]
    page.run("document.querySelector('#views button').click()")
    page.wait(lambda: page.run("return document.getElementById('player').src").endswith("/video"))
    assert page.errors() == []


def test_classes_that_are_numbers_keep_their_order(page: Page, film: Path) -> None:
    """JavaScript sorts keys such as "10" by their numbers, not by their place in the answer."""
    page.begin()
    page.send(film)
    page.run(
        """
        const classes = JSON.parse('{"10": 0.6, "1": 0.3, "0": 0.1}');
        const clip = { start: 0, end: 3, classes };
        job.result = { clips: 1, classes, targets: "single", per_clip: [clip], segments: [] };
        present();
        """
    )
    assert page.find("label").text == "10"
    assert page.find("probability").text == "60.0 %"
    bars = page.run("return [...document.querySelectorAll('#bars span')].map((each) => each.textContent)")
    assert bars == ["10", "1", "0"]
    assert page.run("return document.querySelector('#legend').textContent") == "10"
    text = page.run("return document.getElementById('json').textContent")
    assert list(json.loads(text)["classes"]) == ["10", "1", "0"]


def test_two_visitors_at_the_same_time(
    page: Page, server: Served, open_browser: Callable[..., Page], tmp_path: Path, model: Path
) -> None:
    other = open_browser(server.url)
    films = [make_film(tmp_path / f"{seed}.mp4", length=300, seed=seed) for seed in (7, 8)]
    page.begin()
    other.begin()
    for each, film in zip((page, other), films, strict=True):
        each.find("file").send_keys(str(film))
    for each, film in zip((page, other), films, strict=True):
        each.wait_for("result")
        prediction = Predictor(model)(film)
        assert each.find("label").text == prediction.label
        shown = float(each.find("probability").get_attribute("title"))
        assert shown == pytest.approx(prediction.probability, abs=1e-4)
    address = page.run("return document.getElementById('player').src")
    script = "return fetch(arguments[0]).then((answer) => answer.status)"
    assert (page.run(script, address), other.run(script, address)) == (200, 404)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(
    dark: bool, server: Served, open_browser: Callable[..., Page], film: Path, tmp_path: Path
) -> None:
    phone = open_browser(server.url, width=400, height=800)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    phone.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    phone.begin()
    assert not phone.is_too_wide()
    phone.send(film)
    assert not phone.is_too_wide()
    light = phone.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
    assert (int(light) < 128) is dark
    bad = tmp_path / f"{'x' * 200}.mp4"
    bad.write_text("no video")
    phone.begin()
    phone.send(bad)
    assert not phone.is_too_wide()
    phone.driver.get(f"{server.url}docs")
    assert not phone.is_too_wide()


def test_the_token_is_asked_for(start_server: Callable[..., Any], open_browser: Callable[..., Page]) -> None:
    token = "0123456789abcdef"
    with start_server(environment={"T3D_SERVE_TOKEN": token}) as server:
        assert not server.token  # of the address that the server prints: the operator knows it
        page = open_browser(server.url)
        page.find("token").send_keys("wrong")
        page.find("token").submit()
        page.wait(lambda: "This token is wrong" in page.driver.page_source)
        page.find("token").send_keys(token)
        page.find("token").submit()
        page.wait_for("start")
        page = open_browser(f"{server.url}?token={token}")
        page.wait_for("start")
        assert "token" not in page.driver.current_url
