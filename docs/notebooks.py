"""
Writes pages of the documentation as notebooks that run from top to bottom: `make notebooks`.

    python docs/notebooks.py notebooks

A page is the only source of its notebook: its Python and its commands become cells. What a page takes for granted
(hf_face, photographs, a trained model) is set up in the cells before.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

DOCS = Path(__file__).parent
PAGES = ("use", "group", "people", "lora", "evaluate", "publish")

KERNEL = """\
---
jupyter:
  kernelspec: {name: python3, display_name: Python 3, language: python}
---

"""
INSTALL = """\
# or from a checkout: %pip install --quiet "/path/to/hf_face[demo,detection,gallery,onnx]"
%pip install --quiet "hf_face[demo,detection,gallery,onnx]"
"""
PHOTOGRAPHS = """\
# Photographs to try it with: the ORL faces, courtesy of AT&T Laboratories Cambridge. Replace them with your own.
from pathlib import Path

from hf_face.data import load_orl

for index, face in enumerate(load_orl()):
    file = Path("photographs", f"person_{face['label'] + 1}", f"{index % 10 + 1}.jpg")
    file.parent.mkdir(parents=True, exist_ok=True)
    face["image"].resize((276, 336)).save(file)
"""
DEMO = """\
%%bash
hf-face train demo/orl  # a small model, in outputs/demo: minutes on two CPU cores
"""


def notebook(page: Path) -> NotebookNode:
    """The notebook of a page. Equal pages give equal files."""
    text = page.read_text(encoding="utf-8")
    made = jupytext.reads(KERNEL + text, "md")
    code = "".join(cell.source for cell in made.cells if cell.cell_type == "code")
    setup = [INSTALL]
    setup += [PHOTOGRAPHS] if "photographs" in code else []
    setup += [DEMO] if "outputs/demo" in code else []
    made.cells[:0] = [new_markdown_cell("*Set up what this page takes for granted.*"), *map(new_code_cell, setup)]
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # nbformat's own are random
        cell.metadata.clear()
    made.metadata = {"kernelspec": made.metadata["kernelspec"]}
    return made


def notebooks() -> Iterator[tuple[str, NotebookNode]]:
    for name in PAGES:
        yield name, notebook(DOCS / f"{name}.md")


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, made in notebooks():
        file = Path(folder, f"{name}.ipynb")
        jupytext.write(made, file, fmt="ipynb")
        print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
