"""Training on a stream."""

import json
from pathlib import Path

from accelerate.utils import gather_object
from datasets import IterableDataset
from torch.utils.data import DataLoader, SequentialSampler

from ..data import FaceStream

STREAM_FILE = "stream.json"


class StreamingMixin:
    """Gives a `Trainer` whose `train_dataset` is a `datasets.IterableDataset` its batches, also after a resume."""

    _stream: FaceStream | None = None

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer`'s; a stream comes as numbered batches, which each rank's workers read and decode themselves."""
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        self._stream = FaceStream(
            self.train_dataset,
            self._train_batch_size,
            num_batches=self._num_batches(self.args.max_steps),
            num_parts=self.args.world_size * max(1, self.args.dataloader_num_workers),
        )
        return self._get_dataloader(
            self._stream, "Training", batch_size=1, sampler_fn=SequentialSampler, is_training=True
        )

    def _num_batches(self, steps: int) -> int:
        return steps * self.args.gradient_accumulation_steps * self.args.world_size

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._stream is not None:
            state = self._stream.state_dict(self._num_batches(self.state.global_step))
            state["positions"] = gather_object(state["positions"])  # each rank knows where its own parts stand
            if self.args.should_save:
                Path(output_dir, STREAM_FILE).write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._stream is not None and not self.args.ignore_data_skip:
            self._stream.load_state_dict(json.loads(Path(checkpoint, STREAM_FILE).read_text(encoding="utf-8")))
