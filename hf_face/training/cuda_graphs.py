"""Training with CUDA graphs, as `torch_compile_mode="reduce-overhead"` does."""

import torch
from transformers import TrainerCallback


class CudaGraphSteps(TrainerCallback):
    """
    Tells CUDA graphs where a step begins: what its batches leave in their memory, such as accumulated gradients, is
    kept until the next one.
    """

    def on_step_begin(self, args, state, control, **kwargs):
        if args.torch_compile:
            torch.compiler.cudagraph_mark_step_begin()
