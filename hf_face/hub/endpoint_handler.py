"""
Answers requests to a Hugging Face Inference Endpoint: faces in, embeddings out.

The body is an aligned face crop (`Content-Type: image/jpeg` or `image/png`), or JSON with crops in base64:

    {"inputs": "<base64>"}  ->  {"embedding": [0.01, ...], "norm": 21.3}
    {"inputs": ["<base64>", "<base64>"]}  ->  [{"embedding": ..., "norm": ...}, {"embedding": ..., "norm": ...}]

Embeddings have unit length: the dot product of two is their cosine similarity.
"""

import base64
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

IMAGE = "an image, its bytes, or its bytes in base64 (no path and no URL)"


class EndpointHandler:
    """The name and the methods are those that Inference Endpoints call."""

    def __init__(self, path: str = ""):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).to(self.device).eval()
        self.image_processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
        self.decode_image = get_class_from_dynamic_module("pixels.decode_image", path)

    @torch.inference_mode()
    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """
        Args:
            data: The request, with one crop or a list of them in `inputs`: images, their bytes, or these in base64.

        Raises:
            ValueError: if an input is not an image; the endpoint answers with the message.
        """
        inputs = data["inputs"]
        crops = [self.read(each) for each in (inputs if isinstance(inputs, list) else [inputs])]
        if not crops:
            return []
        output = self.model(**self.image_processor(crops, return_tensors="pt").to(self.device))
        answers = [
            {"embedding": embedding, "norm": norm}
            for embedding, (norm,) in zip(output.pooler_output.tolist(), output.norm.tolist(), strict=True)
        ]
        return answers if isinstance(inputs, list) else answers[0]

    def read(self, image: Any) -> Any:
        """An image as the image processor takes it, which would also open paths and URLs."""
        if isinstance(image, str):
            image = base64.b64decode(image.rpartition(",")[2], validate=True)  # after the head of a data URL
        if isinstance(image, bytes):
            return self.decode_image(image)
        if not hasattr(image, "getexif"):  # as Pillow's images have
            raise ValueError(f"Expected {IMAGE}, found {type(image).__name__}.")
        return image
