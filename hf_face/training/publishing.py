"""Publishing a trainer's backbone and its card, during and after training."""

import shutil
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo, HfApi
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..embedding.ranks import agreed
from ..evaluation import Evaluator
from ..heads.head_files import write_head
from ..hub import FaceModelCardData, push_to_hub, write_model_card, write_model_folder
from ..hub.branch import HubBranch
from ..hub.model_folder import check_card_data, check_licenses, load_model, refuse_split_head
from ..hub.publishing import full_name, publish_folder
from ..writing import scratch_folder
from .card import Measurement, Run, complete_card
from .checkpoint_files import remove_unfinished_checkpoints
from .hub_checkpoint import publish_checkpoint

logger = logging.get_logger(__name__)

CHECKPOINT_STRATEGIES = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
SNAPSHOT = "_push-"
PUSH_FAILED = "A push during training failed."


class Publisher(TrainerCallback):
    """
    Collects the data of a trainer's card, writes the card, and pushes the backbone with it.

    Args:
        trainer ([`FaceTrainer`]): The trainer of the model to publish.
        card ([`FaceModelCardData`], *optional*): The publisher's statements.

    Attributes:
        weights_step (`int`): The training step of the current weights.
        measured (`dict[str, Measurement]`): Results of protocols for these weights, by protocol name.
        started_at, started_at_step: When this process started training, in seconds since the epoch and in steps.
    """

    started_at, started_at_step = 0.0, 0

    def __init__(self, trainer: Run, card: FaceModelCardData | None):
        self.trainer, self.card = trainer, card
        self.weights_changed(step=0)

    def check_card(self) -> None:
        """Check the card, if there is one, to fail before training rather than after."""
        if self.card is not None:
            check_card_data(self.card, self.trainer.model.backbone.config)

    # Data of the card

    def on_train_begin(self, args, state, control, **kwargs):
        self.started_at, self.started_at_step = time.time(), state.global_step
        self.weights_changed(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.weights_changed(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.weights_changed(state.best_global_step)

    def weights_changed(self, step: int) -> None:
        """Discard measurements of earlier weights."""
        self.weights_step = step
        self.measured: dict[str, Measurement] = {}

    def remember(self, evaluator: Evaluator, metrics: dict[str, float], figures_dir: str | Path | None) -> None:
        """Store the results of a protocol for the card."""
        figure = None if figures_dir is None else evaluator.lead_figure(figures_dir)
        self.measured[evaluator.name] = Measurement(evaluator, metrics, figure)

    def write_card(self) -> None:
        """Save the model to `output_dir` with its card, after evaluating it. Must be called on every rank."""
        trainer = self.trainer
        check_card(self.card)
        self._measure()
        trainer.save_model()
        if trainer.is_world_process_zero():
            folder = Path(trainer.args.output_dir)
            repo_id = trainer.hub_model_id or trainer.args.hub_model_id or trainer.args.output_dir
            card = complete_card(self.card, trainer)
            write_model_card(folder, load_model(folder), trainer.processing_class, card, repo_id)

    def _measure(self) -> None:
        """Run the protocols with figures, unless this was already done for these weights."""
        found = {name for name, measurement in self.measured.items() if measurement.figure is not None}
        missing = {evaluator.name for evaluator in self.trainer.eval_dataset or []} - found
        if agreed(bool(missing)):  # other ranks may look for figures before the first one has drawn them
            self.trainer.evaluate(figures_dir=Path(self.trainer.args.output_dir, "figures"))

    # At the end of training

    def push(self, include_head: bool = False, **kwargs: Any) -> CommitInfo | None:
        """Publish the backbone, its card and figures in one commit; see [`FaceTrainer.push_to_hub`]."""
        trainer = self.trainer
        check_card(self.card)
        if include_head:
            refuse_split_head(trainer.model.head)
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        self._measure()
        with scratch_folder() as folder:
            trainer.save_model(folder)
            if include_head:
                tensors = trainer.whole_state_dict("head")
                if trainer.args.should_save:
                    write_head(trainer.model.head, tensors, folder)
            if not trainer.is_world_process_zero():
                return None
            self.finish()
            name = trainer.hub_model_id or trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
            card = complete_card(self.card, trainer)
            return push_to_hub(folder, name, card=card, include_head=include_head, **kwargs)

    # During training

    def make_repository(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository and branch, to fail before training rather than after."""
        trainer = self.trainer
        if not trainer.is_world_process_zero():
            return
        # A single client runs all pushes in sequence.
        self.api = HfApi(token=token or trainer.args.hub_token, library_name="hf_face")
        name = trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
        trainer.hub_model_id = full_name(self.api, name)
        private = trainer.args.hub_private_repo if private is None else private
        branch = HubBranch(self.api, trainer.hub_model_id, trainer.args.hub_revision)
        branch.check(private, overwrite=False)
        with branch.put_back_on_error():
            branch.make(private)

    def push_checkpoint(self, checkpoint: str) -> None:
        """Push the backbone with its card, and the checkpoint if `hub_strategy` includes it, in one commit."""
        trainer = self.trainer
        strategy = trainer.args.hub_strategy
        if strategy == HubStrategy.END or (self._push_runs() and not trainer.args.hub_always_push):
            return
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        # A separate copy, since training continues and changes the folders during the upload.
        snapshot = Path(trainer.args.output_dir, f"{SNAPSHOT}{trainer.state.global_step}")
        trainer.save_model(snapshot / "saved")
        if not trainer.is_world_process_zero():
            return
        folder = snapshot / Path(trainer.hub_model_id).name
        try:
            card = complete_card(self.card, trainer)
            write_model_folder(snapshot / "saved", folder, trainer.hub_model_id, card=card)
            if strategy in CHECKPOINT_STRATEGIES:
                name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint).name
                publish_checkpoint(Path(checkpoint), folder / name)
        except ValueError as error:  # a failed push, for example of non-finite weights, must not stop training
            shutil.rmtree(snapshot)
            logger.warning(f"{PUSH_FAILED}\n{error}")
            return
        job = self.api.run_as_future(self._publish_snapshot, folder, trainer.state.global_step)
        trainer.push_in_progress = trainer.push_in_progress or PushInProgress([])  # type: ignore[arg-type]
        trainer.push_in_progress.jobs.append(job)

    def remove_leftovers(self) -> None:
        """Remove what a killed run has left in the output folder: parts of checkpoints, and copies it was pushing."""
        trainer = self.trainer
        if not trainer.is_world_process_zero():
            return
        run = Path(trainer.args.output_dir)
        remove_unfinished_checkpoints(run)
        if trainer.push_in_progress is None or trainer.push_in_progress.is_done():
            for snapshot in run.glob(f"{SNAPSHOT}*/"):
                shutil.rmtree(snapshot)

    def finish(self) -> None:
        """Wait for running pushes and report those that failed."""
        if self.trainer.push_in_progress is not None:
            self.trainer.push_in_progress.wait_until_done()
        self.report_failures()

    def report_failures(self) -> None:
        """Log a warning for each failed push, without stopping training."""
        pushes = self.trainer.push_in_progress
        if pushes is None:
            return
        done = [job for job in pushes.jobs if job.done()]
        pushes.jobs = [job for job in pushes.jobs if job not in done]
        for error in filter(None, (job.exception() for job in done)):
            logger.warning("\n".join([PUSH_FAILED, str(error), *getattr(error, "__notes__", [])]))

    def _publish_snapshot(self, folder: Path, step: int) -> CommitInfo:
        try:
            return publish_folder(
                self.api,
                folder,
                self.trainer.hub_model_id,
                revision=self.trainer.args.hub_revision,
                commit_message=f"Training in progress, step {step}",
            )
        finally:
            shutil.rmtree(folder.parent)

    def _push_runs(self) -> bool:
        """Whether an earlier push is still running; the same on every rank, since either all ranks save or none."""
        self.report_failures()
        pushes = self.trainer.push_in_progress
        return broadcast_object_list([pushes is not None and not pushes.is_done()])[0]


def check_card(card: FaceModelCardData | None) -> None:
    """
    Raises:
        ValueError: if there is no card or it lacks licenses.
    """
    if card is None:
        raise ValueError("A model card requires licenses: pass FaceTrainer(card=FaceModelCardData(license=..., ...)).")
    check_licenses(card)
