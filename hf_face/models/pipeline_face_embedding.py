"""The pipeline from photographs to the embeddings of the faces in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline

from .alignment import align_faces, similarity_transforms
from .face_detection import FaceDetector, YuNetDetector
from .pixels import name_of, read_photograph

POLICIES = ("all", "largest", "center")
# Bound the memory of crowds. On a CPU, the activations of more faces are mapped anew in every layer, which takes up to
# twice as long as the model.
FACES_AT_ONCE = 256
FACES_AT_ONCE_ON_CPU = 4


@dataclass
class Photograph:
    """
    A photograph and the faces found in it.

    Args:
        name: How messages name it.
        pixels: Upright RGB (H, W, 3), uint8.
        boxes: Left, top, right and bottom of each face (K, 4), in pixels.
        landmarks: x and y of each face's five landmarks (K, 5, 2), in pixels.
        scores: The detector's score of each face (K,).
    """

    name: str
    pixels: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    def keep(self, policy: str) -> "Photograph":
        """The photograph with the faces that a policy chooses."""
        if policy == "all" or len(self.boxes) < 2:
            return self
        corner, opposite = self.boxes[:, :2], self.boxes[:, 2:]
        if policy == "largest":
            chosen = (opposite - corner).prod(1).argmax()
        else:
            center = np.array(self.pixels.shape[1::-1]) / 2
            chosen = np.linalg.norm((corner + opposite) / 2 - center, axis=1).argmin()
        rows = slice(chosen, chosen + 1)
        return Photograph(self.name, self.pixels, self.boxes[rows], self.landmarks[rows], self.scores[rows])


class FacePipeline(Pipeline):
    """Finds, aligns and embeds faces: what the pipelines that take photographs share."""

    _load_processor = False  # type: ignore[assignment]  # declared as None
    _load_image_processor = True  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, *args, detector: FaceDetector | None = None, **kwargs):
        self.detector = YuNetDetector() if detector is None else detector
        super().__init__(*args, **kwargs)
        self.model.eval()
        if self.device.type == "cpu":  # convolutions are faster this way
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # wrapped by transformers

    def __call__(self, inputs, **kwargs):
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def find_faces(self, image: Any, timeout: float | None = None) -> Photograph:
        """Read a photograph and find the faces in it; see [`read_photograph`] for what it may be."""
        pixels = read_photograph(image, timeout)
        ((boxes, landmarks, scores),) = self.detector.detect([pixels])
        found = [np.asarray(values, dtype=np.float32) for values in (boxes, landmarks, scores)]
        return Photograph(name_of(image), pixels, *found)

    def embed_faces(self, photographs: Sequence[Photograph]) -> list[list[dict[str, Any]]]:
        """Describe the faces of each photograph, all aligned and embedded together."""
        images = [photograph.pixels for photograph in photographs for _ in photograph.boxes]
        if not images:
            return [[] for _ in photographs]
        landmarks = np.concatenate([photograph.landmarks for photograph in photographs])
        size = self.image_processor.size["height"]  # type: ignore[attr-defined]  # every image processor has one
        crops = align_faces(images, landmarks, size, antialias=True, device=self.device)
        inputs = self.image_processor(crops, return_tensors="pt", device=self.device).to(self.dtype)
        if getattr(self.model.config, "position", None) == "keypoint_relative":
            inputs["keypoints"] = landmarks_in_crops(landmarks, size).to(inputs.pixel_values)
        at_once = FACES_AT_ONCE_ON_CPU if self.device.type == "cpu" else FACES_AT_ONCE
        parts = zip(*(values.split(at_once) for values in inputs.values()), strict=True)
        outputs = [self.model(**dict(zip(inputs, part, strict=True))) for part in parts]
        embeddings = torch.cat([output.pooler_output for output in outputs]).float().cpu().numpy()
        norms = torch.cat([output.norm for output in outputs]).float().flatten().tolist()
        values = zip(
            np.concatenate([photograph.boxes for photograph in photographs]).tolist(),
            landmarks.tolist(),
            np.concatenate([photograph.scores for photograph in photographs]).tolist(),
            embeddings,
            norms,
            strict=True,
        )
        faces = iter([describe_face(*each) for each in values])
        return [[next(faces) for _ in photograph.boxes] for photograph in photographs]


def landmarks_in_crops(landmarks: np.ndarray, image_size: int) -> Tensor:
    """Landmarks (K, 5, 2) of photographs as fractions of their aligned crops."""
    to_crop = similarity_transforms(landmarks, image_size)
    return (torch.as_tensor(landmarks) @ to_crop[:, :, :2].mT.float() + to_crop[:, None, :, 2].float()) / image_size


def describe_face(box, landmarks, score, embedding, norm) -> dict[str, Any]:
    return {
        "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        "landmarks": landmarks,
        "score": score,
        "embedding": embedding,
        "norm": norm,
    }


class FaceEmbeddingPipeline(FacePipeline):
    """
    Finds every face in photographs and embeds it: `pipeline("face-embedding")`.

    Photographs are paths, URLs, the bytes of files, Pillow images or arrays, and are turned as their Exif orientation
    says.

    Args:
        detector ([`FaceDetector`], *optional*):
            Finds the faces and their landmarks; defaults to [`YuNetDetector`].
        policy (`str`, *optional*, defaults to `"all"`):
            Which faces of a photograph to embed: `"all"`, the `"largest"`, or the one nearest to the `"center"`.
        timeout (`float`, *optional*):
            Seconds to wait for a URL.

    Returns:
        For each photograph, a list of faces, empty if there are none. Each is a dictionary:

        - **box** (`dict[str, float]`): `xmin`, `ymin`, `xmax` and `ymax`, in pixels of the upright photograph.
        - **landmarks** (`list`): x and y of the left eye, right eye (as seen in the image), nose, and left and right
          corner of the mouth, in pixels.
        - **score** (`float`): How sure the detector is, from 0 to 1.
        - **embedding** (`np.ndarray` of shape `(embedding_size,)`): Unit length, float32: the dot product of two is
          their cosine similarity.
        - **norm** (`float`): Its length before normalization, a measure of quality for some models.

    Example:
    ```python
    >>> from transformers import pipeline
    >>> import hf_face

    >>> embed = pipeline("face-embedding")
    >>> faces = embed("holiday.jpg")  # doctest: +SKIP
    >>> faces[0]["box"], faces[0]["embedding"].shape  # doctest: +SKIP
    ({'xmin': 622.6, 'ymin': 199.8, 'xmax': 696.0, 'ymax': 299.7}, (128,))
    ```
    """

    def _sanitize_parameters(self, policy: str | None = None, timeout: float | None = None, **kwargs):
        refuse_unknown_parameters(kwargs, "detector, policy, timeout")
        given = {"policy": check_policy(policy), "timeout": timeout}
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def preprocess(self, image, policy: str = "all", timeout: float | None = None) -> dict[str, Photograph]:
        return {"photographs": self.find_faces(image, timeout).keep(policy)}

    def _forward(self, model_inputs):
        # A list if in a batch, and then the answer is one too: transformers takes batches apart.
        photographs = model_inputs["photographs"]
        if isinstance(photographs, list):
            return {"faces": self.embed_faces(photographs)}
        return {"faces": self.embed_faces([photographs])[0]}

    def postprocess(self, model_outputs) -> list[dict[str, Any]]:
        return model_outputs["faces"]


def check_policy(policy: str | None) -> str | None:
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, found {policy!r}.")
    return policy


def refuse_unknown_parameters(others: dict[str, Any], known: str) -> None:
    unknown = others.keys() - {"local_files_only"}  # `pipeline` hands this on
    if unknown:
        raise ValueError(f"There is no parameter {', '.join(unknown)}. The pipeline's own are: {known}.")
