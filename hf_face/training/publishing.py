"""What a trainer publishes: the backbone with its card, at the end of training and in the middle of it."""

from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import PushInProgress

from ..hub import complete_card, push_to_hub, write_model_card


class PublishingMixin:
    """Gives [`FaceTrainer`] its `push_to_hub`, in which what is pushed is the backbone, not the training model."""

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of the saved model, with what training and the last evaluation showed, into `output_dir`."""
        if self.card is None:
            raise ValueError("A model card states licences: FaceTrainer(card=FaceModelCardData(license=..., ...)).")
        if self.is_world_process_zero():
            repo_id = self.hub_model_id or self.args.hub_model_id or self.args.output_dir
            card = complete_card(self.card, self)
            write_model_card(self.args.output_dir, self.backbone, self.processing_class, card, repo_id)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | None:
        """
        Publish the backbone, its card and figures as `hub_model_id`, in one commit; see [`hf_face.hub.push_to_hub`],
        which takes the further arguments. Always blocks: what was not pushed is known when it returns.
        """
        if self.card is None:
            raise ValueError("A model card states licences: FaceTrainer(card=FaceModelCardData(license=..., ...)).")
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        return push_to_hub(
            self.backbone,
            self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).name,
            card=complete_card(self.card, self),
            image_processor=self.processing_class,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            **kwargs,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As `Trainer` does during training, but the model that is pushed is the backbone."""
        if self.args.hub_strategy == HubStrategy.END:
            return
        self.save_model()
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or (busy and not self.args.hub_always_push):
            return
        folders = {".": self.args.output_dir}
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            folders["last-checkpoint"] = checkpoint_folder
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            folders[Path(checkpoint_folder).name] = checkpoint_folder
        api = HfApi(token=self.args.hub_token, library_name="hf_face")
        jobs = [
            api.upload_folder(
                repo_id=self.hub_model_id,
                folder_path=folder,
                path_in_repo=path_in_repo,
                commit_message=f"Training in progress, step {self.state.global_step}",
                revision=self.args.hub_revision,
                ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*", "runs/*"],
                run_as_future=True,
            )
            for path_in_repo, folder in folders.items()
        ]
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)
