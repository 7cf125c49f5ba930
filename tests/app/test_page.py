"""The page in a real browser, Debian's Chromium without a window."""

import shutil

import pytest

from hf_face.app import FaceApp, build_page
from hf_face.pipelines import FaceGallery

selenium = pytest.importorskip("selenium.webdriver", reason="driving a browser requires selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

SECONDS = 60


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def url(app_model, photographs, tmp_path_factory):
    """The address of the page, with a gallery of two people."""
    gallery = FaceGallery(FaceApp(str(app_model)).embed)
    gallery.add("Ada", str(photographs[0]))
    gallery.add("Grace", str(photographs[3]))
    page = build_page(FaceApp(str(app_model), str(gallery.save(tmp_path_factory.mktemp("gallery")))))
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, show_error=True, quiet=True)
    yield address
    page.close()


@pytest.fixture
def opened(browser, url):
    browser.get(url)
    yield browser
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and all(address.startswith((url, "blob:", "data:")) for address in asked)  # and nobody else


def wait(browser, condition):
    """What a condition gives, once it is something."""
    return WebDriverWait(browser, SECONDS).until(lambda _: condition())


def find(browser, selector: str):
    return wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, selector))[0]


def open_tab(browser, title: str) -> None:
    wait(browser, lambda: browser.find_elements(By.XPATH, f"//button[@role='tab'][contains(., '{title}')]"))[0].click()


def upload(browser, place: str, *files) -> None:
    find(browser, f"#{place} input[type=file]").send_keys("\n".join(map(str, files)))
    shown = "img" if len(files) == 1 else f"tr:nth-of-type({len(files)})"
    find(browser, f"#{place} {shown}")


def answer(browser, place: str) -> str:
    """What stands in a place, once something does."""
    return wait(browser, lambda: browser.find_element(By.ID, place).text)


def table(browser, place: str, rows: int) -> list[list[str]]:
    """The cells of a table, once it has as many rows."""
    find(browser, f"#{place} [data-row='{rows - 1}']")
    cells = browser.find_elements(By.CSS_SELECTOR, f"#{place} [data-row]")
    return [[cell.text for cell in cells if cell.get_dom_attribute("data-row") == str(row)] for row in range(rows)]


def test_two_photographs_are_compared(opened, photographs):
    upload(opened, "first", photographs[0])
    upload(opened, "second", photographs[1])
    find(opened, "#compare").click()
    assert answer(opened, "compare-answer").startswith("Two people\nSimilarity ")
    find(opened, "#crop-second img")


def test_a_gallery_is_searched(opened, photographs):
    open_tab(opened, "Search a gallery")
    upload(opened, "searched", photographs[0])
    find(opened, "#search").click()
    assert answer(opened, "search-answer") == "nobody"  # at the lowest rate
    rows = table(opened, "search-people", rows=2)
    assert rows[0] == ["1", "Ada", "1", "false"] and rows[1][1] == "Grace"
    find(opened, "label[data-testid='1 in 10-radio-label']").click()
    find(opened, "#search").click()
    wait(opened, lambda: answer(opened, "search-answer") == "Ada")


def test_photographs_are_grouped(opened, photographs):
    open_tab(opened, "Group photographs")
    upload(opened, "grouped", *photographs[:4])
    find(opened, "#group").click()
    assert answer(opened, "group-answer") == "4 people, 4 faces"
    rows = table(opened, "group-faces", rows=4)
    assert rows == [[file.name, str(person)] for person, file in enumerate(photographs[:4], start=1)]
    wait(opened, lambda: len(opened.find_elements(By.CSS_SELECTOR, "#group-people img")) == 4)
