"""Random draws that are the same when a run is resumed."""

from itertools import count

import numpy as np
import torch
from transformers import TrainingArguments


class RepeatableDraws:
    """Generators that depend only on the run's seed, the step, the batch within the step and the rank."""

    def __init__(self, args: TrainingArguments):
        self._args = args
        self._step: int | None = None
        self._batches = count()  # within the step

    def generator(self, step: int) -> torch.Generator:
        """The generator of the next batch of a step."""
        if step != self._step:
            self._step, self._batches = step, count()
        numbers = (self._args.seed, step, next(self._batches), self._args.process_index)
        return torch.Generator().manual_seed(np.random.SeedSequence(numbers).generate_state(1, np.uint64).item())
