"""The page in a real browser, Debian's Chromium without a window."""

import shutil

import pytest

from hf_face.app import FaceApp, build_page

selenium = pytest.importorskip("selenium.webdriver", reason="driving a browser requires selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

SECONDS = 60


@pytest.fixture
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1300"):
        options.add_argument(option)
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def url(app_model):
    page = build_page(FaceApp(str(app_model)))
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, show_error=True, quiet=True)
    yield address
    page.close()


def upload(browser, place: str, file) -> None:
    waiting = WebDriverWait(browser, SECONDS)
    waiting.until(lambda _: browser.find_elements(By.CSS_SELECTOR, f"#{place} input[type=file]"))[0].send_keys(
        str(file)
    )
    waiting.until(lambda _: browser.find_elements(By.CSS_SELECTOR, f"#{place} img"))


def answer(browser, place: str) -> str:
    """What stands in a place, once something does."""
    return WebDriverWait(browser, SECONDS).until(lambda _: browser.find_element(By.ID, place).text)


@pytest.mark.slow  # starts a browser: 10 seconds
def test_two_photographs_are_compared(browser, url, photographs):
    browser.get(url)
    upload(browser, "first", photographs[0])
    upload(browser, "second", photographs[1])
    browser.find_element(By.ID, "compare").click()
    assert answer(browser, "compare-answer").startswith("Two people\nSimilarity ")
    WebDriverWait(browser, SECONDS).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#crop-second img"))
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and all(address.startswith((url, "blob:", "data:")) for address in asked)  # and nobody else
