"""The recipes for published results: complete, of the published size, and they train."""

import json
from itertools import pairwise

import pytest
import torch

from hf_face import FaceRecognitionModel, FoundationFaceConfig, FoundationFaceModel
from hf_face.data import load_orl, select_identities
from hf_face.registry import margins
from hf_face.training import FaceTrainer
from hf_face.training.lora import add_lora
from hf_face.training.recipe import build_method, build_model
from hf_face.training.recipe_arguments import CardArguments, parse_recipe
from hf_face.training.recipe_card import model_arguments
from hf_face.training.recipe_files import find_recipe, merge, read_layers, read_recipe, recipe_names

NAMES = [name for name in recipe_names() if not name.startswith("demo/")]
PUBLISHED_SIZES = {
    "timm_face/vit_tiny_arcface": 5_512_640,
    "timm_face/convnext_nano_cosface": 15_303_712,
    "timm_face/convnext_atto_cosface": 3_543_952,
    "adaface/ir_18_wf4m": 24_020_352,
    "adaface/ir_101_wf12m": 65_150_912,
}
# The configurations of models on the Hub that recipes start from.
CLIP_L14 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
ON_THE_HUB = {
    "openai/clip-vit-base-patch16": {"model_type": "clip_vision_model", "patch_size": 16},
    "openai/clip-vit-large-patch14": {
        **CLIP_L14,
        "model_type": "clip_vision_model",
        "patch_size": 14,
        "projection_dim": 768,
    },
    "facebook/dinov2-small": {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "image_size": 518},
    "facebook/dinov2-large": {"model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "image_size": 518},
    "facebook/dinov3-vits16-pretrain-lvd1689m": {"model_type": "dinov3_vit"},
    "google/siglip2-base-patch16-224": {"model_type": "siglip_vision_model"},
}
SMALL_VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def recipes() -> dict[str, dict]:
    return {name: read_recipe(find_recipe(name)) for name in NAMES}


def test_every_recipe_says_all_that_a_run_and_its_card_need(recipes):
    outputs = [recipe["output_dir"] for recipe in recipes.values()]
    assert len(set(outputs)) == len(NAMES) > 80
    for name, recipe in recipes.items():
        args = model_arguments(recipe)
        card = CardArguments(card=recipe["card"]).build(args.published)
        assert card.license and card.alignment and all(data.license and data.url for data in card.training_data), name
        assert recipe["margin"] in margins, name
        build_method(args)
        if args.published is not None:
            assert args.published.figures or args.published.note, name
            assert args.published.url.startswith("https://") and args.published.differs, name
            values = [value for metrics in args.published.figures.values() for value in metrics.values()]
            assert all(0.1 < value < 1 for value in values), name


@pytest.mark.parametrize("name", ["timm_face/vit_tiny_arcface", "arcface_torch/ms1mv3_r50", "adaface/ir_101_wf12m"])
def test_every_field_of_a_recipe_is_known(name):
    parse_recipe([name, "--use_cpu", "true", "--bf16", "false"])


def settings(fields: dict, prefix: str = "") -> dict:
    """The fields with a value each, those of mappings by their path."""
    found: dict = {}
    for name, value in fields.items():
        found |= settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_no_recipe_repeats_what_it_extends():
    for path in {path for name in NAMES for path, _ in read_layers(find_recipe(name))}:
        *bases, (_, own) = read_layers(path)
        inherited = settings(merge([fields for _, fields in bases]))
        repeated = [name for name, value in settings(own).items() if inherited.get(name, ...) == value]
        assert not repeated, f"{path} repeats {repeated}"


def test_every_model_has_its_published_size(recipes):
    sizes = {}
    for name, recipe in recipes.items():
        args = model_arguments(recipe)
        key = json.dumps(recipe.get("backbone"))
        if args.model_name_or_path is None and (key not in sizes or args.published.parameters):
            with torch.device("meta"):
                model, _ = build_model(args, num_identities=2)  # which checks the size that the recipe states
            sizes[key] = model.backbone.num_parameters()
        if name in PUBLISHED_SIZES:
            assert args.published.parameters == sizes[key] == PUBLISHED_SIZES[name], name


def test_a_recipe_that_starts_from_a_model_on_the_hub_adapts_it(recipes):
    named = {recipe["model_name_or_path"]: recipe for recipe in recipes.values() if "lora" in recipe}
    assert named.keys() == ON_THE_HUB.keys()
    for name, recipe in named.items():
        with torch.device("meta"):
            backbone = FoundationFaceModel(FoundationFaceConfig(backbone_config=ON_THE_HUB[name], **recipe["backbone"]))
            model = add_lora(FaceRecognitionModel.from_backbone(backbone, num_identities=2), recipe["lora"])
        trainable = sum(parameter.numel() for parameter in model.backbone.parameters() if parameter.requires_grad)
        assert 0 < trainable < 0.02 * sum(parameter.numel() for parameter in model.backbone.parameters()), name


def shrunken(backbone: dict) -> dict:
    """The settings of a recipe's backbone for images of 32 pixels, with next to no layers."""
    small: dict = {**backbone, "image_size": 32}
    match backbone["model_type"], backbone.get("architecture", ""):
        case "iresnet", _:
            small |= {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 16], "stem_size": 8}
        case "vit_face", _:
            small |= SMALL_VIT
        case "foundation_face", _:
            small["backbone_config"] = {**backbone["backbone_config"], **SMALL_VIT, "image_size": 32, "patch_size": 16}
        case "timm_face", architecture if architecture.startswith("vit"):
            small["model_args"] = {
                **backbone["model_args"],
                "img_size": 32,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
            }
        case "timm_face", _:
            small["model_args"] = {**backbone["model_args"], "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}
    return small


@pytest.fixture(scope="module")
def people():
    return select_identities(load_orl(), num_identities=6, images_per_identity=4)


OPTIONS = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def train_two_steps(name: str, people, clip: str, output_dir, **options) -> FaceTrainer:
    recipe = read_recipe(find_recipe(name))
    options = {**OPTIONS, "output_dir": output_dir, **options}
    if "lora" in recipe:
        options |= {"model_name_or_path": clip, "backbone": json.dumps({**recipe["backbone"], "image_size": 32})}
    elif "backbone" in recipe:
        options["backbone"] = json.dumps(shrunken(recipe["backbone"]))
    model_args, data_args, _, args = parse_recipe([name, *(f"--{key}={value}" for key, value in options.items())])
    torch.manual_seed(0)
    model, image_processor = build_model(model_args, num_identities=6)
    before = model.head.weight.detach().clone()
    trainer = FaceTrainer(
        model,
        args,
        people,
        image_processor=image_processor,
        augmentation=data_args.augmentation,
        method=build_method(model_args),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert not torch.equal(model.head.weight, before)
    trainer.save_model()
    return trainer


ONE_PER_FAMILY = [
    "adaface/ir_18_casia",
    "arcface_torch/wf12m_flip_pfc01_filter04_r50",
    "face_embeddings/magface_casia",
    "froundation/clip_b16_casia",
    "lvface/glint360k_vit_t_stage1",
    "spatial_maps/r18_gwp",
    "timm_face/vit_tiny_arcface",
    "transface/ms1mv2_vit_s",
]


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_a_recipe_of_each_family_trains(name, people, clip, tmp_path):
    train_two_steps(name, people, clip, tmp_path)


def test_the_stages_of_lvface_follow_one_another(people, clip, tmp_path):
    names = [f"lvface/glint360k_vit_t_stage{stage}" for stage in (1, 2, 3)]
    saving = {"save_strategy": "steps", "save_steps": 2}
    train_two_steps(names[0], people, clip, tmp_path / names[0], **saving)
    for before, name in pairwise(names):
        earlier, recipe = read_recipe(find_recipe(before)), read_recipe(find_recipe(name))
        assert recipe["model_name_or_path"] == earlier["output_dir"]
        assert recipe["head_from"] == f"{earlier['output_dir']}/checkpoint-{earlier['max_steps']}"
        assert earlier["max_steps"] % earlier["save_steps"] == 0
        checkpoint = tmp_path / before / "checkpoint-2"
        options = {"model_name_or_path": tmp_path / before, "head_from": checkpoint, **saving}
        if recipe["method"] != "lvface":
            assert recipe["method"] == {"lvface": {"expectations_from": recipe["head_from"]}}
            options["method"] = json.dumps({"lvface": {"expectations_from": str(checkpoint)}})
        train_two_steps(name, people, clip, tmp_path / name, **options)


CONTINUED = [name for name in NAMES if name.endswith(("_stage2", "_stage3"))]  # from another recipe's output


@pytest.mark.slow  # about half a second each, of which there are a hundred
@pytest.mark.parametrize("name", sorted({*NAMES} - {*ONE_PER_FAMILY, *CONTINUED}))
def test_every_recipe_trains(name, people, clip, tmp_path):
    train_two_steps(name, people, clip, tmp_path)


def test_each_family_has_one_that_trains_here():
    assert {name.split("/")[0] for name in ONE_PER_FAMILY} == {name.split("/")[0] for name in NAMES}
