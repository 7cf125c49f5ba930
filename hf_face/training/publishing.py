"""What a trainer publishes: the backbone with its card, at the end of training and in the middle of it."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo, HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..evaluation import Evaluator
from ..hub import FaceModelCardData, Measurement, complete_card, push_to_hub, write_model_card, write_model_folder
from ..hub.branch import HubBranch
from ..hub.model_folder import check_licenses, load_model, refuse_split_head, save_head
from ..hub.publishing import full_name, publish_folder

logger = logging.get_logger(__name__)

PUSH_FAILED = "A push during training failed."


class PublishingMixin:
    """
    Gives [`FaceTrainer`] its `push_to_hub`, in which what is pushed is the backbone, not the training model.

    Attributes:
        card (`FaceModelCardData`, *optional*): What the publisher states.
        weights_step (`int`): The step of training that the present weights come from.
        measured (`dict[str, Measurement]`): What the protocols found for these weights, by the protocols' names.
        started_at, started_at_step: When this process began to train, in seconds since the epoch, and at which step.
    """

    card: FaceModelCardData | None = None
    started_at, started_at_step = 0.0, 0
    push_in_progress: PushInProgress | None = None

    # What the card may say

    def weights_changed(self, step: int) -> None:
        """What was measured was measured with other weights."""
        self.weights_step = step
        self.measured: dict[str, Measurement] = {}

    def training_starts(self, step: int) -> None:
        self.started_at, self.started_at_step = time.time(), step
        self.weights_changed(step)

    def remember(self, evaluator: Evaluator, metrics: dict[str, float], figures_dir: str | Path | None) -> None:
        """Keep for the card what a protocol found."""
        figures_dir = None if figures_dir is None else Path(figures_dir)
        self.measured[evaluator.name] = Measurement(evaluator, metrics, figures_dir)

    def _measure(self) -> None:
        """Run the protocols with figures, unless that has been done with these weights."""
        found = {name for name, measurement in self.measured.items() if measurement.figures_dir is not None}
        if {evaluator.name for evaluator in self.eval_dataset or []} - found:
            self.evaluate(figures_dir=Path(self.args.output_dir, "figures"))

    def create_model_card(self, *args, **kwargs) -> None:
        """Save the model into `output_dir` with its card, evaluated with these weights."""
        check_card(self.card)
        self._measure()
        self.save_model()
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            repo_id = self.hub_model_id or self.args.hub_model_id or self.args.output_dir
            card = complete_card(self.card, self)
            write_model_card(folder, load_model(folder), self.processing_class, card, repo_id)

    # At the end of training

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        include_head: bool = False,
        **kwargs,
    ) -> CommitInfo | None:
        """
        Publish the backbone, its card and figures as `hub_model_id`, in one commit; see [`hf_face.hub.push_to_hub`],
        which takes the further arguments. To be called on every rank. Always blocks: what was not pushed is known when
        it returns.
        """
        check_card(self.card)
        if include_head:
            refuse_split_head(self.model.head)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._measure()
        with TemporaryDirectory() as folder:
            self.save_model(folder)
            if include_head:
                head = self.whole_state_dict("head")
                if self.args.should_save:
                    save_head(head, Path(folder))
            if not self.is_world_process_zero():
                return None
            self._finish_current_push()
            return push_to_hub(
                folder,
                self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
                card=complete_card(self.card, self),
                include_head=include_head,
                private=self.args.hub_private_repo if private is None else private,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                commit_message=commit_message,
                **kwargs,
            )

    # In the middle of it

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository and branch before training starts: nobody trains for days and is then refused."""
        if not self.is_world_process_zero():
            return
        self.hub_api = HfApi(token=token or self.args.hub_token, library_name="hf_face")  # one: it queues its jobs
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.hub_model_id = full_name(self.hub_api, name)
        private = self.args.hub_private_repo if private is None else private
        branch = HubBranch(self.hub_api, self.hub_model_id, self.args.hub_revision)
        branch.check(private, overwrite=False)
        with branch.put_back_on_error():
            branch.make(private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As `Trainer` does during training; but what is pushed is the backbone with its card, all in one commit."""
        if self.args.hub_strategy == HubStrategy.END or (self._push_runs() and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # A copy of its own: training goes on and changes the folders while it is sent.
        snapshot = Path(self.args.output_dir, f"_push-{self.state.global_step}")
        self.save_model(snapshot / "saved")
        if not self.is_world_process_zero():
            return
        folder = snapshot / self.hub_model_id.split("/")[-1]
        try:
            write_model_folder(snapshot / "saved", folder, self.hub_model_id, card=complete_card(self.card, self))
        except ValueError as error:  # weights that are not finite, say: it is not this push's to end the training
            shutil.rmtree(snapshot)
            logger.warning(f"{PUSH_FAILED}\n{error}")
            return
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            shutil.copytree(checkpoint_folder, folder / "last-checkpoint")
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            shutil.copytree(checkpoint_folder, folder / Path(checkpoint_folder).name)
        job = self.hub_api.run_as_future(self._publish_snapshot, folder, self.state.global_step)
        self.push_in_progress = self.push_in_progress or PushInProgress([])
        self.push_in_progress.jobs.append(job)

    def _publish_snapshot(self, folder: Path, step: int) -> CommitInfo:
        try:
            return publish_folder(
                self.hub_api,
                folder,
                self.hub_model_id,
                revision=self.args.hub_revision,
                commit_message=f"Training in progress, step {step}",
            )
        finally:
            shutil.rmtree(folder.parent)

    def _push_runs(self) -> bool:
        """Whether an earlier push is still under way; the same answer on every rank, which all save or none."""
        self._report_failed_pushes()
        return broadcast_object_list([self.push_in_progress is not None and not self.push_in_progress.is_done()])[0]

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        """Training goes on without them, but not in silence."""
        if self.push_in_progress is None:
            return
        done = [job for job in self.push_in_progress.jobs if job.done()]
        self.push_in_progress.jobs = [job for job in self.push_in_progress.jobs if job not in done]
        for error in filter(None, (job.exception() for job in done)):
            logger.warning("\n".join([PUSH_FAILED, str(error), *getattr(error, "__notes__", [])]))


def check_card(card: FaceModelCardData | None) -> None:
    """
    Raises:
        ValueError: there is no card, or it states no licenses.
    """
    if card is None:
        raise ValueError("A model card states licenses: FaceTrainer(card=FaceModelCardData(license=..., ...)).")
    check_licenses(card)
