"""The average of the weights: of numbers, not of counts; swapped in and out; saved beside what is trained on."""

import pytest
from safetensors.torch import load_file
from torch import nn

from hf_face.training.ema import WeightAverage


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.group = None

    def set(self, value: int) -> None:
        for tensor in self.backbone.state_dict().values():
            tensor.fill_(value)

    def values(self) -> list[float]:
        return [tensor.max().item() for tensor in self.backbone.state_dict().values()]


@pytest.fixture
def trained() -> tuple[Model, WeightAverage]:
    """A model of three steps, with weights 8, 4 and 12."""
    model = Model()
    average = WeightAverage(model, decay=0.75, frozen=["backbone.bias"])
    with average.in_place_of_the_weights():
        assert model.values() == [1, 0, 0, 1, 0], "before the first step, the weights themselves"
    for value in (8, 4, 12):
        model.set(value)
        average.on_step_end(None, None, None)
    return model, average


def test_counts_and_frozen_weights_are_not_averaged(trained):
    model, average = trained
    with average.in_place_of_the_weights():
        assert model.values() == [8.25, 12, 8.25, 8.25, 12]  # 0.75 * (0.75 * 8 + 0.25 * 4) + 0.25 * 12
    assert model.values() == [12] * 5


def test_a_run_goes_on_from_the_weights_and_their_average(trained, tmp_path):
    model, average = trained
    average.save(tmp_path, keep=False)
    assert not any(tmp_path.iterdir())
    average.save(tmp_path, keep=True)
    assert load_file(tmp_path / "raw_backbone.safetensors").keys() == model.backbone.state_dict().keys() - {"bias"}
    model.set(5)  # the average, as a checkpoint has it
    resumed = WeightAverage(model, decay=0.75)
    resumed.load(tmp_path, nn.Identity())
    assert model.values() == [12, 5, 12, 12, 12]
    with resumed.in_place_of_the_weights():
        assert model.values() == [5] * 5


def test_a_run_goes_on_with_an_average_that_its_checkpoint_has_not(trained, tmp_path):
    model, average = trained
    average.load(tmp_path, nn.Identity())
    with average.in_place_of_the_weights():
        assert model.values() == [12] * 5
