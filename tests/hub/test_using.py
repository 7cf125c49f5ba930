"""Using what was published: in processes of their own, with and without hf_face, and through the pipeline."""

import copy
import re

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_face.hub import push_to_hub
from hf_face.models.loading import load_image_processor

REPO = "org/used"


@pytest.fixture
def published(hub, backbone, image_processor, card, tmp_path, faces):
    """A repository with the session's backbone, and the two crops as files in the working folder."""
    push_to_hub(backbone, REPO, card=card, image_processor=image_processor)
    for name, face in zip(("first.png", "second.png"), faces, strict=True):
        face.save(tmp_path / name)
    return REPO


WITH_AUTO_CLASSES = """
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModel
from transformers.image_utils import load_image
model = AutoModel.from_pretrained("{repo}"{trust})
processor = AutoImageProcessor.from_pretrained("{repo}"{trust})
with torch.inference_mode():
    faces = model(**processor([load_image("first.png"), load_image("second.png")], return_tensors="pt"))
np.save("{name}.npy", faces.pooler_output)
print(type(model).__module__)
"""
WITH_PIPELINE = """
import numpy as np
from transformers import pipeline
embed = pipeline("image-feature-extraction", model="{repo}"{trust})
np.save("{name}.npy", np.concatenate(embed(["first.png", "second.png"], batch_size=2)))
print(type(embed.model).__module__)
"""
TRUST = ", trust_remote_code=True"


def test_three_processes_give_the_same_embeddings(published, strangers, embeddings, tmp_path):
    """In each of them one of the card's code samples runs as well."""
    samples = re.findall(
        r"```python\n(.*?)```", ModelCard.load(published).text.replace(".jpg", ".png"), flags=re.DOTALL
    )
    through_pipeline, through_auto_classes, with_hf_face = samples
    programs = {
        "installed": ("import hf_face" + WITH_AUTO_CLASSES, "", with_hf_face + "print(threshold)", True),
        "remote_code": (WITH_AUTO_CLASSES, TRUST, through_auto_classes, False),
        "pipeline": (WITH_PIPELINE, TRUST, through_pipeline, False),
    }

    def run(name: str) -> list[str]:
        code, trust, sample, hf_face = programs[name]
        program = code.format(repo=published, trust=trust, name=name) + sample
        return strangers.run(program, tmp_path, hf_face=hf_face).splitlines()

    printed = {name: run(name) for name in programs}
    found = {name: np.load(tmp_path / f"{name}.npy") for name in programs}
    assert np.array_equal(found["installed"], found["remote_code"])
    assert np.array_equal(found["installed"], found["pipeline"])
    np.testing.assert_allclose(found["installed"], embeddings, atol=1e-6)

    assert printed["installed"] == ["hf_face.models.modeling_iresnet", "0.3125"]
    for name in ("remote_code", "pipeline"):
        assert re.fullmatch(r"transformers_modules\.org\.used\.\w+\.modeling_iresnet", printed[name][0])
    similarity = float(embeddings[0] @ embeddings[1])
    assert printed["pipeline"][1] == f"cosine similarity {similarity:.3f}"
    assert f"{similarity:.4f}" in printed["remote_code"][1]


def test_why_there_is_no_image_processor(hub, published, backbone, tmp_path):
    assert load_image_processor(published).size["height"] == 112
    HfApi().delete_file("preprocessor_config.json", published)
    backbone.save_pretrained(tmp_path / "bare")
    for name in (published, tmp_path / "bare"):
        with pytest.raises(FileNotFoundError, match="has no image processor"):
            load_image_processor(name)
    with pytest.raises(OSError, match="is not a local folder and is not a valid model identifier"):
        load_image_processor("org/nowhere")
    hub.store.fail("GET", "/resolve/", 500, times=1000)
    hub.store.fail("HEAD", "/resolve/", 500, times=1000)
    with pytest.raises(OSError) as failure:
        load_image_processor(published)
    assert not isinstance(failure.value, FileNotFoundError)


@pytest.fixture
def embed(published):
    return pipeline("image-feature-extraction", model=published)


def close(found, expected: torch.Tensor) -> bool:
    return torch.allclose(torch.as_tensor(found), expected, atol=1e-6)


def test_pipeline_inputs(embed, hub, embeddings, faces, tmp_path):
    first, second = str(tmp_path / "first.png"), str(tmp_path / "second.png")
    assert close(embed(faces[0]), embeddings[:1]), "an image"
    assert close(embed(faces), embeddings[:, None]), "a list of images"
    assert close(embed([first, second]), embeddings[:, None]), "paths"
    assert close(list(embed(face for face in faces)), embeddings[:, None]), "a generator"
    assert close(embed(faces * 2, batch_size=3), embeddings.repeat(2, 1)[:, None]), "batches"
    dataset = datasets.Dataset.from_dict({"image": faces, "label": [0, 1]}).cast_column("image", datasets.Image())
    assert close(list(embed(KeyDataset(dataset, "image"), batch_size=2)), embeddings[:, None]), "a data set"

    HfApi().upload_file(path_or_fileobj=first, path_in_repo="first.png", repo_id=REPO)
    assert close(embed(f"{hub.url}/{REPO}/resolve/main/first.png"), embeddings[:1]), "a URL"


def test_pipeline_outputs(embed, embeddings, faces):
    assert close(embed(faces[0], pool=True), embeddings[:1])
    tensor = embed(faces[0], pool=True, return_tensors=True)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (1, 64)
    assert isinstance(embed(faces[0])[0][0], float)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pipeline_in_half_precision(published, faces, image_processor, backbone, dtype):
    embed = pipeline("image-feature-extraction", model=published, dtype=dtype, device="cpu")
    plain = copy.deepcopy(backbone).to(dtype)
    with torch.inference_mode():
        expected = plain(image_processor(faces[0], return_tensors="pt").pixel_values.to(dtype)).pooler_output
    found = embed(faces[0], return_tensors=True)
    assert embed.model.dtype == dtype and found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.allclose(found.norm(), torch.tensor(1.0), atol=1e-6)


def test_a_lora_adapter_is_pushed_and_loaded(published, image_processor, faces, embeddings):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=r"stages.*convolution\d", init_lora_weights=False)
    adapted = get_peft_model(AutoModel.from_pretrained(published), config).eval()
    pixel_values = image_processor(faces, return_tensors="pt").pixel_values
    with torch.inference_mode():
        expected = adapted(pixel_values).pooler_output
    assert not torch.allclose(expected, embeddings, atol=1e-3), "the adapter must change something"
    adapted.push_to_hub("org/adapter")

    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(published), "org/adapter").eval()
    with torch.inference_mode():
        assert torch.allclose(loaded(pixel_values).pooler_output, expected, atol=1e-6)
