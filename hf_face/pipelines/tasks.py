"""Registers the pipelines with transformers; imported when a pipeline is first asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from ..models.pipeline_face_embedding import FaceEmbeddingPipeline
from ..models.pipeline_face_verification import FaceVerificationPipeline
from .sface import default_model


class DefaultModel(Mapping):
    """The default of a task, converted when it is first needed: the model's folder, and no revision."""

    def __getitem__(self, key: str) -> tuple[str, None]:
        if key != "model":
            raise KeyError(key)
        return str(default_model()), None

    def __iter__(self) -> Iterator[str]:
        return iter(["model"])

    def __len__(self) -> int:
        return 1

    def __contains__(self, key: object) -> bool:
        return key == "model"


_default: Any = DefaultModel()  # a dict would have to hold it at once
for _task, _pipeline_class in {
    "face-embedding": FaceEmbeddingPipeline,
    "face-verification": FaceVerificationPipeline,
}.items():
    PIPELINE_REGISTRY.register_pipeline(_task, _pipeline_class, pt_model=AutoModel, default=_default, type="image")
    # Written by the pipeline's `save_pretrained`, to files that go elsewhere: without our default.
    _written = {_task: {"impl": _pipeline_class, "pt": (AutoModel,), "type": "image"}}
    _pipeline_class._registered_impl = _written  # type: ignore[attr-defined]
