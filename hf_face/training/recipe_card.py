"""The card of a recipe's model before anyone has trained it."""

import dataclasses
from typing import Any

import torch
from huggingface_hub import ModelCard

from ..data import build_augmentation
from ..hub import create_model_card
from ..hub.measuring import count_operations
from .card import SETTINGS, training_citations
from .recipe import build_method, build_model
from .recipe_arguments import CardArguments, ModelArguments
from .recipe_files import Fields, find_recipe, read_recipe

SHOWN = ("optim_args", "max_steps", "partial_fc_sample_rate", "augmentation", "method", "lora")


def create_recipe_card(name: str, repo_id: str) -> ModelCard:
    """
    Render the card of a recipe's model as training will, with what others published about it and without measurements.

    Args:
        name: the recipe, as in `hf-face train`.
        repo_id: the repository (`org/name`) that the card's code samples load.
    """
    recipe = read_recipe(find_recipe(name))
    model_args = model_arguments(recipe)
    card = CardArguments(card=recipe["card"]).build(model_args.published)
    with torch.device("meta"):
        model, image_processor = build_model(model_args, num_identities=2)
    augment = build_augmentation(recipe["augmentation"], model.backbone.config.image_size)
    citations = training_citations(build_method(model_args), augment, recipe.get("partial_fc_sample_rate"))
    card = dataclasses.replace(
        card,
        description=f"Nobody has trained this model yet: the card is that of hf_face's recipe `{name}`.",
        hyperparameters={key: recipe[key] for key in (*SETTINGS, *SHOWN) if recipe.get(key) is not None},
        citations=card.citations + citations,
    )
    measurements = count_operations(model.backbone.eval())
    return create_model_card(card, model.backbone, image_processor, repo_id, measurements)


def model_arguments(recipe: Fields) -> ModelArguments:
    """The arguments of a recipe's model alone, which need no training device."""
    fields: dict[str, Any] = {
        field.name: recipe[field.name] for field in dataclasses.fields(ModelArguments) if field.name in recipe
    }
    return ModelArguments(**fields)
