"""Pages become notebooks whose cells are the pages' own code, which runs in test_docs.py."""

import re
import runpy
from pathlib import Path

import jupytext
import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", SCRIPT["PAGES"])
def test_a_notebook_is_its_page(name):
    page = ROOT / "docs" / f"{name}.md"
    made = SCRIPT["notebook"](page)
    nbformat.validate(made)
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    ours = [text.strip() if language == "python" else f"%%bash\n{text.strip()}" for language, text in blocks]
    assert len(ours) >= 2 and code[-len(ours) :] == ours
    setup = code[: -len(ours)]
    assert setup[0] == SCRIPT["INSTALL"]
    assert set(setup) <= {SCRIPT["INSTALL"], SCRIPT["PHOTOGRAPHS"], SCRIPT["DEMO"]}
    prose = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert set(re.findall(r"^#.*$", BLOCK.sub("", page.read_text()), flags=re.MULTILINE)) <= set(prose.splitlines())


def test_they_are_written_the_same_each_time(tmp_path):
    for folder in ("first", "second"):
        SCRIPT["main"](str(tmp_path / folder))
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(f"{name}.ipynb" for name in SCRIPT["PAGES"])
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        assert jupytext.read(tmp_path / "first" / file).cells


def test_the_photographs_to_try_it_with_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(SCRIPT["PHOTOGRAPHS"], {})
    people = sorted(Path("photographs").iterdir())
    assert len(people) == 40 and all(len(list(person.iterdir())) == 10 for person in people)
    assert Image.open("photographs/person_1/1.jpg").size == (276, 336)
