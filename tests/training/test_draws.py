"""Random draws that a resumed run repeats."""

from types import SimpleNamespace

import torch

from hf_face.training.draws import RepeatableDraws


def draws(steps: list[int], seed: int = 0, rank: int = 0) -> list[float]:
    own = RepeatableDraws(SimpleNamespace(seed=seed, process_index=rank))
    return [torch.rand((), generator=own.generator(step)).item() for step in steps]


def test_draws_depend_on_seed_step_batch_and_rank_only():
    whole = draws([0, 0, 0, 1, 1, 2])
    assert len(set(whole + draws([0, 1], seed=1) + draws([0, 1], rank=1))) == 10
    assert draws([1, 1, 2]) == whole[3:], "as if the run had been resumed"
    assert draws([0, 1, 2]) == [whole[0], whole[3], whole[5]]
