"""Reproducible measurements of a model: parameters, operations, latency."""

import platform
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelMeasurements:
    """
    Args:
        parameters (`int`): Number of parameters.
        flops (`int`): Floating-point operations for one image; a multiply-accumulate counts as two.
        cpu_latency (`float`, *optional*): Median latency for one image on the CPU, in seconds, if measured.
        cpu (`str`, *optional*): The CPU, number of threads and precision.
    """

    parameters: int
    flops: int
    cpu_latency: float | None = None
    cpu: str | None = None


@torch.inference_mode()
def measure_model(model: PreTrainedModel, repeats: int = 10) -> ModelMeasurements:
    """
    Measure a face backbone with one image of its input size, on the CPU and in its own precision.

    Args:
        model: The backbone, on any device; its device and mode are restored.
        repeats: Number of forward passes, whose median is the latency.
    """
    precision = model.dtype
    with evaluated_on_cpu(model):
        counted, pixel_values = count_operations(model), one_image(model)
        latencies = []
        for _ in range(repeats):
            start = time.perf_counter()
            model(pixel_values)
            latencies.append(time.perf_counter() - start)
    return replace(
        counted,
        cpu_latency=statistics.median(latencies),
        cpu=f"{cpu_name()}, {torch.get_num_threads()} thread(s), {str(precision).removeprefix('torch.')}",
    )


@torch.inference_mode()
def count_operations(model: PreTrainedModel) -> ModelMeasurements:
    """
    Count a face backbone's parameters and operations for one image, without measuring its latency. The model must be in
    eval mode; it may be on the meta device.

    Operations are counted by torch's `FlopCounterMode` (matrix products and convolutions, including attention). Face
    recognition papers often count multiply-accumulates as "FLOPs", which are half as many.
    """
    # Some versions of torch do not count all fused attention kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(one_image(model))
    return ModelMeasurements(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops())


def one_image(model: PreTrainedModel) -> Tensor:
    """A black image of a face backbone's input size, (1, C, H, W), on its device and in its precision."""
    config = model.config
    shape = (1, config.num_channels, config.image_size, config.image_size)
    return torch.zeros(shape, dtype=model.dtype, device=model.device)


@contextmanager
def evaluated_on_cpu(model: PreTrainedModel):
    """Move the model to the CPU in eval mode, and restore its device and the mode of each module afterwards."""
    device = model.device
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.to("cpu").eval()  # type: ignore[arg-type]  # transformers' wrapper hides what `to` takes
    finally:
        model.to(device)  # type: ignore[arg-type]
        for module, training in modes:
            module.training = training


def cpu_name() -> str:
    """The processor's name, such as "AMD EPYC 7763"."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
