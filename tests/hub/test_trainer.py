"""From a training run to a published model."""

import dataclasses
import json
import os
import threading

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load
from transformers import AutoModel, TrainerCallback

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, FaceTrainer, FaceTrainingArguments, IResNetConfig
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub
from hf_face.hub.measuring import cpu_name
from hf_face.training import TrainingDivergedError
from hf_face.training.card import complete_card
from hf_face.training.publishing import publish_folder

TOKEN = "hf_alice"  # one that the local Hub accepts
STATED = FaceModelCardData(
    license="mit",
    training_data=[TrainingData("ORL faces", "free for research", citation="orl")],
    hyperparameters={"loss": "in|house"},
)


@pytest.fixture(scope="module")
def people():
    return split_identities(load_orl(), num_held_out=5, seed=0)


@pytest.fixture
def make_trainer(people, hub, measurements, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)
    train, held_out = people

    def make(card=STATED, lora=None, evaluate=True, **settings) -> FaceTrainer:
        torch.manual_seed(0)
        config = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), stem_size=8, embedding_size=64)
        model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, num_identities=35))
        if lora:
            model.backbone = get_peft_model(model.backbone, LoraConfig(**lora))
        settings = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "save_steps": 1,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "push_to_hub": True,
            "hub_model_id": f"org/{tmp_path.name}",
            "hub_strategy": "end",
            "hub_always_push": True,
            **settings,
        }
        pairs = make_verification_pairs(held_out, name="orl") if evaluate else None
        return FaceTrainer(model, FaceTrainingArguments(**settings), train, pairs, card=card)

    return make


def repository(hub, trainer):
    return hub.store.repos["model", trainer.hub_model_id]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# At the end of training


def test_a_run_becomes_a_published_model_with_its_own_figures(make_trainer, hub, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.push_to_hub()
    metrics = trainer.state.log_history[-1]  # evaluated for the card, with figures
    repo = repository(hub, trainer)
    assert [commit.title for commit in repo.history("main")] == ["End of training", "initial commit"]
    published = ModelCard.load(trainer.hub_model_id)
    results = {result.metric_name: result.metric_value for result in published.data.eval_results}
    assert results["accuracy"] == pytest.approx(metrics["eval_orl_accuracy"], rel=1e-5)
    assert results["tar@far=1e-1"] == pytest.approx(metrics["eval_orl_tar@far=1e-1"], rel=1e-5)
    assert not results.keys() & {"threshold", "threshold@far=1e-1", "num_genuine", "finest_far"}
    model = AutoModel.from_pretrained(trainer.hub_model_id)
    assert same(weights(model), weights(trainer.model.backbone))
    assert model.config.similarity_thresholds["1e-1"] == metrics["eval_orl_single_image_threshold@far=1e-1"]
    assert f"| 1e-1 | {metrics['eval_orl_single_image_threshold@far=1e-1']:.4f} |" in published.text
    assert "| ORL faces | 350 | 35 | free for research |" in published.text
    for row in ("learning_rate | 0.01", "augmentation | flip", "steps | 2", "optim | adamw_torch", r"loss | in\|house"):
        assert f"| {row}" in published.text, row
    assert "arcface" in published.data.tags and "| Margin | arcface (scale = 64.0" in published.text
    assert "225 genuine and 225 impostor pairs; embeddings of the image and its flipped image summed." in published.text
    assert "![orl: ROC curve](figures/orl_roc.png)" in published.text
    assert f"seconds on {cpu_name()}." in published.text
    log = json.loads(hub.store.read(trainer.hub_model_id, "training_log.json"))
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    files = repo.commit("main").files
    assert files["figures/orl_roc.png"].size > 1000 and "head.index.json" not in files


def test_the_folder_of_a_run_is_a_model_with_its_card(make_trainer, hub, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.create_model_card()
    info = push_to_hub(tmp_path / "run", "org/from_run")
    config = json.loads(hub.store.read("org/from_run", "config.json"))
    assert config["architectures"] == ["IResNetModel"] and config["similarity_thresholds"]["1e-1"] < 1
    assert info.oid == hub.store.repos["model", "org/from_run"].commit("main").oid


def test_the_margin_head_is_published_when_asked_for(make_trainer, hub, tmp_path):
    trainer = make_trainer(evaluate=False)
    trainer.train()
    expected = trainer.model.head.weight.detach()
    trainer.push_to_hub(include_head=True)
    assert torch.equal(
        load(hub.store.read(trainer.hub_model_id, "head-00001-of-00001.safetensors"))["weight"], expected
    )
    push_to_hub(tmp_path / "run" / "checkpoint-2", "org/with_centers", card=STATED, include_head=True)
    assert torch.equal(load(hub.store.read("org/with_centers", "head-00001-of-00001.safetensors"))["weight"], expected)


def test_a_branch_or_a_pull_request(make_trainer, hub):
    trainer = make_trainer(evaluate=False)
    trainer.push_to_hub(create_pr=True)
    trainer.push_to_hub(revision="experiment")
    repo = repository(hub, trainer)
    for ref in ("refs/pr/1", "experiment"):
        assert "model.safetensors" in repo.commit(ref).files
    assert repo.commit("main").files.keys() == {".gitattributes"}


def test_adapters_are_merged_or_published_alone(make_trainer, hub, faces, image_processor, tmp_path):
    lora = {"r": 2, "lora_alpha": 7, "target_modules": ["convolution1"], "init_lora_weights": False}
    trainer = make_trainer(lora=lora, evaluate=False)
    trainer.train()
    trainer.push_to_hub()
    trainer.create_model_card()
    for config in (hub.store.read(trainer.hub_model_id, "config.json"), (tmp_path / "run/config.json").read_bytes()):
        assert json.loads(config)["auto_map"]["AutoModel"] == "modeling_iresnet.IResNetModel"
    assert "| lora | r = 2, alpha = 7, on convolution1 |" in ModelCard.load(trainer.hub_model_id).text
    pixel_values = image_processor(faces, return_tensors="pt").pixel_values
    adapted = trainer.model.backbone.eval()
    with torch.inference_mode():
        merged = AutoModel.from_pretrained(trainer.hub_model_id)(pixel_values).pooler_output
        torch.testing.assert_close(merged, adapted(pixel_values).pooler_output, atol=1e-5, rtol=0)

    adapted.push_to_hub("org/adapter")
    adapted.unload().push_to_hub("org/base", card=STATED, image_processor=image_processor)
    assert "model.safetensors" not in hub.store.repos["model", "org/adapter"].commit("main").files
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained("org/base"), "org/adapter").eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixel_values).pooler_output, merged, atol=1e-5, rtol=0)


# What the card may say


def test_figures_are_those_of_the_present_weights(make_trainer, people):
    trainer = make_trainer()
    trainer.evaluate()
    assert [evaluation.name for evaluation in complete_card(STATED, trainer).evaluations] == ["orl"]
    trainer.evaluate(make_verification_pairs(people[1].select(range(40)), name="others"))
    assert [evaluation.name for evaluation in complete_card(STATED, trainer).evaluations] == ["orl", "others"]
    trainer.train()
    assert complete_card(STATED, trainer).evaluations == [], "what was measured was of untrained weights"


def test_a_rank_measures_for_the_card_only_if_the_first_one_does(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr("hf_face.training.publishing.agreed", lambda value: False)  # the first rank has its figures
    trainer.create_model_card()
    assert not trainer.publisher.measured


def test_figures_of_the_best_model_are_its_own(make_trainer, hub):
    trainer = make_trainer(
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="orl_num_genuine",  # never gets better than at the first step
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert complete_card(STATED, trainer).evaluations == []
    trainer.push_to_hub()
    published = ModelCard.load(trainer.hub_model_id)
    accuracy = next(r.metric_value for r in published.data.eval_results if r.metric_name == "accuracy")
    by_step = [entry["eval_orl_accuracy"] for entry in trainer.state.log_history if "eval_orl_accuracy" in entry]
    assert accuracy == pytest.approx(by_step[0], rel=1e-5) and "| steps | 1 |" in published.text


def test_costs_of_a_part_of_the_training_are_not_those_of_all(make_trainer, tmp_path):
    emissions = tmp_path / "run" / "emissions.csv"
    trainer = make_trainer(evaluate=False)
    emissions.write_text("timestamp,emissions\n2026-01-01,0.5\n")
    os.utime(emissions, (0, 0))  # of an earlier run
    trainer.train()
    card = complete_card(STATED, trainer)
    assert card.train_runtime > 0 and card.hardware == cpu_name() and card.emissions_kg is None
    emissions.touch()
    assert complete_card(STATED, trainer).emissions_kg == 0.5

    resumed = make_trainer(evaluate=False, max_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    card = complete_card(STATED, resumed)
    assert (card.train_runtime, card.hardware, card.emissions_kg) == (None, None, None)


def test_the_base_model_is_named_where_it_has_a_hub_name(make_trainer, tmp_path):
    trainer = make_trainer(evaluate=False, partial_fc_sample_rate=0.5)
    assert complete_card(STATED, trainer).base_model is None
    assert complete_card(STATED, trainer).citations == ["partial_fc"]
    trainer.model.backbone.name_or_path = "org/pretrained"
    assert complete_card(STATED, trainer).base_model == "org/pretrained"
    assert complete_card(dataclasses.replace(STATED, base_model="org/x"), trainer).base_model == "org/x"
    trainer.model.backbone.name_or_path = str(tmp_path)
    assert complete_card(STATED, trainer).base_model is None


def test_protocols_are_cited_under_the_name_they_were_run_by(make_trainer, people):
    trainer = make_trainer(evaluate=False)
    trainer.evaluate(make_verification_pairs(people[1], name="cfp_fp"))
    (entry,) = complete_card(STATED, trainer).citations
    assert "Sengupta" in entry


# In the middle of training


class Watcher(TrainerCallback):
    """Keeps the backbone's weights at each save, and calls `at_end` when training ends."""

    def __init__(self, at_end=lambda: None):
        self.saved, self.at_end = {}, at_end

    def on_save(self, args, state, control, model, **kwargs):
        self.saved[state.global_step] = weights(model.backbone)

    def on_train_end(self, args, state, control, **kwargs):
        self.at_end()


@pytest.mark.parametrize(
    ("strategy", "extra"),
    [
        ("every_save", set()),
        ("checkpoint", {"last-checkpoint"}),
        ("all_checkpoints", {"checkpoint-1", "checkpoint-2"}),
    ],
)
def test_each_checkpoint_is_one_commit_with_model_and_card(make_trainer, hub, tmp_path, strategy, extra):
    trainer = make_trainer(hub_strategy=strategy, eval_strategy="steps", eval_steps=1, hub_token=TOKEN)
    watcher = Watcher()
    trainer.add_callback(watcher)
    trainer.train()
    commits = repository(hub, trainer).history("main")
    steps = ["Training in progress, step 2", "Training in progress, step 1", "initial commit"]
    assert [commit.title for commit in commits] == steps
    files = commits[0].files
    assert {name.split("/")[0] for name in files if "/" in name} == extra
    assert {f"{folder}/trainer_state.json" for folder in extra} <= files.keys()
    contents = {name: hub.store.read(trainer.hub_model_id, name) for name in files}
    assert not [name for name, content in contents.items() if content.startswith((b"PK", b"\x80"))], "pickles"
    assert not [name for name, content in contents.items() if TOKEN.encode() in content]
    assert {f"{folder}/optimizer.pt.safetensors" for folder in extra} <= files.keys()
    for step, commit in ((2, commits[0]), (1, commits[1])):
        published = load(hub.store.read(trainer.hub_model_id, "model.safetensors", commit.oid))
        assert same(published, watcher.saved[step])
        card = hub.store.read(trainer.hub_model_id, "README.md", commit.oid).decode()
        assert f"| steps | {step} |" in card
        accuracy = next(e for e in trainer.state.log_history if e["step"] == step and "eval_runtime" in e)
        assert f"| orl | accuracy | {accuracy['eval_orl_accuracy']:.5g} ± " in card
    assert not list((tmp_path / "run").glob("_push*")), "the copies that were sent are gone"


def test_training_goes_on_while_a_checkpoint_is_sent(make_trainer, hub, monkeypatch):
    """The first push waits until training is over, and still sends what was saved at its step."""
    over = threading.Event()
    monkeypatch.setattr(
        "hf_face.training.publishing.publish_folder",
        lambda *args, **kwargs: over.wait(60) and publish_folder(*args, **kwargs),
    )
    trainer = make_trainer(hub_strategy="every_save", hub_always_push=False, max_steps=3, evaluate=False)
    watcher = Watcher(at_end=over.set)
    trainer.add_callback(watcher)
    trainer.train()
    history = repository(hub, trainer).history("main")
    assert [commit.title for commit in history] == ["Training in progress, step 1", "initial commit"]
    assert same(load(hub.store.read(trainer.hub_model_id, "model.safetensors")), watcher.saved[1])


def test_a_push_that_fails_during_training_is_reported(make_trainer, hub, caplog):
    trainer = make_trainer(hub_strategy="every_save", evaluate=False)
    hub.store.fail("POST", "/commit/", 500, times=1000)
    trainer.train()
    reports = [record.message for record in caplog.records if "A push during training failed" in record.message]
    assert len(reports) == 2 and all("Nothing was published" in report for report in reports)
    assert trainer.state.global_step == 2
    with pytest.raises(HfHubHTTPError):
        trainer.push_to_hub()  # the last one is not only reported


def test_weights_that_are_not_finite_are_neither_saved_nor_published(make_trainer, hub, tmp_path):
    trainer = make_trainer(hub_strategy="every_save", evaluate=False)
    torch.nn.init.constant_(trainer.model.backbone.neck.norm.running_mean, float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"backbone.neck.norm.running_mean has values that are not finite"):
        trainer.train()
    assert [commit.title for commit in repository(hub, trainer).history("main")] == ["initial commit"]
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    with pytest.raises(TrainingDivergedError, match="the weights are not saved"):
        trainer.push_to_hub()
    assert not list((tmp_path / "run").glob("_push*"))


def test_a_run_is_resumed_from_the_checkpoint_on_the_hub(make_trainer, hub, tmp_path):
    trainer = make_trainer(hub_strategy="checkpoint", max_steps=3, evaluate=False, lr_scheduler_type="constant")
    trainer.train()
    folder = snapshot_download(trainer.hub_model_id, allow_patterns="last-checkpoint/*")
    settings = {"max_steps": 4, "evaluate": False, "lr_scheduler_type": "constant"}
    resumed = make_trainer(**settings, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=f"{folder}/last-checkpoint")
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [1, 2, 3, 4]
    straight = make_trainer(**settings, output_dir=str(tmp_path / "straight"))
    straight.train()
    assert same(weights(resumed.model), weights(straight.model))


def test_what_is_refused_before_training(make_trainer, hub):
    with pytest.raises(ValueError, match="A model card requires licenses"):
        make_trainer(card=None)
    with pytest.raises(ValueError, match="State the license of the weights"):
        make_trainer(card=dataclasses.replace(STATED, license=""))
    HfApi().create_repo("org/busy")
    HfApi().upload_file(path_or_fileobj=b"notes", path_in_repo="thesis.txt", repo_id="org/busy")
    with pytest.raises(ValueError, match=r"org/busy contains files that do not belong to a model \(thesis.txt\)"):
        make_trainer(hub_model_id="org/busy")
    assert hub.store.repos["model", "org/busy"].commit("main").files.keys() == {".gitattributes", "thesis.txt"}


def test_a_branch_is_made_before_training(make_trainer, hub):
    trainer = make_trainer(hub_revision="dev", hub_strategy="every_save", evaluate=False)
    repo = repository(hub, trainer)
    assert repo.refs.keys() == {"main", "dev"}
    trainer.train()
    assert repo.commit("dev").title == "Training in progress, step 2"
    assert repo.commit("main").files.keys() == {".gitattributes"}
