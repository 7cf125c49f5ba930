"""Low-rank adapters: what is adapted, trained and saved."""

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from ..files import read_json
from ..models import FoundationFaceModel
from ..recognition import FaceRecognitionModel
from ..user_input import did_you_mean

SHORT_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
BASE_FILE = "base_of_adapter.json"
COPIES = re.compile(r"(^|\.)(original_module|modules_to_save)(\.|$)")  # in peft's wrapper of modules that it saves
NUMBERED = re.compile(r"(?:^|.*?\.)(?P<list>[^.]+)\.(?P<index>\d+)\.")  # a layer among its like, as peft finds it

# Parts of n layers, counted from the input, as FRoundation and CLIP-LoRA name them.
LAYERS = {
    "all": lambda n: range(n),
    "top": lambda n: range(n - 1, n),
    "top2": lambda n: range(max(0, n - 2), n),
    "top3": lambda n: range(max(0, n - 3), n),
    "bottom": lambda n: range(n // 3),
    "mid": lambda n: range(n // 3, 2 * n // 3),
    "up": lambda n: range(2 * n // 3, n),
    "half-bottom": lambda n: range(n // 2),
    "half-up": lambda n: range(n // 2, n),
}


def add_lora(model: FaceRecognitionModel, lora: dict[str, Any]) -> FaceRecognitionModel:
    """
    Add low-rank adapters to the backbone of `model` and freeze its other weights, except for the projection of a
    [`FoundationFaceModel`], which the adapter includes.

    Args:
        model: The training model, changed in place.
        lora: Arguments of peft's `LoraConfig`, of which `alpha` and `dropout` are short names, and `layers`: `"all"`,
            `"top"`, `"top2"`, `"top3"` (the last one, two or three), `"bottom"`, `"mid"`, `"up"` (the first, middle and
            last third), `"half-bottom"`, `"half-up"`, or a list of numbers.

    Raises:
        ValueError: for an unknown argument, target modules that match nothing, or layers that do not exist.
    """
    backbone = model.backbone
    name_or_path = next(filter(None, (getattr(each, "name_or_path", "") for each in backbone.modules())), None)
    model.backbone = get_peft_model(backbone, _lora_config(backbone, lora))
    model.backbone.peft_config["default"].base_model_name_or_path = name_or_path
    asked_for = tuple(lora.get("modules_to_save") or ())
    for name, module in backbone.named_modules():
        # peft also copies modules whose names end like that of the projection
        if isinstance(module, ModulesToSaveWrapper) and name != "projection" and not name.endswith(asked_for):
            module.requires_grad_(False)
    return model


def save_statistics(model: FaceRecognitionModel) -> None:
    """Make the backbone's adapter, if it has one, include its batch norms, whose statistics change in training."""
    if not isinstance(model.backbone, PeftModel):
        return
    base, adapter = model.backbone.get_base_model(), model.backbone.active_adapter
    modules = {name: module for name, module in base.named_modules() if not COPIES.search(name)}
    names = tuple(name for name, module in modules.items() if _has_statistics(module))
    for name in (name for name in modules if name.endswith(names)):  # as peft finds them when it loads the adapter
        wrapper = ModulesToSaveWrapper(modules[name], adapter)
        wrapper.set_adapter(adapter)
        base.set_submodule(name, wrapper.requires_grad_(False))
    config: Any = model.backbone.peft_config[adapter]
    config.modules_to_save = [*(config.modules_to_save or ()), *names] or None


def leave_out_frozen(model: FaceRecognitionModel) -> None:
    """Leave the frozen weights of models with adapters out of checkpoints, and do not send them between ranks."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, PeftModel)}
    frozen = {f"{name}.{weight}" for name, module in adapted.items() for weight in _unchanged(module)}
    model._keys_to_ignore_on_save = frozen & model.state_dict().keys()
    own: Any = model._ddp_params_and_buffers_to_ignore
    model._ddp_params_and_buffers_to_ignore = sorted(model._keys_to_ignore_on_save.union(own))  # type: ignore[assignment]


def frozen_names(model: FaceRecognitionModel) -> set[str]:
    """The weights that [`leave_out_frozen`] leaves out; empty without adapters."""
    return set(model._keys_to_ignore_on_save or ())


def merged(backbone: Any) -> Any:
    """A copy of a backbone with its adapter merged, or a backbone without one itself."""
    return copy.deepcopy(backbone).merge_and_unload() if isinstance(backbone, PeftModel) else backbone


def _unchanged(model: PeftModel) -> Iterator[str]:
    """Names of the parameters and buffers that training does not change."""
    yield from (name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    for name, _ in model.named_buffers():
        owner = model.get_submodule(name.rpartition(".")[0])
        if ".original_module." in name or not _has_statistics(owner):
            yield name


class BaseOfAdapter:
    """
    Makes sure that an adapter in a checkpoint is put on the weights it was trained on, which are not saved with it.

    Args:
        model ([`FaceRecognitionModel`]): The training model.
    """

    def __init__(self, model: FaceRecognitionModel):
        self._model = model
        self._digest: str | None = None

    def save(self, folder: Path) -> None:
        """Save the digest of the base model's weights, if there is an adapter. Must be called by only one process."""
        if frozen_names(self._model):
            (folder / BASE_FILE).write_text(json.dumps({"sha256": self.digest()}) + "\n", encoding="utf-8")

    def check(self, folder: Path) -> None:
        """
        Raises:
            ValueError: if the adapter in a checkpoint belongs to other weights.
        """
        file = folder / BASE_FILE
        if file.is_file() and read_json(file).get("sha256") != self.digest():
            raise ValueError(
                f"The adapter in {folder} was trained on other weights than these, which it does not contain: resume "
                "with the same model_name_or_path or, for a new backbone, the same settings and seed."
            )

    def digest(self) -> str:
        """The digest of the frozen weights. Must be called before an engine splits them, for the first time."""
        if self._digest is None:
            digest, tensors = hashlib.sha256(), self._model.state_dict()
            for name in sorted(frozen_names(self._model)):
                digest.update(_as_bytes(tensors[name]))
            self._digest = digest.hexdigest()
        return self._digest


def _as_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _lora_config(backbone: PreTrainedModel, lora: dict[str, Any]) -> LoraConfig:
    options = {SHORT_NAMES.get(name, name): value for name, value in lora.items()}
    layers = options.pop("layers", "all")
    known = inspect.signature(LoraConfig).parameters.keys()
    for name in options.keys() - known:
        hint = did_you_mean(name, {*known, *SHORT_NAMES, "layers"})
        raise ValueError(f"lora has no option {name!r}; its options are those of peft's LoraConfig, and layers.{hint}")
    targets = options.get("target_modules")
    if targets is not None and not isinstance(targets, str):
        matched = _find_targets(backbone, targets)
        if layers != "all":
            options |= _choose_layers(layers, matched)
    elif layers != "all":
        raise ValueError(f"lora: layers={layers!r} requires target_modules as a list of names, found {targets!r}.")
    if isinstance(backbone, FoundationFaceModel) and isinstance(backbone.projection, nn.Linear):
        options["modules_to_save"] = [*(options.get("modules_to_save") or ()), "projection"]
    return LoraConfig(**options)


def _find_targets(backbone: nn.Module, targets: Sequence[str]) -> list[str]:
    """The names of the modules that `target_modules` lists by their ends."""
    names = [name for name, _ in backbone.named_modules()]
    matched = {target: [name for name in names if f".{name}".endswith(f".{target}")] for target in targets}
    if nothing := [target for target, found in matched.items() if not found]:
        layers = {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
        raise ValueError(
            f"lora: target_modules {', '.join(map(repr, nothing))} match no module of {type(backbone).__name__}, whose "
            f"layers are called {', '.join(sorted({name.rpartition('.')[2] for name in layers}))}."
        )
    return [name for found in matched.values() for name in found]


def _choose_layers(layers: str | Sequence[int], matched: Sequence[str]) -> dict[str, Any]:
    """Options of `LoraConfig` for some of the numbered layers that target modules are in."""
    numbered = [match for match in map(NUMBERED.match, matched) if match]
    count = 1 + max((int(match["index"]) for match in numbered), default=-1)
    if isinstance(layers, str) and layers not in LAYERS:
        raise ValueError(f"lora: layers must be one of {', '.join(LAYERS)}, or a list of numbers, found {layers!r}.")
    chosen = list(LAYERS[layers](count)) if isinstance(layers, str) else list(layers)
    if not chosen or any(index not in range(count) for index in chosen):
        raise ValueError(f"lora: layers={layers!r} does not fit the {count} numbered layers of the target modules.")
    return {"layers_to_transform": chosen, "layers_pattern": sorted({match["list"] for match in numbered})}


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
