"""
Answers requests to a Hugging Face Inference Endpoint: faces in, embeddings out.

The body is an image (`Content-Type: image/jpeg` or `image/png`), or JSON with images in base64, one or a list:

    {"inputs": "<aligned crop>"}  ->  {"embedding": [0.01, ...], "norm": 21.3}
    {"inputs": "<photograph>", "parameters": {"detect": true}}
        ->  [{"box": {"xmin": 12.5, ...}, "landmarks": [...], "score": 0.94, "embedding": [...], "norm": 21.3}, ...]

A list of images is answered by a list of such answers. With an image as the body, `?detect=true` in the URL does the
same as the parameter. Embeddings have unit length: the dot product of two is their cosine similarity.
"""

import base64
import binascii
from functools import cached_property
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, Pipeline, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


class EndpointHandler:
    """The name and the methods are those that Inference Endpoints call."""

    def __init__(self, path: str = ""):
        self.path = path
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).to(self.device).eval()
        self.image_processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
        self.read_photograph = get_class_from_dynamic_module("pixels.read_photograph", path)

    def __call__(self, data: dict[str, Any]) -> Any:
        """
        Args:
            data: The request. `inputs` is an image or a list of them: Pillow images, their files' bytes, or these in
                base64. `parameters` may have `detect`: whether they are photographs to find faces in, rather than
                aligned crops.

        Raises:
            ValueError: if an input is not an image; the endpoint answers with the message.
        """
        inputs = data["inputs"]
        several = isinstance(inputs, list)
        images = [self.read(image) for image in (inputs if several else [inputs])]
        detect = (data.get("parameters") or {}).get("detect", False)
        answers = self.embed_photographs(images) if detect else self.embed_crops(images)
        return answers if several else answers[0]

    def read(self, image: Any) -> Any:
        """The pixels of an image, which must be in the request: no path or URL is opened."""
        if isinstance(image, str):
            try:
                image = base64.b64decode(image.rpartition(",")[2], validate=True)  # after the head of a data URL
            except binascii.Error as error:
                raise ValueError(f"Expected images in base64, found {image[:40]!r}: {error}") from error
        elif isinstance(image, dict):
            raise ValueError(f"Expected images in base64, found named values: {', '.join(image)}.")
        return self.read_photograph(image)

    @torch.inference_mode()
    def embed_crops(self, crops: list[Any]) -> list[dict[str, Any]]:
        if not crops:
            return []
        output = self.model(**self.image_processor(crops, return_tensors="pt").to(self.device))
        values = zip(output.pooler_output.tolist(), output.norm.flatten().tolist(), strict=True)
        return [{"embedding": embedding, "norm": norm} for embedding, norm in values]

    def embed_photographs(self, photographs: list[Any]) -> list[list[dict[str, Any]]]:
        found = self.pipeline(photographs) if photographs else []
        return [[{**face, "embedding": face["embedding"].tolist()} for face in faces] for faces in found]

    @cached_property
    def pipeline(self) -> Pipeline:
        """Made for the first photograph: it needs OpenCV, and the network that finds faces."""
        task: Any = "face-embedding"
        return pipeline(task, model=self.path, device=self.device, trust_remote_code=True)


__all__ = ["EndpointHandler"]
