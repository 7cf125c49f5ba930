"""What transformers' common tests import from folders that the source archive leaves out."""

import json
import os
import sys
import types
from pathlib import Path

from hf_face import FAMILIES, FaceRecognitionModel

# Settings of every config other than their defaults; ConfigTester asks that the constructor keeps them.
CONFIG_COMMON_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["FaceModel"],
    "problem_type": "regression",
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
}


class ImageFeatureExtractionPipelineTests:
    """What PipelineTesterMixin asks of a task: a pipeline, examples, and what must hold for them."""

    def get_test_pipeline(self, model, tokenizer, image_processor, dtype, **kwargs):
        from PIL import Image
        from transformers import pipeline

        pipe = pipeline("image-feature-extraction", model=model, image_processor=image_processor, dtype=dtype)
        return pipe, [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]

    def run_pipeline_test(self, pipe, examples):
        config = getattr(pipe.model.config, "backbone_config", pipe.model.config)
        for pool in (True, False):
            for (embedding,) in pipe(examples, pool=pool):
                assert len(embedding) == getattr(config, "embedding_size", None) or pipe.model.config.embedding_size


def install(folder: Path) -> None:
    """Make the modules importable, and write the files that the pipeline's tests read beside them."""
    tests = "transformers_tests"
    add(f"{tests}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    add(f"{tests}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    add(f"{tests}.utils.test_configuration_utils", config_common_kwargs=CONFIG_COMMON_KWARGS)
    add("fetch_hub_objects_for_ci", url_to_local_path=str)
    source = folder / "src" / "transformers"
    source.mkdir(parents=True, exist_ok=True)
    (source / "__init__.py").touch()  # the pipeline's tests execute it and then use the installed transformers
    models = folder / "tiny_models"
    (models / "reports").mkdir(parents=True, exist_ok=True)
    summary = {"tokenizer_classes": [], "processor_classes": ["FaceImageProcessor"]}
    classes = [*FAMILIES.values(), FaceRecognitionModel]
    (models / "reports" / "tiny_model_summary.json").write_text(
        json.dumps({each.__name__: summary for each in classes})
    )
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = str(models)


def add(name: str, **content) -> None:
    """Put a module with this content where `import` finds it."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)
