"""
What is killed: work of a second on tiny models, which says where it is.

Each piece of work is a function of its folder and of `say(stage, what)`, called with "begins" and "ends". It runs in a
child of a process that has imported this module (`killing.py`): a fork, rather than a start of Python.
"""

import gc
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
import transformers.models.auto.modeling_auto  # noqa: F401
from transformers import AutoModel, TrainerCallback

from hf_face import FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel
from hf_face.convert import convert_to_folder
from hf_face.data import convert_to_parquet, load_orl, make_verification_pairs, split_identities
from hf_face.embedding import Embedder, embed_to_parquet
from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub
from hf_face.training import FaceTrainer, FaceTrainingArguments, MarginSoftmax

Say = Callable[[str, str], None]

BACKBONE = {
    "model_type": "timm_face",
    "architecture": "vit_tiny_patch16_224",
    # With dropout, a run that does not go on from the random state of its checkpoint is another one.
    "model_args": {
        "img_size": 32,
        "patch_size": 8,
        "depth": 1,
        "embed_dim": 24,
        "num_heads": 2,
        "proj_drop_rate": 0.1,
    },
    "embedding_size": 16,
    "image_size": 32,
}
SETTINGS: dict[str, Any] = {
    "max_steps": 12,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 50,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
STATED = FaceModelCardData(license="mit", training_data=[TrainingData("ORL faces", "free for research")])

PEOPLE, HELD_OUT = split_identities(load_orl(), num_held_out=4, seed=0)
PAIRS = make_verification_pairs(HELD_OUT, name="orl")


def say_nothing(stage: str, what: str) -> None:
    pass


class TellingTrainer(FaceTrainer):
    """A trainer that says when it evaluates and saves."""

    say: Say = staticmethod(say_nothing)

    def evaluate(self, *args, **kwargs):
        self.say("evaluation", "begins")
        metrics = super().evaluate(*args, **kwargs)
        self.say("evaluation", "ends")
        return metrics

    def _save_checkpoint(self, *args, **kwargs):
        self.say("checkpoint", "begins")
        super()._save_checkpoint(*args, **kwargs)
        self.say("checkpoint", "ends")


class TellSteps(TrainerCallback):
    def __init__(self, say: Say):
        self.say = say

    def on_train_begin(self, args, state, control, **kwargs):
        self.say(f"step {state.global_step}", "begins")  # the one after it, strictly
        self.say("training", "begins")

    def on_step_end(self, args, state, control, **kwargs):
        self.say(f"step {state.global_step}", "ends")


def make_trainer(folder: Path, say: Say = say_nothing, train_dataset=PEOPLE, method=None, card=None, **settings):
    """The same trainer each time, of a model that takes milliseconds."""
    torch.manual_seed(0)
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=BACKBONE, num_identities=36))
    args = FaceTrainingArguments(str(folder / "run"), **{**SETTINGS, **settings})
    trainer = TellingTrainer(model, args, train_dataset, PAIRS, method=method, card=card, callbacks=[TellSteps(say)])
    trainer.say = say
    return trainer


def train(folder: Path, say: Say, **settings) -> None:
    trainer = make_trainer(folder, say, **settings)
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()
    say("training", "ends")


def join(rank: int, port: int) -> None:
    """Become one of two ranks."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def train_as_rank(folder: Path, say: Say, rank: int, port: int) -> None:
    join(rank, port)
    train(folder, say, per_device_train_batch_size=8, ddp_backend="gloo")


def train_and_lose_a_worker(folder: Path, say: Say) -> None:
    class KillWorker(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)

    trainer = make_trainer(folder, say, dataloader_num_workers=1)
    trainer.add_callback(KillWorker())
    trainer.train()


def train_with_a_bad_batch(folder: Path, say: Say, rank: int, port: int) -> None:
    """Two ranks, of which the second has a loss that is not a number, in step 3."""
    join(rank, port)
    settings = {"per_device_train_batch_size": 8, "on_divergence": "skip", "ddp_backend": "gloo"}
    trainer = make_trainer(folder, say, method=BadBatch(rank=1, step=3), **settings)
    trainer.train()
    torch.save(trainer.model.state_dict(), folder / f"rank-{rank}.pt")


class BadBatch(MarginSoftmax):
    """The margin softmax, whose loss is not a number for one batch of one rank."""

    def __init__(self, rank: int, step: int):
        super().__init__()
        self.rank, self.step, self.num_calls = rank, step, 0

    def losses(self, model, batch):
        self.num_calls += 1
        loss = super().losses(model, batch)["margin_softmax"]
        bad = self.num_calls == self.step and int(os.environ.get("RANK", "0")) == self.rank
        return {"margin_softmax": loss * float("nan") if bad else loss}


def convert_model(folder: Path, say: Say, checkpoint: Path) -> None:
    say("conversion", "begins")
    convert_to_folder(checkpoint, folder / "model")
    say("conversion", "ends")


def convert_data(folder: Path, say: Say) -> None:
    say("conversion", "begins")
    convert_to_parquet(PEOPLE, folder / "data", images_per_shard=60, num_threads=2)
    say("conversion", "ends")


def embed(folder: Path, say: Say, model: Path) -> None:
    embedder = Embedder(AutoModel.from_pretrained(model).eval(), FaceImageProcessor(size=32), progress=False)
    say("embedding", "begins")
    embed_to_parquet(embedder, HELD_OUT, folder / "embeddings.parquet", images_per_shard=4)
    embed_to_parquet(embedder, HELD_OUT, folder / "embeddings", images_per_shard=4)
    say("embedding", "ends")


def push(folder: Path, say: Say, model: Path, url: str, token: str) -> None:
    use_hub(url)
    say("pushing", "begins")
    push_to_hub(model, f"org/{folder.name}", card=STATED, token=token, image_processor=FaceImageProcessor(size=32))
    say("pushing", "ends")


def train_and_push(folder: Path, say: Say, url: str, token: str) -> None:
    use_hub(url)
    settings = {"push_to_hub": True, "hub_token": token, "hub_model_id": f"org/{folder.name}"}
    trainer = make_trainer(folder, say, card=STATED, hub_strategy="checkpoint", **settings)
    trainer.train(resume_from_checkpoint="auto")
    say("training", "ends")
    trainer.push_to_hub()
    trainer.save_model()


def use_hub(url: str) -> None:
    """Speak to the Hub at an address, as `HF_ENDPOINT` would have it if it had been set before the imports."""
    constants = huggingface_hub.constants
    constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = url, False, True
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    huggingface_hub.hf_api.api.endpoint = url


def live(work: Callable, folder: Path, connection: Any) -> None:
    """The life of a child: `work`, with its temporary files in its folder and what it says sent to its parent."""
    gc.freeze()  # what the parent has imported need not be looked through again
    os.setsid()  # a group of its own, to be signalled with its data workers
    multiprocessing.set_start_method("fork", force=True)  # of data workers
    torch.set_num_threads(1)
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder / "tmp")
    output = os.open(folder / "tmp" / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    work(folder, partial(_send, connection))


def _send(connection: Any, stage: str, what: str) -> None:
    connection.send((stage, what))
