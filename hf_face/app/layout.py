"""The app's page: three tabs that call a [`FaceApp`]."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import; photographs are nobody else's business

import gradio as gr

from ..models.pipeline_face_verification import FALSE_ACCEPT_RATE
from .answers import FaceApp, rate_in_words

HEIGHT = 320  # of a photograph, in pixels
DELETE_UPLOADS = 600  # seconds until uploads and pictures made of them are deleted, and between two looks for them

ABOUT = """\
# Faces in photographs

Photographs stay on the machine that runs this page, and are deleted there after some minutes. A similarity is no proof:
read it together with its false accept rate, and ask people before you look for them.
"""


def build_page(app: FaceApp) -> gr.Blocks:
    """Lay out the tabs. The gallery's is there if the app has a gallery."""
    with gr.Blocks(
        title="Faces in photographs",
        analytics_enabled=False,
        delete_cache=(DELETE_UPLOADS, DELETE_UPLOADS),
    ) as page:
        gr.Markdown(ABOUT)
        rate = _false_accept_rate(app)
        with gr.Tab("Compare two photographs"):
            _compare_tab(app.compare, rate)
        if app.gallery is not None:
            with gr.Tab("Search a gallery"):
                _search_tab(app.search, rate)
        with gr.Tab("Group photographs"):
            _group_tab(app.group)
    return page


def _false_accept_rate(app: FaceApp) -> gr.Radio:
    rates = app.false_accept_rates
    usual = [rate for rate in rates if float(rate) >= FALSE_ACCEPT_RATE]
    return gr.Radio(
        [(rate_in_words(rate), rate) for rate in rates],
        value=(usual or rates or [None])[-1],
        label="How often may two strangers be taken for one person?",
        visible=bool(rates),
    )


def _photograph(label: str, name: str) -> gr.Image:
    """An upload, handed over as the file that it is: orientation and unusual formats are the pipeline's to read."""
    sources: list[Any] = ["upload", "webcam", "clipboard"]
    return gr.Image(type="filepath", image_mode=None, label=label, elem_id=name, sources=sources, height=HEIGHT)


def _picture(label: str, name: str | None = None, height: int = HEIGHT) -> gr.Image:
    """A picture of the answer, without the button that would send it to the Hub."""
    buttons: list[Any] = ["download", "fullscreen"]
    return gr.Image(label=label, format="png", interactive=False, elem_id=name, height=height, buttons=buttons)


def _compare_tab(compare: Callable[..., Any], rate: gr.Radio) -> None:
    with gr.Row():
        photographs = [_photograph("First photograph", "first"), _photograph("Second photograph", "second")]
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    answer = gr.Markdown(elem_id="compare-answer")
    with gr.Row():
        found = [_picture("Faces found") for _ in photographs]
    with gr.Row():
        crops = [_picture("Aligned face", f"crop-{name}", HEIGHT // 2) for name in ("first", "second")]
    button.click(compare, [*photographs, rate], [answer, *found, *crops], api_visibility="private")


def _search_tab(search: Callable[..., Any], rate: gr.Radio) -> None:
    with gr.Row():
        with gr.Column():
            photograph = _photograph("Photograph", "searched")
            button = gr.Button("Search", variant="primary", elem_id="search")
        found = _picture("Faces found")
    answer = gr.Markdown(elem_id="search-answer")
    columns = ["face", "person", "similarity", "enough"]
    people = gr.Dataframe(headers=columns, label="Most similar people", interactive=False, elem_id="search-people")
    button.click(search, [photograph, rate], [answer, found, people], api_visibility="private")


def _group_tab(group: Callable[..., Any]) -> None:
    photographs = gr.File(file_count="multiple", file_types=["image"], label="Photographs", elem_id="grouped")
    button = gr.Button("Group", variant="primary", elem_id="group")
    answer = gr.Markdown(elem_id="group-answer")
    people = gr.Gallery(
        label="People", columns=6, height="auto", format="png", object_fit="contain", buttons=[], elem_id="group-people"
    )
    table = gr.Dataframe(headers=["file", "person"], label="Who is where", interactive=False, elem_id="group-faces")
    button.click(group, [photographs], [answer, people, table], api_visibility="private")
