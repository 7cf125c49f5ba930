"""
Takes the screenshots of the docs: the app, the page that runs in the browser, and the page of contact sheets. Needs
Chromium with its driver, and npm.

    python docs/make_screenshots.py

The photographs are the ORL Database of Faces, courtesy of AT&T Laboratories Cambridge.
"""

import http.server
import runpy
import shutil
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from transformers import pipeline

from hf_face.app import FaceApp, build_page
from hf_face.data import load_orl
from hf_face.pipelines import annotate_pair, default_model, group_photographs, save_contact_sheets

IMAGES = Path(__file__).parent / "images"
BUILD_IN_BROWSER = Path(__file__).parents[1] / "scripts" / "build_in_browser.py"
SCALE = 4
PEOPLE = (9, 14, 21, 30)  # of ORL


def main() -> None:
    with TemporaryDirectory() as folder:
        photographs = write_photographs(Path(folder, "photographs"))
        draw_verification(photographs[:2])
        browser = open_browser()
        screenshot_app(browser, photographs[:2])
        screenshot_in_browser(browser, photographs[10:12], Path(folder, "in_browser"))
        groups = group_photographs(Path(folder, "photographs"))
        browser.set_window_size(700, 720)
        browser.get(save_contact_sheets(groups, Path(folder, "people")).as_uri())
        browser.save_screenshot(str(IMAGES / "groups.png"))
        browser.quit()
    for name in ("verify", "app", "in_browser", "groups"):
        with Image.open(IMAGES / f"{name}.png") as image:
            image.convert("RGB").quantize(256).save(IMAGES / f"{name}.png", optimize=True)
        print(f"{name}.png: {(IMAGES / f'{name}.png').stat().st_size / 1024:.0f} KB")


def write_photographs(folder: Path) -> list[Path]:
    """Five photographs each of some people."""
    folder.mkdir()
    faces, files = load_orl(), []
    for person in PEOPLE:
        for number in range(5):
            image = faces[10 * person + 2 * number]["image"]
            files.append(folder / f"{person}-{number}.jpg")
            image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.LANCZOS).save(files[-1])
    return files


def draw_verification(files: list[Path]) -> None:
    answer = pipeline("face-verification", model=str(default_model()))(tuple(map(str, files)))
    annotate_pair(files, answer, height=300).save(IMAGES / "verify.png")


def open_browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=900,1400"):
        options.add_argument(option)
    options.binary_location = shutil.which("chromium")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def screenshot_app(browser: webdriver.Chrome, files: list[Path]) -> None:
    page = build_page(FaceApp())
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    browser.get(url)
    waiting = WebDriverWait(browser, 60)
    for place, file in zip(("first", "second"), files, strict=True):
        (field,) = waiting.until(lambda _, at=place: browser.find_elements(By.CSS_SELECTOR, f"#{at} input[type=file]"))
        field.send_keys(str(file))
        waiting.until(lambda _, at=place: browser.find_elements(By.CSS_SELECTOR, f"#{at} img"))
    browser.find_element(By.ID, "compare").click()
    waiting.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#crop-second img"))
    waiting.until(lambda _: browser.execute_script("return [...document.images].every(image => image.complete)"))
    browser.execute_script("window.scrollTo(0, 0)")
    browser.save_screenshot(str(IMAGES / "app.png"))
    page.close()


def screenshot_in_browser(browser: webdriver.Chrome, files: list[Path], folder: Path) -> None:
    runpy.run_path(str(BUILD_IN_BROWSER))["build"](folder, default_model())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.set_window_size(900, 1000)
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        fields = browser.find_elements(By.CSS_SELECTOR, ".photograph input")
        for field, file in zip(fields, files, strict=True):
            field.send_keys(str(file))
        answered = "return document.getElementById('answer').dataset.similarity"
        WebDriverWait(browser, 120).until(lambda _: browser.execute_script(answered))
        browser.save_screenshot(str(IMAGES / "in_browser.png"))
        server.shutdown()


if __name__ == "__main__":
    main()
