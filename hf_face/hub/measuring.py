"""Reproducible measurements of a model: parameters, operations, latency."""

import platform
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelMeasurements:
    """
    Args:
        parameters (`int`): Number of parameters.
        flops (`int`): Floating-point operations for one image; a multiply-accumulate counts as two.
        cpu_latency (`float`): Median latency for one image on the CPU, in seconds.
        cpu (`str`): The CPU, number of threads and precision.
    """

    parameters: int
    flops: int
    cpu_latency: float
    cpu: str


@torch.inference_mode()
def measure_model(model: PreTrainedModel, repeats: int = 10) -> ModelMeasurements:
    """
    Measure a face backbone with one image of its input size, on the CPU and in its own precision.

    Operations are counted by torch's `FlopCounterMode` (matrix products and convolutions, including attention). Face
    recognition papers often count multiply-accumulates as "FLOPs", which are half as many.
    """
    config, precision = model.config, model.dtype
    pixel_values = torch.zeros(1, config.num_channels, config.image_size, config.image_size, dtype=precision)
    with evaluated_on_cpu(model):
        # Some versions of torch do not count all fused attention kernels.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(pixel_values)
        latencies = []
        for _ in range(repeats):
            start = time.perf_counter()
            model(pixel_values)
            latencies.append(time.perf_counter() - start)
    return ModelMeasurements(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=counter.get_total_flops(),
        cpu_latency=statistics.median(latencies),
        cpu=f"{cpu_name()}, {torch.get_num_threads()} thread(s), {str(precision).removeprefix('torch.')}",
    )


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
