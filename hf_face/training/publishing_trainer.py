"""A `Trainer` that saves and publishes the backbone."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from peft import PeftModel
from transformers import PreTrainedModel

from ..hub import FaceModelCardData
from ..models import FaceImageProcessor
from ..writing import whole_model
from .divergence import check_weights
from .ema import WeightAverage
from .lora import merged
from .safe_trainer import SafeTrainer

ADAPTER = "adapter"  # folder beside a model with a merged adapter


class PublishingTrainer(SafeTrainer):
    """
    A [`SafeTrainer`] that saves and publishes the backbone, with averaged weights and merged adapters. Only checkpoints
    have the training model.
    """

    processing_class: FaceImageProcessor
    ema: WeightAverage | None
    hub_model_id: str | None  # type: ignore[assignment]
    push_in_progress: Any = None  # a `PushInProgress`

    # The backbone to save

    def averaged_weights(self) -> AbstractContextManager:
        """Temporarily put the average of the weights into the model, if `ema_decay` is set."""
        return nullcontext() if self.ema is None else self.ema.in_place_of_the_weights()

    @property
    def backbone(self) -> PreTrainedModel:
        """
        The backbone to publish: a copy with averaged weights if `ema_decay` is set, with LoRA adapters merged. With
        FSDP and DeepSpeed, it must be asked for on every rank, and is a copy on the first one and None on the others.
        """
        return merged(self._averaged_backbone())

    @property
    def adapter(self) -> PeftModel | None:
        """
        The backbone with its LoRA adapter, averaged if `ema_decay` is set; None without an adapter. Its
        `save_pretrained` and `push_to_hub` are peft's, for the adapter alone. With FSDP and DeepSpeed, it must be asked
        for on every rank too.
        """
        backbone = self._averaged_backbone()
        return backbone if isinstance(backbone, PeftModel) else None

    def _averaged_backbone(self) -> Any:
        with self.averaged_weights():
            backbone = self.whole_backbone()
            will_change = self.ema is not None and backbone is self.model.backbone
            return copy.deepcopy(backbone) if will_change else backbone

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """
        Save the backbone and its image processor, to be loaded with `AutoModel.from_pretrained(output_dir)`. A LoRA
        adapter is merged, and also saved by itself, for `PeftModel.from_pretrained(base, f"{output_dir}/adapter")`.

        Checkpoints contain the training model instead, including the margin head.
        """
        output_dir = str(output_dir or self.args.output_dir)
        check_weights(self.model, self.state.global_step)
        with self.averaged_weights():
            check_weights(self.model, self.state.global_step)
            if _internal_call:
                super().save_model(output_dir, _internal_call=True)
            else:
                self._save_backbone(output_dir)
        if _internal_call:
            self.further_parts.save(Path(output_dir))

    def _save_backbone(self, folder: str) -> None:
        backbone = self.whole_backbone()
        if self.args.should_save:
            with whole_model(folder) as unfinished:
                merged(backbone).save_pretrained(unfinished)
                if isinstance(backbone, PeftModel):
                    backbone.save_pretrained(str(unfinished / ADAPTER))
                self.processing_class.save_pretrained(unfinished)

    # Publishing

    @property
    def card(self) -> FaceModelCardData | None:
        """The publisher's statements."""
        return self.publisher.card

    def create_model_card(self, *args, **kwargs) -> None:
        """
        Save the model to `output_dir` with its card, after evaluating it. The card's statements are those of
        `FaceTrainer(card=...)`; the arguments that `Trainer` takes for it are ignored. Must be called on every rank.

        Raises:
            ValueError: if there is no card, or it lacks licenses.
        """
        self.publisher.write_card()

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
        Publish the backbone, its card and figures as `hub_model_id`, in one commit, after evaluating the model. Must be
        called on every rank.

        Args:
            commit_message: Title of the commit.
            blocking: Not used: the push always blocks.
            token: Defaults to `hub_token`, or the stored token.
            revision: Branch; defaults to `hub_revision`, or `main`.
            private: Visibility of a new repository; defaults to `hub_private_repo`.
            include_head: Whether to publish the class centers too.
            kwargs: Further arguments of [`hf_face.hub.push_to_hub`].

        Returns:
            `CommitInfo`, on the first rank.

        Raises:
            ValueError: if there is no card or it lacks licenses, or as for [`hf_face.hub.push_to_hub`].
        """
        return self.publisher.push(
            include_head,
            commit_message=commit_message,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
            **kwargs,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository and branch, with defaults as in `push_to_hub`. Called by `Trainer` before training."""
        self.publisher.make_repository(token, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Not public, but Trainer would upload the training model, and in several commits.
        self.publisher.push_checkpoint(checkpoint_folder)
