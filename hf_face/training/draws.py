"""Random draws that are the same when a run is resumed."""

import numpy as np
import torch
from transformers import TrainingArguments


class RepeatableDraws:
    """Generators that depend only on the run's seed, the step, the batch within the step and the rank."""

    def __init__(self, args: TrainingArguments):
        self._args = args
        self._last = (-1, 0)  # step and batch within it

    def generator(self, step: int) -> torch.Generator:
        """The generator of the next batch of a step."""
        batch = self._last[1] + 1 if self._last[0] == step else 0
        self._last = (step, batch)
        numbers = (self._args.seed, step, batch, self._args.process_index)
        return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
