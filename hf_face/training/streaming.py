"""Training on a streamed dataset."""

import json
from pathlib import Path

from accelerate.utils import gather_object
from datasets import IterableDataset

from ..data import FaceStream
from .arguments import FaceTrainingArguments

STREAM_FILE = "stream.json"


def check_stream_settings(args: FaceTrainingArguments) -> None:
    """
    Raises:
        ValueError: if a setting does not work with streams, whose batches have numbers.
    """
    if not args.dataloader_in_order:
        raise ValueError("dataloader_in_order=False does not work with a stream, which resumes by counting batches.")
    if args.accelerator_config.split_batches:  # type: ignore[union-attr]  # text and mappings are parsed by now
        raise ValueError("split_batches does not work with a stream, of which each rank reads its own batches.")


class StreamedBatches:
    """
    Numbered batches of a `datasets.IterableDataset`, read and decoded by each rank's workers, which can be resumed.

    Args:
        dataset (`IterableDataset`): The dataset to stream.
        args ([`FaceTrainingArguments`]): Settings of the run.
        batch_size (`int`): Number of images per batch on one rank.
    """

    def __init__(self, dataset: IterableDataset, args: FaceTrainingArguments, batch_size: int):
        self._args = args
        self.stream = FaceStream(
            dataset,
            batch_size,
            num_batches=self._num_batches(args.max_steps),
            num_parts=args.world_size * max(1, args.dataloader_num_workers),
        )

    def save(self, folder: Path, step: int) -> None:
        """Save the stream's position at a step. Must be called on every rank."""
        state = self.stream.state_dict(self._num_batches(step))
        state["positions"] = gather_object(state["positions"])  # each rank knows the positions of its own parts
        if self._args.should_save:
            (folder / STREAM_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Restore the stream's position, unless `ignore_data_skip` is set."""
        if not self._args.ignore_data_skip:
            self.stream.load_state_dict(json.loads((folder / STREAM_FILE).read_text(encoding="utf-8")))

    def _num_batches(self, steps: int) -> int:
        return steps * self._args.gradient_accumulation_steps * self._args.world_size
