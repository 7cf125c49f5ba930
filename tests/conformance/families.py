"""Applies transformers' common tests to tiny models of every family, to the training model and the image processor."""

import copy
import unittest
from pathlib import Path

import torch
from tiny_models import CASES
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_pipeline_mixin import (
    TRANSFORMERS_TINY_MODEL_PATH,
    PipelineTesterMixin,
    pipeline_test_mapping,
    transformers_module,
)

from hf_face import FAMILIES, FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel


class FaceModelTester:
    """What transformers' tests ask of a model's tests: a configuration, inputs, and its dimensions."""

    batch_size = 3

    def __init__(self, config, dimensions: dict[str, int]):
        self.config = config
        self.is_training = isinstance(config, FaceRecognitionConfig)
        self.image_size = (
            getattr(config, "backbone_config", config).image_size if self.is_training else config.image_size
        )
        vars(self).update(dimensions)

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.randn(self.batch_size, 3, self.image_size, self.image_size)}


class FaceModelTest(ModelTesterMixin):
    test_resize_embeddings = False  # of an embedding table for tokens

    def setUp(self):
        self.model_tester = FaceModelTester(self.config, self.dimensions)
        self.config_tester = ConfigTester(
            self, config_class=type(self.config), has_text_modality=False, common_properties=[]
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is FaceRecognitionModel:
            inputs["labels"] = torch.arange(len(inputs["pixel_values"])) % 2
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


def tokens(count: int, hidden_size: int = 16) -> dict[str, int]:
    """The dimensions of a transformer with two layers."""
    return {"num_hidden_layers": 2, "num_attention_heads": 2, "seq_length": count, "hidden_size": hidden_size}


def maps(count: int, side: int) -> dict[str, int]:
    """The dimensions of a network with so many feature maps, the first of which has this side."""
    return {"num_hidden_layers": 2, "expected_num_hidden_layers": count, "seq_length": side, "hidden_size": side}


DIMENSIONS = {
    "iresnet": maps(3, 32),
    "iresnet-adaface": maps(3, 32),
    "mobilefacenet": maps(4, 16),
    "mobilenet_face": maps(3, 32),
    "ghostfacenet": maps(3, 16),
    "inception_resnet": maps(4, 7),
    "vit_face": tokens(16),
    "vit_face-transface": tokens(16),
    "foundation_face-clip": tokens(17),
    "foundation_face-dinov2": tokens(37),
    "foundation_face-dinov3": tokens(21),
    "foundation_face-siglip2": tokens(16),
    "foundation_face-vit": tokens(17),
    "timm_face-vit": tokens(17),
    "timm_face-convnext": maps(4, 8),
}


def add_test(name: str, config, model_class, dimensions: dict[str, int]) -> None:
    attributes = {
        "config": config,
        "all_model_classes": (model_class,),
        "dimensions": dimensions,
        "has_attentions": "num_attention_heads" in dimensions,
        "test_all_params_have_gradient": False,  # mask tokens have none where nothing is masked
        "__module__": __name__,
    }
    globals()[name] = type(name, (FaceModelTest, unittest.TestCase), attributes)


for case, (config, _) in CASES.items():
    name = case.title().replace("_", "").replace("-", "")
    add_test(f"{name}Test", config, FAMILIES[type(config)], DIMENSIONS[case])
    training_config = FaceRecognitionConfig(backbone_config=config)
    add_test(f"Recognition{name}Test", training_config, FaceRecognitionModel, DIMENSIONS[case])


class PipelineTest(PipelineTesterMixin):
    def setUp(self):
        (self.model_class,) = self.pipeline_model_mapping.values()
        folder = Path(TRANSFORMERS_TINY_MODEL_PATH, self.config.model_type, f"{self.model_class.__name__}")
        self.model_class(copy.deepcopy(self.config)).save_pretrained(folder)
        crop = getattr(self.config, "backbone_config", self.config)
        FaceImageProcessor(size={"height": crop.image_size, "width": crop.image_size}).save_pretrained(folder)


def add_pipeline_test(config, model_class) -> None:
    name = f"Pipeline{model_class.__name__.removesuffix('Model')}Test"
    mapping = {"image-feature-extraction": model_class}
    attributes = {"config": config, "pipeline_model_mapping": mapping, "__module__": __name__}
    globals()[name] = type(name, (PipelineTest, unittest.TestCase), attributes)


transformers_module.FaceImageProcessor = FaceImageProcessor  # where the tests look for it
pipeline_test_mapping["image-feature-extraction"]["test"] = "stand_ins.ImageFeatureExtractionPipelineTests"
for config in {type(config): config for config, _ in CASES.values()}.values():
    add_pipeline_test(config, FAMILIES[type(config)])
add_pipeline_test(FaceRecognitionConfig(backbone_config=CASES["iresnet"][0]), FaceRecognitionModel)


class FaceImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, **{"size": {"height": 20, "width": 20}, "channel_order": "bgr", **kwargs})

    def _get_image_processing_classes(self):
        return {"torchvision": FaceImageProcessor}


class FaceImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = FaceImageProcessingTester
