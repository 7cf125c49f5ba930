"""A pipeline of photographs whose files say who is on them, so that a test about many faces takes no time."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from hf_face import FaceConfig, FaceImageProcessor
from hf_face.models.pipeline_face_embedding import Photograph

SIZE = 32


class StubPipeline:
    """Takes files with lines such as "Ada 0.9": a face, and how similar it is to the person's; the largest first."""

    def __init__(self, seed: int = 0, thresholds: dict[str, float] | None = None):
        self.seed = seed
        self.model = nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.model.weight, seed)
        self.model.config = FaceConfig(
            embedding_size=SIZE, similarity_thresholds={"1e-3": 0.5, "1e-1": 0.3} if thresholds is None else thresholds
        )
        self.model.config.name_or_path = f"org/model-{seed}"
        self.image_processor = FaceImageProcessor()

    def __call__(self, photographs, policy: str = "all"):
        if isinstance(photographs, str | Path):
            return self.faces(photographs, policy)
        return (self.faces(photograph, policy) for photograph in photographs)

    def find_faces(self, photograph) -> Photograph:
        if Path(photograph).read_text() == "no image":
            raise ValueError(f"{photograph} is not an image, or damaged")
        num_faces = len(self.faces(photograph, "all"))
        boxes = np.tile(np.float32([1, 2, 11, 12]), (num_faces, 1))
        pixels = np.full((20, 20, 3), 200, dtype=np.uint8)
        return Photograph(str(photograph), pixels, boxes, np.zeros((num_faces, 5, 2)), np.ones(num_faces))

    def embed_faces(self, photographs: Sequence[Photograph]) -> list[list[dict]]:
        return [self.faces(photograph.name, "all") for photograph in photographs]

    def faces(self, photograph, policy: str) -> list[dict]:
        lines = Path(photograph).read_text().splitlines()
        faces = [self.face(name, float(similarity)) for name, similarity in map(str.split, lines)]
        return faces if policy == "all" else faces[:1]

    def face(self, name: str, similarity: float = 1.0) -> dict:
        person, noise = self.vector(name), self.vector(f"{name} {similarity}")
        noise = unit(noise - noise @ person * person)
        embedding = similarity * person + np.sqrt(1 - similarity**2) * noise
        box = {"xmin": 1.0, "ymin": 2.0, "xmax": 11.0, "ymax": 12.0}
        return {"box": box, "score": 0.9, "embedding": embedding.astype(np.float32), "norm": 20.0}

    def vector(self, text: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        return unit(np.random.default_rng(list(digest)).normal(size=SIZE))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def write_photographs(folder: Path, photographs: dict[str, Sequence[str]]) -> Path:
    """Files and the faces in them, such as `{"Ada/1.jpg": ["Ada 0.9", "Bob 1"]}`."""
    for name, faces in photographs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(faces))
    return folder
