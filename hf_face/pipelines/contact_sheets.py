"""Writes grouped faces as a page of contact sheets, and as a table."""

import os
import shutil
from html import escape
from pathlib import Path
from urllib.parse import quote

import pyarrow.csv
from datasets import Dataset, Image

from ..user_input import check_new_folder
from .grouping import PhotographGroups

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; color: #222; }}
section {{ margin-bottom: 2em; }}
figure {{ display: inline-block; width: 112px; margin: 0 8px 8px 0; vertical-align: top; }}
img {{ width: 112px; height: 112px; border-radius: 4px; background: #ddd; }}
figcaption {{ font-size: 11px; color: #666; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<p>{faces} of {people}. <a href="faces.csv">Table of all faces</a></p>
{sections}
</html>
"""


def save_contact_sheets(groups: PhotographGroups, output: str | Path) -> Path:
    """
    Write grouped faces into a new folder: `index.html` with a contact sheet for each person, the thumbnails in
    `faces/`, and `faces.csv`, the table. The folder appears when it is complete.

    Args:
        groups: From [`group_photographs`].
        output: The folder, which must not exist or be empty.

    Returns:
        The page.

    Raises:
        ValueError: if the folder is not empty or cannot be written.
    """
    check_new_folder(output)
    output = Path(output)
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "faces").mkdir(parents=True)
    for row, image in enumerate(groups.faces.cast_column("thumbnail", Image(decode=False))["thumbnail"]):
        (unfinished / _thumbnail(row)).write_bytes(image["bytes"])
    table: Dataset = groups.faces.remove_columns("thumbnail")
    pyarrow.csv.write_csv(table.data.table, unfinished / "faces.csv")
    (unfinished / "index.html").write_text(_page(groups, output), encoding="utf-8")
    os.rename(unfinished, output)
    return output / "index.html"


def _page(groups: PhotographGroups, output: Path) -> str:
    captions = [_figure(row, name, groups, output) for row, name in enumerate(groups.faces["file_name"])]
    people = groups.people
    together = {person: rows for person, rows in people.items() if len(rows) > 1}
    alone = [rows[0] for rows in people.values() if len(rows) == 1]
    sections = [
        _section(f"Person {person}: {counted(len(rows), 'face')}", [captions[row] for row in rows])
        for person, rows in together.items()
    ]
    sections.append(_section(f"Alone: {counted(len(alone), 'face')}", [captions[row] for row in alone]))
    sections.append(_section("Without a face", [f"<p>{escape(name)}</p>" for name in groups.without_faces]))
    not_read = [f"<p>{escape(name)}: {escape(reason)}</p>" for name, reason in groups.unreadable.items()]
    sections.append(_section("Not read", not_read))
    return PAGE.format(
        title=f"People in {escape(groups.folder.resolve().name)}",
        faces=counted(len(groups.faces), "face"),
        people=counted(len(people), "person", "people"),
        sections="\n".join(filter(None, sections)),
    )


def _section(title: str, entries: list[str]) -> str:
    return "\n".join([f"<section><h2>{title}</h2>", *entries, "</section>"]) if entries else ""


def _figure(row: int, name: str, groups: PhotographGroups, output: Path) -> str:
    target = quote(Path(os.path.relpath(groups.folder / name, output)).as_posix())
    return (
        f'<figure><a href="{target}"><img src="{_thumbnail(row)}" loading="lazy" alt=""></a>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _thumbnail(row: int) -> str:
    return f"faces/{row:06d}.jpg"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun: "1 face", "1,200 faces"."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


__all__ = ["save_contact_sheets"]
