"""Gradio app: computes the metric from probes and a gallery as JSON."""

import json
from pathlib import Path

import evaluate
import gradio as gr

metric = evaluate.load(str(Path(__file__).with_name("face_identification.py")))

EXAMPLE = """{"predictions": [[0.9, 0.1], [0.6, 0.5], [-1.0, -1.0]], "references": [7, 8, 9],
 "gallery": [[1.0, 0.0], [0.0, 1.0]], "gallery_references": [7, 8]}"""


def compute(text):
    try:
        return metric.compute(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error)) from error


interface = gr.Interface(
    fn=compute,
    inputs=gr.Code(value=EXAMPLE, language="json", label="arguments of compute"),
    outputs=gr.JSON(label="face identification"),
    title="Metric: face identification",
    description=metric.info.description,
)

if __name__ == "__main__":
    interface.launch()
