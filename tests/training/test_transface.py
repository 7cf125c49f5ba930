"""TransFace's two parts, against the published code's numbers and a loop of the formula, and trained."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import CASES, VIT_FACE
from torch import nn

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig, ViTFaceConfig
from hf_face.training import FaceTrainer, TransFace
from hf_face.training.methods.transface import amplitude_mix, sample_weight

ROOT = Path(__file__).parents[2]
TINY = ViTFaceConfig(**VIT_FACE, patch_weighting=True)


@pytest.fixture(scope="module")
def dpap():
    """The benchmark, which perturbs patch by patch in numpy."""
    spec = importlib.util.spec_from_file_location("dpap", ROOT / "benchmarks" / "dpap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planes(patches: np.ndarray, dtype=torch.float64) -> torch.Tensor:
    """Patches (N, H, W, C) of numpy as (N, C, H, W)."""
    return torch.from_numpy(patches).to(dtype).permute(0, 3, 1, 2)


# The two functions


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_amplitudes_are_mixed_as_in_the_published_code(fixtures, dtype, atol):
    case = np.load(fixtures / "transface" / "amplitude_mix.npz")
    source, random = planes(case["source"], dtype), planes(case["random"], dtype)
    mixed = amplitude_mix(source, random, torch.from_numpy(case["lam"]))
    assert mixed.dtype == dtype
    expected = planes(case["pre_clip"])
    torch.testing.assert_close(mixed.double(), expected, atol=atol, rtol=0)
    far = (expected - expected.round()).abs() > atol  # from a whole number, where truncation is sure
    cast = mixed.clamp(0, 255).to(torch.uint8)
    assert torch.equal(cast[far], planes(case["result"], torch.uint8)[far])


def test_a_part_of_the_spectrum_is_mixed_as_in_the_published_code(fixtures):
    case = np.load(fixtures / "transface" / "amplitude_mix.npz")
    source, random = planes(case["source"][:1]), planes(case["random"][:1])
    mixed = amplitude_mix(source, random, torch.from_numpy(case["ratio_lam"])[None], ratio=float(case["ratio"]))
    torch.testing.assert_close(mixed, planes(case["ratio_pre_clip"][None]), atol=1e-9, rtol=0)


def test_whole_numbers_mix_too(fixtures):
    case = np.load(fixtures / "transface" / "amplitude_mix.npz")
    source, random = (planes(case[name][None], torch.uint8) for name in ("integer_source", "integer_random"))
    mixed = amplitude_mix(source, random, torch.zeros(1))
    torch.testing.assert_close(mixed, planes(case["integer_pre_clip"][None], torch.float32), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 8), (8, 5), (5, 8)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 1.0])
def test_every_size_and_part_mixes_as_the_formula_says(dpap, height, width, ratio):
    random_state = np.random.RandomState(0)
    source, random = random_state.uniform(0, 255, (2, 3, height, width, 2))
    source[0] = 7.0  # whose other amplitudes are 0, and phases too
    lam = random_state.uniform(size=3)
    mixed = amplitude_mix(planes(source), planes(random), torch.from_numpy(lam), ratio)
    expected = np.stack([dpap.mix_in_numpy(*each, ratio) for each in zip(source, random, lam, strict=True)])
    torch.testing.assert_close(mixed, planes(expected), atol=1e-9, rtol=0)


def test_samples_are_weighted_as_in_the_published_code(fixtures):
    case = np.load(fixtures / "transface" / "ehsm.npz")
    entropy = torch.from_numpy(case["patch_entropy"]).requires_grad_()
    weight = sample_weight(entropy)
    assert not weight.requires_grad
    torch.testing.assert_close(weight.double(), torch.from_numpy(case["sample_weight"]), atol=1e-5, rtol=0)


def test_the_paper_weights_by_the_entropy_of_a_normal_distribution():
    deviation = torch.tensor([[0.5, 2.0], [1.0, 3.0]])
    entropy = torch.distributions.Normal(0.0, deviation).entropy()
    torch.testing.assert_close(sample_weight(deviation, "paper"), 1 + torch.exp(-entropy.mean(1)))
    assert sample_weight(torch.zeros(1, 4), "paper").isfinite().all()
    with pytest.raises(ValueError, match="'code' or 'paper', found 'both'"):
        sample_weight(deviation, "both")


# A batch


def test_shares_are_uniform_up_to_alpha():
    method = TransFace(probability=1.0, alpha=0.5)
    *_, shares = method.draw(batch_size=64, num_patches=16)
    assert 0 <= shares.min() < 0.05 and 0.45 < shares.max() <= 0.5
    assert shares.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_patches_are_perturbed_as_by_a_loop_over_them(dpap, number):
    torch.manual_seed(0)
    images = 255 * torch.rand(6, 3, 32, 35, dtype=torch.float64)  # 4 x 5 patches of 7, with a rest of 4 pixels
    patch_weights = torch.rand(6, 20)
    lowest = [0.0, *torch.rand(6, generator=torch.Generator()).sort().values.tolist()]  # of the draws below
    method = TransFace(probability=(lowest[number] + lowest[number + 1]) / 2, num_patches=3)
    method.patch_size, method.normalize, method.generator = 7, nn.Identity(), torch.Generator()
    chosen, *drawn = (values.tolist() for values in method.draw(6, 20))
    assert len(chosen) == number
    method.generator = torch.Generator()  # the same draws again
    perturbed = images.clone()
    method.perturb(images, perturbed, patch_weights)
    dominant = patch_weights.argsort(1, descending=True)[chosen, :3].tolist()
    expected = dpap.perturb_in_numpy(images.permute(0, 2, 3, 1).numpy(), 7, chosen, dominant, *drawn)
    torch.testing.assert_close(perturbed, planes(expected), atol=1e-9, rtol=0)
    assert (perturbed != images).flatten(1).any(1).nonzero()[:, 0].tolist() == chosen


@pytest.fixture
def make(make_trainer):
    """A trainer of a tiny TransFace."""

    def make(method=None, config=TINY, augmentation=None, **settings):
        torch.manual_seed(0)
        model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=copy.deepcopy(config), num_identities=30))
        method = method or TransFace()
        return make_trainer(parameters={"model": model}, method=method, augmentation=augmentation, **settings)

    return make


def losses(trainer: FaceTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("settings", [{}, {"channels_last": True}])
def test_what_is_perturbed_is_normalized_as_the_rest(make, settings):
    trainer = make(TransFace(probability=0.4, alpha=0.0), **settings)  # with their own amplitude, patches stay
    trainer.model.train()
    batch = trainer.prepare_batch(next(iter(trainer.get_train_dataloader())))
    before = batch["pixel_values"].clone()
    trainer.method.perturb(batch["images"], batch["pixel_values"], torch.rand(16, 16))
    levels = (before - batch["pixel_values"]) * 255 * torch.tensor(trainer.processing_class.image_std)[:, None, None]
    assert levels.min() > -0.01 and levels.max() < 1.01, "at most one level is lost, by truncation"


@pytest.mark.parametrize(("method", "passes"), [(TransFace(), 2), (TransFace(probability=0.0), 1)])
def test_a_step_has_two_passes_of_which_the_second_trains(make, method, passes):
    trainer = make(method, max_steps=1)
    seen = []
    trainer.model.backbone.register_forward_hook(
        lambda module, args, output: seen.append((module.training, output.pooler_output.requires_grad))
    )
    trainer.train()
    assert seen == [(True, False), (True, True)][-passes:]


def test_without_its_parts_it_is_the_margin_softmax(make, make_trainer):
    plain = make(TransFace(probability=0.0, ehsm=None), max_steps=2)
    plain.train()
    torch.manual_seed(0)
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=copy.deepcopy(TINY), num_identities=30))
    other = make_trainer(parameters={"model": model}, augmentation=None, max_steps=2)
    other.train()
    assert losses(plain) == losses(other)
    assert losses(make_and_train(make, TransFace(probability=0.0))) > losses(other)  # all weights are above 1


def make_and_train(make, method=None, **settings) -> FaceTrainer:
    trainer = make(method, **{"max_steps": 2, **settings})
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {"partial_fc_sample_rate": 0.5},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"ema_decay": 0.5},
        {"channels_last": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        pytest.param(  # traces two graphs
            {"torch_compile": True, "torch_compile_backend": "eager"}, marks=pytest.mark.slow
        ),
    ],
)
def test_it_trains_with(make, settings):
    trainer = make_and_train(make, TransFace(probability=0.5), **settings)
    assert all(np.isfinite(losses(trainer)))
    assert trainer.model.head.num_samples == (2 if "partial_fc_sample_rate" in settings else 0)  # once a step


@pytest.mark.parametrize("augmentation", [None, "flip"])
def test_a_resumed_run_repeats_the_uninterrupted_one(make, augmentation):
    config = ViTFaceConfig(**(VIT_FACE | {"drop_path_rate": 0.2}), patch_weighting=True)
    shared = {"config": config, "augmentation": augmentation, "max_steps": 4, "ema_decay": 0.5}
    whole = make_and_train(make, TransFace(probability=0.5), save_strategy="steps", save_steps=2, **shared)
    resumed = make(TransFace(probability=0.5), **shared)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir, "checkpoint-2")))
    assert losses(resumed) == losses(whole)


def test_augmentation_does_not_change_with_the_method(make):
    """The method draws after the augmentation, from the same generator."""
    images = []
    for method in (TransFace(), TransFace(probability=0.0)):
        trainer = make(method, augmentation="flip")
        trainer.model.train()
        batches = iter(trainer.get_train_dataloader())
        for _ in range(2):
            batch = trainer.prepare_batch(next(batches))
            trainer.method.perturb(batch["images"], batch["pixel_values"], torch.rand(16, 16))
        images.append(batch["images"])
    assert torch.equal(*images)


# What cannot be done


@pytest.mark.parametrize("name", ["vit_face", "timm_face-vit", "iresnet", "foundation_face-clip"])
def test_a_backbone_that_does_not_weight_its_patches_is_refused(make, name):
    config = CASES[name][0] if name != "iresnet" else IResNetConfig(depths=[1], hidden_sizes=[8], image_size=32)
    with pytest.raises(ValueError, match=f"requires .* vit_face with patch_weighting: true; found {config.model_type}"):
        make(config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "probability must be in"),
        ({"alpha": -0.1}, "alpha must be in"),
        ({"ehsm": "book"}, "'code' or 'paper', found 'book'"),
        ({"num_patches": 17}, r"num_patches must be in \[1, 16\].*found 17"),
        ({"num_patches": 0}, r"num_patches must be in \[1, 16\].*found 0"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(TransFace(**options))


@pytest.mark.parametrize("options", [{"num_patches": 1}, {"num_patches": 16}, {"probability": 1.0}, {"alpha": 0.0}])
def test_options_at_the_ends_of_their_ranges_are_taken(make, options):
    assert vars(make(TransFace(**options)).method).items() >= options.items()
