"""Gradio app: computes the metric from a table of scores and references."""

from pathlib import Path

import evaluate
import gradio as gr

metric = evaluate.load(str(Path(__file__).with_name("face_verification.py")))


def compute(table):
    scores, same = table["predictions"].astype(float), table["references"].astype(int)
    try:
        return metric.compute(predictions=scores, references=same, num_folds=min(10, len(same)))
    except ValueError as error:
        raise gr.Error(str(error)) from error


interface = gr.Interface(
    fn=compute,
    inputs=gr.Dataframe(headers=["predictions", "references"], datatype="number", column_count=2),
    outputs=gr.JSON(label="face verification"),
    title="Metric: face verification",
    description=metric.info.description,
    examples=[[[[0.9, 1], [0.2, 0], [0.8, 1], [0.1, 0], [0.7, 1], [0.6, 0]]]],
)

if __name__ == "__main__":
    interface.launch()
