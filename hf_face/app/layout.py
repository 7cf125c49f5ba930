"""The app's page: three tabs that call a [`FaceApp`]."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import; photographs are nobody else's business

import gradio as gr

from .answers import FaceApp, rate_in_words

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
    return page


def _false_accept_rate(app: FaceApp) -> gr.Radio:
    rates = app.false_accept_rates
    return gr.Radio(
        [(rate_in_words(rate), rate) for rate in rates],
        value=rates[-1] if rates else None,
        label="How often may two strangers be taken for one person?",
        visible=bool(rates),
    )


def _photograph(label: str, name: str) -> gr.Image:
    """An upload, handed over as the file that it is: orientation and unusual formats are the pipeline's to read."""
    sources: list[Any] = ["upload", "webcam", "clipboard"]
    return gr.Image(type="filepath", image_mode=None, label=label, elem_id=name, sources=sources)


def _compare_tab(compare: Callable[..., Any], rate: gr.Radio) -> None:
    with gr.Row():
        photographs = [_photograph("First photograph", "first"), _photograph("Second photograph", "second")]
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    answer = gr.Markdown(elem_id="compare-answer")
    with gr.Row():
        found = [gr.Image(label="Faces found", format="png", interactive=False) for _ in photographs]
    crops = gr.Gallery(label="Aligned faces that were compared", columns=4, height="auto", format="png")
    button.click(compare, [*photographs, rate], [answer, *found, crops], api_visibility="private")
