"""The static page, in a real browser: what it computes is what Python does, and it asks no other server."""

import http.server
import importlib.util
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from hf_face import convert_checkpoint
from hf_face.models.opencv_zoo import SFACE, find_zoo_file
from hf_face.pipelines import YuNetDetector, align_faces

ROOT = Path(__file__).parents[2]
# A person's two photographs of ORL, and somebody else's, enlarged; rows of the data set.
PHOTOGRAPHS = {"first": 300, "same": 302, "other": 311}
THRESHOLD = 0.35


class Requests(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and remembers what was asked for."""

    asked: list[str] = []  # noqa: RUF012
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, *args):
        self.asked.append(self.requestline)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_in_browser", ROOT / "scripts" / "build_in_browser.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sface(tmp_path_factory):
    """SFace as users have it, with a threshold."""
    pytest.importorskip("cv2", reason="the extra [detection] is not installed")
    model, image_processor = convert_checkpoint(find_zoo_file(SFACE), "sface")
    model.config.similarity_thresholds = {"1e-3": THRESHOLD}
    folder = tmp_path_factory.mktemp("models") / "sface"
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return model, image_processor, folder


@pytest.fixture(scope="module")
def page(script, sface, orl, tmp_path_factory):
    """The address of the page."""
    try:
        script.download_runtime()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"npm cannot fetch onnxruntime-web: {error}")
    crops = tmp_path_factory.mktemp("crops")
    for row in (0, 10):
        orl[row]["image"].save(crops / f"{row}.png")
    folder = script.build(tmp_path_factory.mktemp("space") / "in_browser", sface[2], crops)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Requests, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not binary or not driver:
        pytest.skip("no browser: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def photographs(orl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, row in PHOTOGRAPHS.items():
        orl[row]["image"].convert("RGB").resize((460, 560), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    Image.new("RGB", (300, 200), "white").save(folder / "nobody.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def opened(browser, page):
    browser.get(page)
    wait(browser, lambda: "Loading" not in text(browser, "#answer"))
    return browser


def text(browser, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def wait(browser, condition):
    WebDriverWait(browser, 120).until(lambda _: condition())


def choose(browser, which: int, file: Path) -> str:
    """Choose a photograph, and return what the page says of it."""
    section = browser.find_elements(By.CSS_SELECTOR, ".photograph")[which]
    message = section.find_element(By.CSS_SELECTOR, ".message")
    section.find_element(By.CSS_SELECTOR, "input").send_keys(str(file))
    wait(browser, lambda: message.text and "Looking" not in message.text)
    return message.text


@torch.inference_mode()
def embedding(sface, file: Path) -> np.ndarray:
    model, image_processor, _ = sface
    pixels = np.array(Image.open(file))
    ((_, landmarks, _),) = YuNetDetector().detect([pixels])
    crop = align_faces([pixels], landmarks[:1], antialias=True)
    return model(image_processor(crop, return_tensors="pt").pixel_values).pooler_output[0].numpy()


def test_two_photographs_are_compared_as_in_python(opened, sface, photographs):
    assert choose(opened, 0, photographs / "first.png") == "1 face found."
    for name, same in (("same", True), ("other", False)):
        assert choose(opened, 1, photographs / f"{name}.png") == "1 face found."
        answer = opened.find_element(By.ID, "answer")
        expected = embedding(sface, photographs / "first.png") @ embedding(sface, photographs / f"{name}.png")
        assert float(answer.get_dom_attribute("data-similarity")) == pytest.approx(expected, abs=0.01)
        assert answer.get_dom_attribute("data-same") == str(same).lower() == str(bool(expected >= THRESHOLD)).lower()
        assert answer.text.startswith("Same person" if same else "Different people")
    assert len(opened.find_elements(By.CSS_SELECTOR, ".crops canvas")) == 2
    assert opened.get_log("browser") == []  # no errors, and nothing that the security policy refused


def test_nobody_and_no_image_are_said(opened, photographs):
    assert choose(opened, 0, photographs / "nobody.png") == "No face found."
    assert choose(opened, 1, photographs / "text.png") == "text.png cannot be read as an image."
    assert text(opened, "#answer") == "Choose two photographs with a face each."


def test_several_faces_are_offered(opened, photographs):
    together = Image.new("RGB", (920, 560))
    for place, name in ((0, "first"), (460, "other")):
        together.paste(Image.open(photographs / f"{name}.png"), (place, 0))
    together.save(photographs / "together.png")
    choose(opened, 0, photographs / "first.png")
    assert choose(opened, 1, photographs / "together.png") == "2 faces found."
    similarities = []
    for index in range(2):
        opened.find_elements(By.CSS_SELECTOR, ".crops")[1].find_elements(By.CSS_SELECTOR, "button")[index].click()
        similarities.append(float(opened.find_element(By.ID, "answer").get_dom_attribute("data-similarity")))
    assert max(similarities) > 0.9 and min(similarities) < THRESHOLD


def test_no_photograph_leaves_the_page(opened, photographs):
    Requests.asked.clear()
    choose(opened, 0, photographs / "first.png")
    choose(opened, 1, photographs / "same.png")
    assert Requests.asked == []
    refused = "return fetch('https://example.org/').then(() => false, () => true)"
    assert opened.execute_script(refused)
    assert any("Content Security Policy" in entry["message"] for entry in opened.get_log("browser"))
