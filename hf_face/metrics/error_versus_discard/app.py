"""Gradio app: computes the metric from a table of qualities and errors."""

from pathlib import Path

import evaluate
import gradio as gr

metric = evaluate.load(str(Path(__file__).with_name("error_versus_discard.py")))


def compute(table):
    quality, wrong = table["predictions"].astype(float), table["references"].astype(int)
    try:
        return metric.compute(predictions=quality, references=wrong)
    except ValueError as error:
        raise gr.Error(str(error)) from error


interface = gr.Interface(
    fn=compute,
    inputs=gr.Dataframe(headers=["predictions", "references"], datatype="number", column_count=2),
    outputs=gr.JSON(label="error versus discard"),
    title="Metric: error versus discard",
    description=metric.info.description,
    examples=[[[[0.1, 1], [0.9, 0], [0.3, 0], [0.8, 0], [0.7, 0]]]],
)

if __name__ == "__main__":
    interface.launch()
