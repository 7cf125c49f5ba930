"""What is exported, read by transformers.js in Node."""

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from tiny_models import CASES
from transformers import AutoModel

from hf_face import FaceImageProcessor
from hf_face.export import export_onnx

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

PACKAGE = "@huggingface/transformers@4.3.1"
SCRIPT = """\
import { AutoImageProcessor, AutoModel, RawImage, Tensor, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = "/";
const [folder, ...files] = process.argv.slice(2);
const images = await Promise.all(files.map((file) => RawImage.read(file)));
const processor = await AutoImageProcessor.from_pretrained(folder);
const embeddings = {};
for (const dtype of ["fp32", "fp16", "q8"]) {
  const model = await AutoModel.from_pretrained(folder, { dtype });
  embeddings[dtype] = (await model(await processor(images))).pooler_output.tolist();
}
const model = await AutoModel.from_pretrained(folder, { dtype: "fp32", model_file_name: "model_from_pixels" });
embeddings["from pixels"] = [];
for (const { data, height, width, channels } of images) {
  const pixels = new Tensor("uint8", Uint8Array.from(data), [1, height, width, channels]);
  embeddings["from pixels"].push((await model({ pixels })).pooler_output.tolist()[0]);
}
console.log(JSON.stringify(embeddings));
"""


@pytest.fixture
def project():
    """A folder with transformers.js."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("there is no Node with npm: apt-get install nodejs npm")
    with TemporaryDirectory() as folder:  # of half a gigabyte
        # Without scripts, which would download onnxruntime for CUDA.
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
        if subprocess.run(install, cwd=folder, check=False).returncode:
            pytest.skip(f"npm cannot fetch {PACKAGE}")
        yield folder


@pytest.mark.slow  # half a gigabyte of packages
@torch.no_grad()
def test_a_folder_is_read_by_transformers_js(project, orl, tmp_path):
    torch.manual_seed(0)
    model = AutoModel.from_config(CASES["iresnet"][0]).eval()
    size = model.config.image_size
    image_processor = FaceImageProcessor(size={"height": size, "width": size}, image_mean=[0.4, 0.5, 0.6])
    crops = orl.select(range(0, 400, 25))
    export_onnx(model, image_processor, tmp_path / "model", crops, ["fp32", "fp16", "int8"], preprocessing=True)
    crops = [orl[row]["image"].convert("RGB").resize((size, size)) for row in (1, 11)]
    files = [str(tmp_path / f"{number}.png") for number in range(2)]
    for crop, file in zip(crops, files, strict=True):
        crop.save(file)
    Path(project, "embed.mjs").write_text(SCRIPT)
    command = ["node", "embed.mjs", str(tmp_path / "model"), *files]
    found = json.loads(subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE).stdout)
    expected = model(**image_processor(crops, return_tensors="pt")).pooler_output
    assert (expected[0] @ expected[1]) < 0.99  # or else anything would do
    assert list(found) == ["fp32", "fp16", "q8", "from pixels"]
    for dtype, embeddings in found.items():
        cosines = (torch.tensor(embeddings) * expected).sum(1)
        assert cosines.min() >= (0.99 if dtype == "q8" else 0.9999), dtype
