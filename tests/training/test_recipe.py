"""Recipes: one YAML, overridable, and wrong keys named."""

import pytest
import torch
from datasets import Value
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN

from hf_face.data import load_orl
from hf_face.evaluation import AllPairsEvaluator, IdentificationEvaluator
from hf_face.heads import save_head
from hf_face.hub import FaceModelCardData
from hf_face.training import MarginSoftmax
from hf_face.training.recipe import build_method, build_model, load_data
from hf_face.training.recipe_arguments import DataArguments, ModelArguments, parse_recipe
from hf_face.training.recipe_card import create_recipe_card

RECIPE = """
backbone: {model_type: timm_face, architecture: resnet10t, embedding_size: 16, image_size: 32}
margin: cosface
margin_kwargs: {m: 0.2}
output_dir: unused
learning_rate: 1.0e-2
num_train_epochs: 3
use_cpu: true
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_fields_come_from_the_recipe_and_the_command_line_overrides_them(recipe):
    model, data, _, args = parse_recipe([str(recipe), "--learning_rate", "0.5", "--margin_kwargs", '{"m": 0.3}'])
    assert model.backbone["architecture"] == "resnet10t"
    assert (model.margin, model.margin_kwargs) == ("cosface", {"m": 0.3})
    assert (args.learning_rate, args.num_train_epochs) == (0.5, 3)
    assert data.train_data == ["orl"]


def test_an_unknown_key_is_named_with_what_was_meant(recipe):
    recipe.write_text(RECIPE.replace("learning_rate", "lerning_rate"))
    with pytest.raises(ValueError, match=r"'lerning_rate', which is not a field. Did you mean 'learning_rate'"):
        parse_recipe([str(recipe)])


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        ("learning_rate: 4e-1", "learning_rate", 0.4),
        ("max_steps: 1e3", "max_steps", 1000),
        ("margin_kwargs: {m: 4e-1}", "margin_kwargs", {"m": 0.4}),
        ("backbone: {model_type: timm_face, model_args: {drop_path_rate: 1E-1}}", "backbone", 0.1),
        ("augmentation: [{random_erasing: {p: .5e0}}]", "augmentation", [{"random_erasing": {"p": 0.5}}]),
        (
            "eval_data: {ijb: {data: x, fars: [1e-4, 1e-5]}}",
            "eval_data",
            [{"ijb": {"data": "x", "fars": [1e-4, 1e-5]}}],
        ),
        ("lr_scheduler_kwargs: {min_lr: 1e-6}", "lr_scheduler_kwargs", {"min_lr": 1e-6}),
        ("train_data: faces", "train_data", ["faces"]),
        ("train_data: 2024", "train_data", ["2024"]),
        ("train_data: [faces, 2024]", "train_data", ["faces", 2024]),
        ("run_name: null", "run_name", None),
        ("max_grad_norm: null", "max_grad_norm", None),
        ("save_strategy: epoch", "save_strategy", "epoch"),
        ("eval_data: lfw.bin", "eval_data", ["lfw.bin"]),
        ("plugins: json", "plugins", ["json"]),
        ("run_name: 7", "run_name", "7"),
        ("save_strategy: no", "save_strategy", "no"),
        ("lr_milestones: [5e-1, 0.8]", "lr_milestones", [0.5, 0.8]),
        ("scale: 64", "scale", 64.0),
    ],
)
def test_a_recipe_says_what_it_means(recipe, line, option, value):
    key = line.partition(":")[0]
    recipe.write_text("\n".join([each for each in RECIPE.splitlines() if not each.startswith(key)] + [line]))
    fields = {name: each for part in parse_recipe([str(recipe)]) for name, each in vars(part).items()}
    found = fields[option]["model_args"]["drop_path_rate"] if option == "backbone" else fields[option]
    assert found == value
    assert type(found) is type(value) or option == "save_strategy"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_steps: 2.5", "max_steps must be a whole number, found 2.5"),
        ("max_steps: true", "max_steps must be a number, found True"),
        ("weight_decay: some", "weight_decay must be a number, found 'some'"),
        ("weight_decay: [0.1]", r"weight_decay must be a number, found \[0.1\]"),
        ("lr_milestones: [0.5, late]", "lr_milestones must be a number, found 'late'"),
        ("on_bad_image: skipp", "on_bad_image must be one of raise, skip, found 'skipp'"),
        ("eval_strategy: sometimes", "eval_strategy must be one of no, steps, epoch, found 'sometimes'"),
        ("lora: 16", "lora must have settings of its own, `lora: {setting: value}`, found '16'"),
        ("card: mit", "card must have settings of its own, `card: {setting: value}`, found 'mit'"),
        ("card: {licens: mit}", r"the recipe's card has unknown fields \['licens'\]"),
        ("ema_decay: 2", "ema_decay must be between 0 and 1, found 2.0"),
        ("published: a paper", r"published: expected its fields \(source, url, .*\), found 'a paper'"),
        (
            "published: {source: a, url: b, figure: c}",
            "published: got an unexpected keyword argument 'figure'; the fields are source, url",
        ),
        ("published: {source: a}", "published: missing a required argument: 'url'; the fields are source, url"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_field(recipe, line, message):
    recipe.write_text(RECIPE + line)
    with pytest.raises(ValueError, match=f"recipe.yaml: {message}"):
        parse_recipe([str(recipe)])


@pytest.mark.parametrize("override", [["--ema_decay", "2"], ["--ema_decay=2"]])
def test_a_wrong_value_of_the_command_line_is_not_the_recipes(recipe, override):
    with pytest.raises(ValueError, match=r"^ema_decay must be between 0 and 1, found 2.0"):
        parse_recipe([str(recipe), *override])
    with pytest.raises(ValueError, match=r"recipe.yaml: lr_milestones is a schedule without warm-up"):
        recipe.write_text(RECIPE + "lr_milestones: [0.5]\nwarmup_steps: 3")
        parse_recipe([str(recipe), "--ema_decay", "0.5"])


def test_a_recipe_without_a_suffix_stands_first(tmp_path):
    (tmp_path / "mine").write_text(RECIPE)
    assert parse_recipe([str(tmp_path / "mine"), "--seed", "3"])[3].seed == 3


PUBLISHED = (
    RECIPE
    + """
published:
  source: a paper
  url: https://paper.org
  parameters: 4_903_000
  figures: {LFW: {accuracy: 0.99}}
  differs: {schedule: cosine}
card: {license: mit, evaluations: [{name: mine, metrics: {accuracy: 0.9}}]}
"""
)


def test_a_backbone_of_another_size_than_published_is_refused(recipe):
    recipe.write_text(PUBLISHED)
    with pytest.raises(
        ValueError, match=r"published.parameters: a paper states 4,903,000 parameters, but the backbone has"
    ):
        build_model(parse_recipe([str(recipe)])[0], num_identities=2)
    own, _ = build_model(parse_recipe([str(recipe), "--margin", "arcface"])[0], num_identities=2)
    size = own.backbone.num_parameters()
    recipe.write_text(PUBLISHED.replace("4_903_000", str(size)))
    assert build_model(parse_recipe([str(recipe)])[0], num_identities=2)[0].backbone.num_parameters() == size


def test_the_card_says_what_was_published(recipe, tmp_path):
    recipe.write_text(PUBLISHED)
    model, _, card, _ = parse_recipe([str(recipe)])
    built = card.build(model.published)
    assert [evaluation.name for evaluation in built.evaluations] == ["mine"]
    assert (built.published.source, built.published.url) == ("a paper", "https://paper.org")
    assert (built.published.figures, built.published.differs) == ({"LFW": {"accuracy": 0.99}}, {"schedule": "cosine"})
    built.save(tmp_path)
    assert FaceModelCardData.load(tmp_path) == built


def test_a_card_before_training_has_the_recipes_settings(recipe):
    recipe.write_text(PUBLISHED.replace("  parameters: 4_903_000\n", "") + "augmentation: flip\nweight_decay: null")
    card = create_recipe_card(str(recipe), "org/mine")
    assert f"Nobody has trained this model yet: the card is that of hf_face's recipe `{recipe}`." in card.text
    assert "| learning_rate | 0.01 |" in card.text and "| augmentation | flip |" in card.text
    assert "weight_decay" not in card.text and "cosface" in card.text
    assert 'AutoModel.from_pretrained("org/mine"' in card.text


@pytest.mark.parametrize("override", [["--margin", "arcface"], ["--backbone", "{model_type: timm_face}"]])
def test_another_model_has_nothing_published(recipe, override):
    recipe.write_text(PUBLISHED)
    assert parse_recipe([str(recipe), "--learning_rate", "1"])[0].published is not None
    assert parse_recipe([str(recipe), *override])[0].published is None


def test_numbers_on_the_command_line_are_those_of_recipes(recipe):
    overrides = ["--margin_kwargs", "{m: 4e-1}", "--eval_data", "{ijb: {data: x, far: 1e-4}}", "--train_data", "orl"]
    model, data, _, _ = parse_recipe([str(recipe), *overrides])
    assert model.margin_kwargs == {"m": 0.4}
    assert data.eval_data == [{"ijb": {"data": "x", "far": 1e-4}}]
    assert DataArguments(train_data="orl", eval_data="lfw.bin").train_data == ["orl"]
    assert parse_recipe([str(recipe), "--eval_data", "[a.bin, b.bin]", "c.bin"])[1].eval_data == [
        "a.bin",
        "b.bin",
        "c.bin",
    ]
    assert parse_recipe([str(recipe), "--eval_data", "[]"])[1].eval_data == []


@pytest.mark.parametrize(
    "argv",
    [
        ["--learning_rate", "0.5", "RECIPE"],
        ["--learning_rate", "0.5", "RECIPE", "--bf16", "false"],
        ["--learning_rate=0.5", "--train_data", "orl", "RECIPE"],
        ["--learning_rate", "0.5", "--channels_last", "RECIPE"],
    ],
)
def test_a_recipe_may_stand_anywhere(recipe, argv):
    model, _, _, args = parse_recipe([str(recipe) if each == "RECIPE" else each for each in argv])
    assert (model.margin, args.learning_rate) == ("cosface", 0.5)
    parse_recipe(["--learning_rate", "0.5", "demo/orl", "--run_name", "demo/orl"])


def test_columns_splits_and_empty_people_of_the_training_data(tmp_path):
    people = load_orl().select(range(30)).rename_columns({"image": "photograph", "label": "who"})
    (tmp_path / "data").mkdir()
    people.to_parquet(tmp_path / "data" / "part-0.parquet")
    source = {"train_data": [str(tmp_path)], "image_column": "photograph", "label_column": "who"}
    train, _ = load_data(DataArguments(**source, compact=True))
    assert (len(train), train.features["label"].num_classes) == (30, 3)
    with pytest.raises(ValueError, match="37 of 40 have none"):
        load_data(DataArguments(**source))
    with pytest.raises(ValueError, match="compact people, which requires streaming: false"):
        load_data(DataArguments(**source, compact=True, streaming=True))
    (tmp_path / "data" / "part-0.parquet").rename(tmp_path / "data" / "validation-0.parquet")
    with pytest.raises(ValueError, match="no shards for the split 'train', only for validation"):
        load_data(DataArguments(**source, compact=True))
    assert len(load_data(DataArguments(**source, compact=True, split="validation"))[0]) == 30


def test_a_recipe_that_is_no_mapping_is_refused(recipe):
    recipe.write_text("- a list")
    with pytest.raises(ValueError, match="one field per line"):
        parse_recipe([str(recipe)])


def test_a_fresh_and_a_trained_backbone_exclude_each_other():
    with pytest.raises(ValueError, match="either backbone"):
        ModelArguments()
    with pytest.raises(ValueError, match="either backbone"):
        ModelArguments(backbone={"model_type": "timm_face"}, model_name_or_path="somewhere")


def test_held_out_people_are_the_pairs_and_nobody_is_on_both_sides():
    train, (evaluator,) = load_data(DataArguments(held_out_identities=10))
    pairs = evaluator.pairs
    assert evaluator.name == "orl"
    assert train.features["label"].num_classes == 30
    assert not set(train.features["label"].names) & set(pairs.images.features["label"].names)
    assert len(pairs.pairs) == 2 * 10 * 45  # every genuine pair of ten people with ten images, and as many impostors


def test_a_recipe_names_any_protocol_with_its_options():
    specs = ['{"identification": {"data": "orl"}}', {"all_pairs": {"data": "orl", "fars": [0.01], "name": "everybody"}}]
    _, evaluators = load_data(DataArguments(eval_data=specs))
    assert [type(evaluator) for evaluator in evaluators] == [IdentificationEvaluator, AllPairsEvaluator]
    assert [evaluator.name for evaluator in evaluators] == ["identification", "everybody"]


def test_people_of_several_sources_are_held_out():
    train, (evaluator,) = load_data(DataArguments(train_data=["orl", "orl"], held_out_identities=3))
    assert train.features["label"].num_classes == 77 and len(train) == 770
    assert evaluator.name == "held_out"
    assert {name.partition("/")[0] for name in train.features["label"].names} == {"0", "1"}


def test_a_choice_of_people_and_images():
    train, _ = load_data(DataArguments(num_identities=5, images_per_identity=3))
    assert (train.features["label"].num_classes, len(train)) == (5, 15)


def test_a_recipe_reaches_every_setting_of_the_head():
    backbone = {"model_type": "timm_face", "architecture": "resnet10t", "embedding_size": 16}
    settings = {"scale": 32.0, "sub_centers": 2, "chunk_size": 8, "filter_threshold": 0.4}
    model, _ = build_model(ModelArguments(backbone=backbone, margin="cosface", **settings), num_identities=3)
    assert {name: getattr(model.head, name) for name in settings} == settings


@pytest.mark.parametrize("saved_as", ["a head on its own", "a training model"])
def test_class_centers_start_from_an_earlier_head(tmp_path, saved_as):
    args = ModelArguments(backbone={"model_type": "timm_face", "architecture": "resnet10t", "embedding_size": 16})
    earlier, _ = build_model(args, num_identities=3)
    if saved_as == "a training model":
        earlier.save_pretrained(tmp_path)
    else:
        save_head(earlier.head, tmp_path)
    args.head_from = str(tmp_path)
    later, _ = build_model(args, num_identities=3)
    assert torch.equal(later.head.weight, earlier.head.weight)
    with pytest.raises(ValueError, match="expected a head with num_identities=4, found num_identities=3"):
        build_model(args, num_identities=4)


def test_means_are_of_a_trained_model(tmp_path):
    with pytest.raises(ValueError, match="head_from: means takes the embeddings of a trained model"):
        ModelArguments(backbone={"model_type": "timm_face"}, head_from="means")
    backbone = {"model_type": "timm_face", "architecture": "resnet10t", "embedding_size": 16}
    trained, image_processor = build_model(ModelArguments(backbone=backbone), num_identities=3)
    trained.backbone.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    model, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path), head_from="means"), num_identities=4)
    assert model.head.weight.shape == (4, 16)


def test_a_folder_without_a_head_is_named(tmp_path):
    args = ModelArguments(backbone={"model_type": "timm_face", "architecture": "resnet10t", "embedding_size": 16})
    build_model(args, num_identities=3)[0].backbone.save_pretrained(tmp_path)
    args.head_from = str(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} contains no head"):
        build_model(args, num_identities=3)


def test_a_recipe_names_its_method_with_its_options():
    backbone = {"model_type": "timm_face"}
    assert build_method(ModelArguments(backbone=backbone)) is None
    assert isinstance(build_method(ModelArguments(backbone=backbone, method="margin_softmax")), MarginSoftmax)
    with pytest.raises(ValueError, match="'margin_softmax': got an unexpected keyword argument 'weight'"):
        build_method(ModelArguments(backbone=backbone, method='{"margin_softmax": {"weight": 1}}'))


def test_a_model_folder_without_image_processor_is_named(tmp_path):
    args = ModelArguments(backbone={"model_type": "timm_face", "architecture": "resnet10t", "embedding_size": 16})
    model, image_processor = build_model(args, num_identities=3)
    model.backbone.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no image processor \(preprocessor_config.json\)"):
        build_model(ModelArguments(model_name_or_path=str(tmp_path)), num_identities=3)
    image_processor.save_pretrained(tmp_path)
    again, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path)), num_identities=7)
    with pytest.raises(ValueError, match=r"backbone sets image_size, but .* is a face model with its own settings"):
        build_model(ModelArguments(model_name_or_path=str(tmp_path), backbone={"image_size": 64}), num_identities=7)
    assert again.head.weight.shape == (7, 16)
    for name, weight in model.backbone.state_dict().items():
        assert weight.equal(again.backbone.state_dict()[name])


def test_a_foundation_model_becomes_a_face_model_with_its_own_weights_and_preprocessing(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=12))
    clip.save_pretrained(tmp_path)
    model, image_processor = build_model(ModelArguments(model_name_or_path=str(tmp_path)), num_identities=3)
    assert torch.equal(model.backbone.backbone.visual_projection.weight, clip.visual_projection.weight)
    assert model.head.weight.shape == (3, 12)
    assert image_processor.size == {"height": 32, "width": 32}
    assert list(image_processor.image_mean) == OPENAI_CLIP_MEAN

    settings = {"image_size": 48, "embedding_size": 10}
    model, image_processor = build_model(ModelArguments(model_name_or_path=str(tmp_path), backbone=settings), 3)
    assert torch.equal(model.backbone.backbone.visual_projection.weight, clip.visual_projection.weight)
    assert (model.head.weight.shape, image_processor.size["height"]) == ((3, 10), 48)


def test_streaming_reads_one_source():
    with pytest.raises(ValueError, match="streaming reads one source"):
        load_data(DataArguments(train_data=["a", "b"], streaming=True))
    with pytest.raises(ValueError, match="streaming reads one source"):
        load_data(DataArguments(train_data=["a"], held_out_identities=1, streaming=True))


@pytest.mark.parametrize("choice", [{"images_per_identity": 3}, {"min_images_per_identity": 2}])
def test_streaming_chooses_no_images(choice):
    with pytest.raises(ValueError, match="streaming takes every image: images_per_identity and min_images_per"):
        load_data(DataArguments(streaming=True, **choice))


def test_a_stream_that_does_not_know_its_people_is_told(tmp_path):
    path = str(tmp_path / "orl.parquet")
    load_orl().cast_column("label", Value("int64")).to_parquet(path)
    with pytest.raises(ValueError, match=r"orl.parquet does not define its number of people .*: set num_identities"):
        load_data(DataArguments(train_data=[path], streaming=True))
    train, _ = load_data(DataArguments(train_data=[path], streaming=True, num_identities=40))
    assert train.features["label"].num_classes == 40
