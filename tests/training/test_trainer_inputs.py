"""What the Trainer takes: data as `load_identities` does, protocols by name, objects of transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value
from transformers import TrainingArguments

from hf_face import FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel, FaceTrainer, FaceTrainingArguments
from hf_face.data import FaceCollator
from hf_face.evaluation import VerificationEvaluator
from hf_face.evaluation.metrics import greater_is_better
from hf_face.training.recipe import build_model
from hf_face.training.recipe_arguments import ModelArguments


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def first_losses(make_trainer):
    trainer = make_trainer(max_steps=2, eval_dataset=None)
    trainer.train()
    return losses(trainer)


def as_names(dataset):
    names = dataset.features["label"].names
    return dataset.cast_column("label", Value("int64")).map(lambda row: {"label": names[row["label"]]})


@pytest.mark.parametrize(
    "change",
    [
        lambda people: people.cast_column("label", Value("int64")),
        lambda people: people.rename_columns({"image": "photograph", "label": "cls"}),
        lambda people: people.to_iterable_dataset().rename_column("image", "photograph"),
    ],
    ids=["int64", "other columns", "other columns of a stream"],
)
def test_people_are_taken_as_load_identities_takes_them(make_trainer, first_losses, change):
    trainer = make_trainer(max_steps=2, eval_dataset=None, train_dataset=change(make_trainer().train_dataset._dataset))
    trainer.train()
    if trainer._streamed is None:  # a stream has an order of its own
        assert losses(trainer) == first_losses


def test_people_have_names_without_a_class_label(make_trainer, faces):
    trainer = make_trainer(max_steps=1, train_dataset=as_names(faces[0].select(range(100))))
    assert trainer.train_dataset._dataset.features["label"].names == sorted(
        set(as_names(faces[0].select(range(100)))["label"])
    )
    trainer.train()


def test_a_column_that_cannot_be_guessed_is_asked_for(make_trainer, faces):
    with pytest.raises(ValueError, match="the training data has no column 'label', only"):
        make_trainer(train_dataset=faces[0].rename_column("label", "who"))


def test_a_choice_of_splits_is_asked_for(make_trainer, faces):
    with pytest.raises(ValueError, match=r"train_dataset has the splits train, test: pass .* dataset\['train'\]"):
        make_trainer(train_dataset=DatasetDict(train=faces[0], test=faces[0]))


@pytest.mark.parametrize("shown_by", ["model", "plain arguments", "no arguments"])
def test_transformers_arguments_are_converted(make_trainer, faces, tmp_path, monkeypatch, shown_by):
    monkeypatch.chdir(tmp_path)
    model = make_trainer().model
    if shown_by == "no arguments":
        trainer = FaceTrainer(model, train_dataset=faces[0])
        assert trainer.args == FaceTrainingArguments("tmp_trainer")
        return
    plain = TrainingArguments("plain", use_cpu=True, learning_rate=0.5, max_steps=1, metric_for_best_model="orl_eer")
    trainer = FaceTrainer(model, plain, train_dataset=faces[0], eval_dataset=faces[1])
    assert isinstance(trainer.args, FaceTrainingArguments)
    assert (trainer.args.output_dir, trainer.args.learning_rate, trainer.args.max_steps) == ("plain", 0.5, 1)
    assert trainer.args.dataloader_drop_last  # our default
    assert trainer.args.greater_is_better is False
    assert trainer.train().global_step == 1


def test_a_backbone_alone_is_told_how_to_get_a_head(make_trainer, faces, tmp_path):
    backbone = make_trainer().model.backbone
    with pytest.raises(ValueError, match=r"FaceRecognitionModel.from_backbone\(backbone, num_identities=30\)"):
        FaceTrainer(backbone, FaceTrainingArguments(str(tmp_path)), train_dataset=faces[0])
    with pytest.raises(ValueError, match="requires either model= or model_init="):
        FaceTrainer(args=FaceTrainingArguments(str(tmp_path)), train_dataset=faces[0])


def test_the_image_processor_has_two_names_and_the_collator_none(make_trainer):
    processor = FaceImageProcessor(size={"height": 32, "width": 32}, image_std=[0.25] * 3)
    assert make_trainer(parameters={"processing_class": processor}).processing_class is processor
    with pytest.raises(ValueError, match="image_processor= and processing_class= are the same"):
        make_trainer(parameters={"processing_class": processor, "image_processor": processor})
    with pytest.raises(ValueError, match=r"data_collator= is not supported: .* image_processor="):
        make_trainer(parameters={"data_collator": FaceCollator(32)})


@pytest.mark.parametrize(
    "settings",
    [{"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"do_rescale": False}, {"channel_order": "bgr"}],
)
def test_training_sees_the_pixels_that_evaluation_sees(make_trainer, settings):
    processor = FaceImageProcessor(size={"height": 32, "width": 32}, **settings)
    trainer = make_trainer(parameters={"image_processor": processor}, augmentation=None)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = processor(list(batch["pixel_values"]), return_tensors="pt").pixel_values.float()
    torch.testing.assert_close(trainer.prepare_batch(batch)["pixel_values"], expected)


# Protocols


def test_protocols_have_the_names_of_their_keys(make_trainer, faces):
    pairs = faces[1]
    trainer = make_trainer(eval_dataset={"seen": pairs, "unseen": VerificationEvaluator(pairs, flip=None)})
    metrics = trainer.evaluate()
    assert {"eval_seen_accuracy", "eval_unseen_accuracy"} <= set(metrics)
    assert pairs.name == "orl"
    assert trainer.args.metric_for_best_model is None


def test_one_protocol_is_run_by_its_name(make_trainer, faces):
    trainer = make_trainer(eval_dataset={"seen": faces[1], "unseen": faces[1]})
    assert {key.split("_")[1] for key in trainer.evaluate("unseen") if "accuracy" in key} == {"unseen"}
    assert "test_orl_accuracy" in trainer.evaluate(faces[1], metric_key_prefix="test")


def test_a_protocol_is_run_by_its_file(make_trainer, faces, tmp_path):
    folder = faces[1].to_parquet(tmp_path / "mine")
    assert "eval_orl_accuracy" in make_trainer(eval_dataset=None).evaluate(str(folder))
    assert make_trainer(eval_dataset=str(folder)).eval_dataset[0].name == "orl"


def test_a_dataset_is_no_protocol_and_pairs_are_no_images(make_trainer, faces):
    trainer = make_trainer()
    for protocols in (faces[0], {"orl": faces[0]}, DatasetDict(test=faces[0])):
        with pytest.raises(
            ValueError, match=r"A dataset alone is not a protocol: pass make_verification_pairs\(dataset"
        ):
            trainer.evaluate(protocols)
    with pytest.raises(ValueError, match=r"found int"):
        trainer.evaluate(5)
    with pytest.raises(ValueError, match=r"predict embeds .* found VerificationPairs: pass .* \(pairs.images\)"):
        trainer.predict(faces[1])


def test_predictions_are_embeddings(make_trainer, faces):
    trainer = make_trainer()
    people = faces[0].select(range(7))
    output = trainer.predict(test_dataset=people, metric_key_prefix="mine")
    pixels = trainer.processing_class(list(people["image"]), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = trainer.model.backbone.eval()(pixels).pooler_output.numpy()
    np.testing.assert_allclose(output.predictions, expected, atol=2e-2)  # two decoders and resizers
    assert output.label_ids.tolist() == people["label"]
    assert output.metrics["mine_runtime"] > 0
    assert trainer.predict(people.select_columns("image")).label_ids is None


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("orl_eer", False), ("eval_orl_accuracy", True), ("orl_accuracy_std", False), ("orl_tar@far=1e-1", True)],
)
def test_a_metric_knows_its_direction(make_trainer, metric, greater):
    settings = {"metric_for_best_model": metric, "save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1}
    assert make_trainer(**settings).args.greater_is_better is greater
    assert make_trainer(**settings, greater_is_better=not greater).args.greater_is_better is not greater


def test_the_best_model_has_the_smallest_error(make_trainer):
    trainer = make_trainer(
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="orl_eer",
        load_best_model_at_end=True,
    )
    trainer.train()
    errors = [entry["eval_orl_eer"] for entry in trainer.state.log_history if "eval_orl_eer" in entry]
    assert trainer.state.best_metric == min(errors) < max(errors)


def test_a_protocols_own_direction_counts_for_its_primary_metric(make_trainer, faces):
    evaluator = VerificationEvaluator(faces[1])
    evaluator.primary_metric, evaluator.greater_is_better = "threshold", False
    assert make_trainer(eval_dataset=evaluator, save_strategy="best").args.greater_is_better is False


def test_names_of_errors():
    errors = [
        "eer",
        "fnmr@far=1e-3",
        "erc_area",
        "erc_area@discard=0.2",
        "a_fmr@far=1e-2",
        "eer_max",
        "tar@far=1e-3_std",
    ]
    errors += ["accuracy_gap", "accuracy_std", "insightface_far@far=1e-3", "accuracy_ser"]
    values = [
        "accuracy",
        "tar@far=1e-4",
        "rank1",
        "map",
        "auc",
        "accuracy_min",
        "tpir@fpir=1e-2",
        "genuine_correlation",
    ]
    assert [name for name in errors if greater_is_better(name)] == []
    assert [name for name in values if not greater_is_better(name)] == []


def test_a_metric_of_no_protocol_is_named_before_training(make_trainer, faces):
    with pytest.raises(
        ValueError, match=r"'lwf_accuracy' is the metric of none of the protocols orl: set it to .* orl_acc"
    ):
        make_trainer(metric_for_best_model="lwf_accuracy", eval_strategy="steps", eval_steps=1)


def test_pairs_too_few_for_ten_folds_say_what_to_do(make_trainer, faces):
    few = replace(faces[1], pairs=faces[1].pairs[:6], same=np.array([True, False] * 3), fold=None)
    with pytest.raises(ValueError, match="orl: 6 pairs are too few for 10-fold accuracy: add pairs, or state the fold"):
        make_trainer(eval_dataset=few)


# Batches


def test_a_last_batch_of_one_image_is_refused_where_batch_norm_would_fail(faces, tmp_path):
    backbone = {"model_type": "mobilefacenet", "embedding_size": 8, "image_size": 112}
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone, num_identities=30))
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    for batch_size, drop_last in ((23, False), (1, True)):  # 300 = 13 * 23 + 1
        args = FaceTrainingArguments(per_device_train_batch_size=batch_size, dataloader_drop_last=drop_last, **settings)
        with pytest.raises(
            ValueError, match="makes a batch of one image, which batch norm cannot train on: set dataloader"
        ):
            FaceTrainer(model, args, faces[0])
    FaceTrainer(model, replace(args, per_device_train_batch_size=23), faces[0])  # which drops the last


def test_no_steps_train_nothing(make_trainer):
    trainer = make_trainer(max_steps=0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.train().global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


# The head


def test_a_head_keeps_its_own_sample_rate(make_trainer):
    config = make_trainer().model.config
    model = FaceRecognitionModel(config)
    model.head.sample_rate = 0.25
    assert make_trainer(parameters={"model": model}, optim="sgd").model.head.sample_rate == 0.25
    assert make_trainer(parameters={"model": model}, partial_fc_sample_rate=1.0).model.head.sample_rate == 1.0


def test_the_draws_of_partial_fc_follow_the_seed(make_trainer):
    labels = torch.arange(3)
    first, again, other = (
        make_trainer(partial_fc_sample_rate=0.5, seed=seed).model.head.sample(labels) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_adapters_learn_with_checkpointed_gradients(faces, tmp_path, use_reentrant):
    torch.manual_seed(0)
    backbone = {
        "model_type": "vit_face",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "embedding_size": 16,
    }
    lora = {"r": 2, "target_modules": ["qkv"], "init_lora_weights": False}
    model, image_processor = build_model(ModelArguments(backbone=backbone, lora=lora), num_identities=30)
    args = FaceTrainingArguments(
        str(tmp_path),
        max_steps=1,
        learning_rate=0.1,
        per_device_train_batch_size=4,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": use_reentrant},
        report_to="none",
        use_cpu=True,
    )
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    FaceTrainer(model, args, faces[0], image_processor=image_processor).train()
    assert [
        name for name, weight in model.named_parameters() if name in before and torch.equal(weight, before[name])
    ] == []
