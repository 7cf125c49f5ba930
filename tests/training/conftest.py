"""A training run that takes seconds: a tiny backbone and the ORL faces."""

import pytest
import torch
from tiny_recipe import TINY_VIT
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from hf_face import FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.training import FaceTrainer, FaceTrainingArguments

CLIP_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


@pytest.fixture(scope="session")
def faces():
    """Thirty people to train on and the pairs of ten others."""
    train, held_out = split_identities(load_orl(), num_held_out=10, seed=0)
    return train, make_verification_pairs(held_out, name="orl")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A small CLIP with a tokenizer of single characters."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    characters = sorted(set("a photo of a 0123456789."))
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<start>", *characters, "<end>"])}
    end = len(vocabulary) - 1
    text = {
        **CLIP_TOWER,
        "vocab_size": end + 1,
        "max_position_embeddings": 40,
        "eos_token_id": end,
        "pad_token_id": 0,
        "projection_dim": 12,
    }
    vision = {**CLIP_TOWER, "image_size": 32, "patch_size": 16, "projection_dim": 12}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("<start> $A <end>", None, [("<start>", 1), ("<end>", end)])
    special = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_trainer(faces, tmp_path):
    """A trainer of the same fresh model each time it is called; `parameters` are others of the constructor."""
    train, pairs = faces

    def make(
        margin: str = "arcface",
        train_dataset=train,
        eval_dataset=pairs,
        augmentation="flip",
        on_bad_image="raise",
        parameters=None,
        method=None,
        **settings,
    ):
        torch.manual_seed(0)
        config = FaceRecognitionConfig(backbone_config=TINY_VIT, num_identities=30, margin=margin)
        parameters = {"model": FaceRecognitionModel(config)} | (parameters or {})
        settings = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 50,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **settings,
        }
        return FaceTrainer(
            args=FaceTrainingArguments(**settings),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            augmentation=augmentation,
            on_bad_image=on_bad_image,
            method=method,
            **parameters,
        )

    return make
