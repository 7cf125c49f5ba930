"""
Images per second on the CPU, compared to onnxruntime on the same exported graph.

    python benchmarks/inference.py                                   # iresnet50 and vit_tiny, batch 32, 2 threads
    python benchmarks/inference.py --models mobilefacenet vit_t --repeats 20

All methods use the same weights and images in one process. Each is timed separately after a warm-up call, and the best
repeat counts. `cosine` is the smallest cosine similarity between a method's and the plain model's embedding of an
image.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import torch
import torch._inductor.config as inductor_config
from torch import Tensor, nn

from hf_face import (
    FacePreTrainedModel,
    IResNetConfig,
    IResNetModel,
    MobileFaceNetConfig,
    MobileFaceNetModel,
    TimmFaceConfig,
    TimmFaceModel,
    ViTFaceConfig,
    ViTFaceModel,
)

VIT_TINY = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 112, "patch_size": 8}}
MODELS = {
    "iresnet50": lambda: IResNetModel(IResNetConfig()),
    "vit_tiny": lambda: TimmFaceModel(TimmFaceConfig(**VIT_TINY)),
    "mobilefacenet": lambda: MobileFaceNetModel(MobileFaceNetConfig(embedding_size=512, width=2)),
    "vit_t": lambda: ViTFaceModel(ViTFaceConfig(hidden_size=256)),
}


class Embedder(nn.Module):
    """Maps crops to unit-length embeddings, with plain tensors for exporters."""

    def __init__(self, model: FacePreTrainedModel):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).pooler_output


def settle_batch_norms(model: FacePreTrainedModel, pixel_values: Tensor) -> None:
    """Give new weights the batch statistics of these images; without them, activations overflow float32."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model.train()(pixel_values)
    model.eval()


def onnxruntime_embedder(model: FacePreTrainedModel, pixel_values: Tensor, threads: int) -> Callable[[Tensor], Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(Embedder(model), (pixel_values,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def autocast(embedder: nn.Module) -> Callable[[Tensor], Tensor]:
    def embed(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return embedder(images)

    return embed


def ways(model: FacePreTrainedModel, pixel_values: Tensor, threads: int) -> Iterator[tuple[str, Callable, Tensor]]:
    """Name, function and images (in its memory format) of each way to run the model, starting with the baseline."""
    channels_last = pixel_values.contiguous(memory_format=torch.channels_last)
    yield "onnxruntime", onnxruntime_embedder(model, pixel_values, threads), pixel_values
    yield "plain", Embedder(model), pixel_values
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    yield "channels-last", Embedder(fast), channels_last
    if hasattr(model, "fuse"):
        yield "fuse()", Embedder(copy.deepcopy(model).fuse()), pixel_values
        fast = fast.fuse()
        yield "fuse(), channels-last", Embedder(fast), channels_last
    # Freezing folds the weights' layout changes, and with them what is left of the batch norms, into the weights.
    with inductor_config.patch(freezing=True):
        yield "torch.compile of that", torch.compile(Embedder(fast), fullgraph=True), channels_last
    yield "bf16 autocast of that", autocast(Embedder(fast)), channels_last


def best_time(embed: Callable[[Tensor], Tensor], images: Tensor, repeats: int) -> float:
    """Seconds taken by the fastest of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        embed(images)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@torch.no_grad()
def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    print(f"batch {arguments.batch_size}, {arguments.threads} threads, torch {torch.__version__}, ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for name in arguments.models:
        torch.manual_seed(0)
        model = MODELS[name]()
        pixel_values = torch.randn(arguments.batch_size, 3, model.config.image_size, model.config.image_size)
        settle_batch_norms(model, pixel_values)
        expected = Embedder(model)(pixel_values)
        peer = None
        for way, embed, images in ways(model, pixel_values, arguments.threads):
            cosine = (embed(images) * expected).sum(1).min().item()  # this call compiles and warms up
            rate = arguments.batch_size / best_time(embed, images, arguments.repeats)
            peer = peer or rate
            print(f"{name:14} {way:24} {rate:8.1f} images/s {rate / peer:6.2f}x onnxruntime  cosine {cosine:.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["iresnet50", "vit_tiny"])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args())
