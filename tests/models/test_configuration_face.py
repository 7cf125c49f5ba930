"""Configurations are strict when constructed and tolerant, with a warning, when read from files."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from hf_face import (
    FaceRecognitionConfig,
    GhostFaceNetConfig,
    InceptionResNetConfig,
    IResNetConfig,
    MobileNetFaceConfig,
)

TINY = {"depths": [1], "hidden_sizes": [8], "stem_size": 8, "embedding_size": 8, "image_size": 16}


@pytest.fixture
def warnings(caplog):
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


@pytest.mark.parametrize("config_class", [IResNetConfig, FaceRecognitionConfig])
@pytest.mark.parametrize("name", ["embeding_size", "num_identites", "use_cache", "to_dict"])
def test_the_constructor_refuses_what_it_does_not_know(config_class, name):
    with pytest.raises(ValueError, match=f"{config_class.__name__} has no setting {name}. Its settings are: .*dtype"):
        config_class(**{name: 7})


@pytest.mark.parametrize(
    ("name", "value"), [("num_labels", 3), ("output_attentions", True), ("attn_implementation", "eager")]
)
def test_the_constructor_takes_transformers_own_settings(name, value):
    for config_class in (IResNetConfig, FaceRecognitionConfig):
        config = config_class(**{name: value})
        assert getattr(config, name if hasattr(config, name) else f"_{name}") == value


@pytest.mark.parametrize("name", ["embedding_size", "image_size", "num_channels"])
def test_sizes_are_positive(name):
    assert getattr(IResNetConfig(**{**TINY, name: 1}), name) == 1
    with pytest.raises(StrictDataclassClassValidationError, match=f"{name} must be at least 1, found 0"):
        IResNetConfig(**{**TINY, name: 0})


@pytest.mark.parametrize(
    ("config_class", "wrong"),
    [
        (InceptionResNetConfig, {"depths": [5, 10]}),
        (InceptionResNetConfig, {"depths": [5, 10, 0]}),
        (InceptionResNetConfig, {"residual_scales": [0.17, 0.1]}),
        (GhostFaceNetConfig, {"strides": [1, 2]}),
        (MobileNetFaceConfig, {"strides": [1, 2]}),
        (MobileNetFaceConfig, {"hidden_sizes": [8, 0], "strides": [1, 2]}),
        (MobileNetFaceConfig, {"hidden_sizes": [], "strides": []}),
    ],
)
def test_there_is_a_value_for_each_layer(config_class, wrong):
    with pytest.raises(StrictDataclassClassValidationError, match=r"must have (a|one|one positive) (value|number) for"):
        config_class(**wrong)


def test_one_layer_is_enough():
    assert InceptionResNetConfig(depths=[1, 1, 1]).depths == [1, 1, 1]
    assert MobileNetFaceConfig(hidden_sizes=[1], strides=[1]).hidden_sizes == [1]


@pytest.mark.parametrize("config_class", [GhostFaceNetConfig, InceptionResNetConfig, MobileNetFaceConfig])
def test_pixels_are_divided_by_128(config_class):
    preprocessing = config_class(image_size=100).preprocessing
    assert preprocessing == {
        "size": {"height": 100, "width": 100},
        "image_mean": [127.5 / 255] * 3,
        "image_std": [128 / 255] * 3,
    }


@pytest.mark.parametrize("config", [IResNetConfig(**TINY), FaceRecognitionConfig(num_identities=5)])
def test_a_config_is_made_anew_from_its_dictionary(config):
    assert type(config)(**config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("read", [AutoConfig.from_pretrained, IResNetConfig.from_pretrained])
def test_a_file_may_say_more(read, tmp_path, warnings):
    config = IResNetConfig(**TINY)
    config.use_cache, config.of_a_later_version = False, {"a": 1}
    config.save_pretrained(tmp_path)
    loaded = read(tmp_path)
    assert (loaded.use_cache, loaded.of_a_later_version, loaded.depths) == (False, {"a": 1}, [1])
    assert "IResNetConfig does not know of_a_later_version, use_cache" in warnings.text
    assert read(tmp_path, use_cache=True).use_cache is True
    assert IResNetConfig.from_json_file(tmp_path / "config.json").use_cache is False
    loaded, unused = read(tmp_path, return_unused_kwargs=True, of_nobody=1)
    assert loaded.use_cache is False and unused == {"of_nobody": 1}


def test_what_transformers_writes_in_every_file_is_not_worth_a_warning(tmp_path, warnings):
    AutoModel.from_config(IResNetConfig(**TINY)).save_pretrained(tmp_path)
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    AutoModel.from_pretrained(tmp_path)
    assert not warnings.records


def test_the_backbone_of_a_checkpoint_may_say_more_too(tmp_path, warnings):
    config = FaceRecognitionConfig(backbone_config=IResNetConfig(**TINY))
    config.use_cache = config.backbone_config.use_cache = False
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.use_cache is loaded.backbone_config.use_cache is False
    assert "IResNetConfig does not know use_cache" in warnings.text
    assert "FaceRecognitionConfig does not know use_cache" in warnings.text
