"""From a training run to a published model."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load
from transformers import AutoModel

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, FaceTrainer, FaceTrainingArguments, IResNetConfig
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub

STATED = FaceModelCardData(
    license="mit",
    training_data=[TrainingData("ORL faces", "free for research", citation="orl")],
    hyperparameters={"augmentation": "flip"},
)


@pytest.fixture(scope="module")
def people():
    return split_identities(load_orl(), num_held_out=5, seed=0)


@pytest.fixture
def trainer(people, hub, tmp_path):
    train, held_out = people
    config = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), stem_size=8, embedding_size=64)
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, num_identities=35))
    args = FaceTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        save_steps=1,
        logging_steps=1,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        push_to_hub=True,
        hub_model_id=f"org/{tmp_path.name}",
        hub_strategy="checkpoint",
        hub_always_push=True,
    )
    return FaceTrainer(model, args, train, make_verification_pairs(held_out, name="orl"), card=STATED)


def test_a_run_becomes_a_published_model_with_its_own_figures(trainer, hub, tmp_path):
    trainer.train()
    metrics = trainer.evaluate(figures_dir=tmp_path / "run" / "figures")
    repo = hub.store.repos["model", trainer.hub_model_id]
    during_training = [commit.title for commit in repo.history("main")]
    assert "Training in progress, step 1" in during_training
    assert "last-checkpoint/trainer_state.json" in repo.commit("main").files

    trainer.push_to_hub()
    assert repo.history("main")[0].title == "End of training"
    published = ModelCard.load(trainer.hub_model_id)
    results = {result.metric_name: result.metric_value for result in published.data.eval_results}
    assert results["accuracy"] == pytest.approx(metrics["eval_orl_accuracy"], rel=1e-5)
    assert results["tar@far=1e-1"] == pytest.approx(metrics["eval_orl_tar@far=1e-1"], rel=1e-5)
    assert not results.keys() & {"threshold", "threshold@far=1e-1", "num_genuine", "finest_far"}
    model = AutoModel.from_pretrained(trainer.hub_model_id)
    assert model.config.similarity_thresholds["1e-1"] == metrics["eval_orl_single_image_threshold@far=1e-1"]
    assert f"| 1e-1 | {metrics['eval_orl_single_image_threshold@far=1e-1']:.4f} |" in published.text
    assert "| ORL faces | 350 | 35 | free for research |" in published.text
    assert "| learning_rate | 0.01 |" in published.text and "| augmentation | flip |" in published.text
    assert "arcface" in published.data.tags and "| Margin | arcface (scale = 64.0" in published.text
    assert "impostor pairs; embeddings of the image and its mirror image summed." in published.text
    assert "![orl roc](figures/orl_roc.png)" in published.text
    log = json.loads(hub.store.read(trainer.hub_model_id, "training_log.json"))
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    files = repo.commit("main").files
    assert files["figures/orl_roc.png"].size > 1000
    assert "training_args.bin" not in files, "a pickle of the run does not belong beside a published model"


def test_the_folder_of_a_run_is_a_model_with_its_card(trainer, hub, tmp_path):
    trainer.args.hub_strategy = "end"
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    trainer.create_model_card()
    info = push_to_hub(tmp_path / "run", "org/from_run")
    config = json.loads(hub.store.read("org/from_run", "config.json"))
    assert config["architectures"] == ["IResNetModel"] and config["similarity_thresholds"]["1e-1"] < 1
    assert info.oid == hub.store.repos["model", "org/from_run"].commit("main").oid


def test_the_margin_head_of_a_checkpoint_is_published_when_asked_for(trainer, hub, tmp_path):
    trainer.args.hub_strategy = "end"
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    push_to_hub(checkpoint, "org/with_centres", card=STATED, include_head=True)
    head = load(hub.store.read("org/with_centres", "head.safetensors"))
    assert torch.equal(head["weight"], trainer.model.head.weight.detach())
