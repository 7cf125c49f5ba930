import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value

from hf_face import FaceImageProcessor
from hf_face.data import UndecodableImageError
from hf_face.embedding import Embedder, Embeddings, embed_images, embedder
from hf_face.evaluation import VerificationEvaluator


def raw_embeddings(model, images, image_processor, flip=False) -> np.ndarray:
    """One image at a time through the image processor, as a user would."""
    rows = []
    for image in images["image"]:
        pixels = image_processor(image.convert("RGB"), return_tensors="pt").pixel_values
        output = model(pixels.flip(-1) if flip else pixels)
        rows.append(output.pooler_output * output.norm)
    return torch.cat(rows).detach().numpy()


@pytest.fixture
def faces(orl_pairs) -> Dataset:
    return orl_pairs.images.select(range(10))


def test_embeddings_come_in_the_order_of_the_images_whatever_the_batch(model, faces, image_processor):
    expected = raw_embeddings(model, faces, image_processor)
    for batch_size in (3, 10, 128):
        embeddings = embed_images(model, faces, image_processor, batch_size, flip=None)
        np.testing.assert_allclose(embeddings.original, expected, atol=1e-5)
        assert embeddings.flipped is None
    np.testing.assert_allclose(embeddings.norms, np.linalg.norm(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"channel_order": "bgr", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [128.0] * 3},
        {"do_normalize": False},
    ],
)
def test_preprocessing_is_the_image_processors(model, settings):
    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 112, 112, 3), dtype=np.uint8) // [1, 2, 4]  # reddish
    images = Dataset.from_dict({"image": list(pixels.astype(np.uint8))}, features=Features({"image": Image()}))
    image_processor = FaceImageProcessor(**settings)
    embeddings = embed_images(model, images, image_processor, flip=None)
    np.testing.assert_allclose(
        embeddings.original, raw_embeddings(model, images, image_processor), rtol=1e-4, atol=1e-4
    )


def test_flip_joins_raw_embeddings_then_normalizes(model, faces, image_processor):
    original = raw_embeddings(model, faces, image_processor)
    flipped = raw_embeddings(model, faces, image_processor, flip=True)
    for flip, fused in {
        "sum": original + flipped,
        "concat": np.concatenate([original, flipped], axis=1),
        None: original,
    }.items():
        embeddings = embed_images(model, faces, image_processor, flip=flip).embeddings
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, fused / np.linalg.norm(fused, axis=1, keepdims=True), atol=1e-5)


def test_images_are_embedded_once_for_all_protocols(model, orl_pairs, image_processor):
    embedder = Embedder(model, image_processor, batch_size=40)
    VerificationEvaluator(orl_pairs).evaluate(embedder)
    assert model.num_calls == 2  # forty images and their flipped images
    VerificationEvaluator(orl_pairs, flip="concat").evaluate(embedder)
    VerificationEvaluator(orl_pairs, flip=None).evaluate(embedder)
    assert model.num_calls == 2


def test_model_is_evaluated_and_left_as_it_was_found(model, faces, image_processor):
    model.train()
    model.norm.eval()  # a frozen layer
    statistics = model.norm.running_mean.clone()
    embed_images(model, faces, image_processor)
    assert model.training and model.projection.training
    assert not model.norm.training
    assert torch.equal(model.norm.running_mean, statistics)


def test_autocast_lowers_the_precision_of_the_forward_pass_only(model, faces, image_processor):
    exact = embed_images(model, faces, image_processor).embeddings
    rough = embed_images(model, faces, image_processor, dtype=torch.bfloat16).embeddings
    assert 1e-5 < np.abs(rough - exact).max() < 2e-2
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-6)


def test_flip_without_mirror_images_is_refused(model, faces, image_processor):
    with pytest.raises(ValueError, match="flip='sum' requires the embeddings of flipped images"):
        Embedder(model, image_processor, flip=False)(faces, flip="sum")
    with pytest.raises(ValueError, match="flip must be 'sum', 'concat' or None, found 'mean'"):
        Embeddings(np.ones((1, 2)), np.ones((1, 2)), flip="mean")


def test_undecodable_image_is_named(model, faces, image_processor):
    encoded = faces.cast_column("image", Image(decode=False))["image"][:3]
    encoded[2] = {"bytes": b"no image", "path": None}
    features = Features({"image": Image(), "name": Value("string")})
    broken = Dataset.from_dict({"image": encoded, "name": list("abc")}, features=features)
    with pytest.raises(UndecodableImageError, match=r"image in row 2: .* 8 bytes"):
        embed_images(model, broken, image_processor)


class OneOfTwoRanks:
    """`torch.distributed` as seen by one of two ranks, with given data from the other."""

    def __init__(self, rank: int, received: torch.Tensor | None = None):
        self.rank, self.received, self.sent = rank, received, None

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.rank

    def get_world_size(self):
        return 2

    def all_gather(self, shares, share):
        self.sent = share.clone()
        shares[self.rank].copy_(share)
        shares[1 - self.rank].copy_(share if self.received is None else self.received)


@pytest.mark.parametrize("batch_size", [3, 4, 5, 64])  # 4, 3, 2 and 1 batches of ten images
def test_ranks_share_the_batches_and_receive_all_embeddings(model, faces, image_processor, batch_size, monkeypatch):
    alone = embed_images(model, faces, image_processor, batch_size)
    calls = model.num_calls
    first = OneOfTwoRanks(0)
    monkeypatch.setattr(embedder, "dist", first)
    embed_images(model, faces, image_processor, batch_size)
    num_batches = -(-10 // batch_size)
    assert model.num_calls - calls == 2 * -(-num_batches // 2)  # half of them, with the flipped images
    monkeypatch.setattr(embedder, "dist", OneOfTwoRanks(1, first.sent))
    together = embed_images(model, faces, image_processor, batch_size)
    assert np.array_equal(together.original, alone.original)
    assert np.array_equal(together.flipped, alone.flipped)


def test_the_batch_size_depends_on_the_device(model, image_processor):
    assert Embedder(model, image_processor).batch_size == 16
    assert Embedder(model.to("meta"), image_processor).batch_size == 128
    assert Embedder(model, image_processor, batch_size=5).batch_size == 5
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, found {wrong}"):
            Embedder(model, image_processor, batch_size=wrong)


def test_no_images(model, image_processor, faces):
    with pytest.raises(ValueError, match="there are no images to embed"):
        Embedder(model, image_processor)(faces.select([]))


def test_rows_of_a_dataset_are_named_as_in_it(model, image_processor):
    images = Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}] * 30}).cast_column("image", Image())
    with pytest.raises(UndecodableImageError, match="image in row 20: "):
        list(Embedder(model, image_processor, progress=False).embed_parts(images, [range(20, 25)]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_parts_are_embedded_in_one_pass(model, faces, image_processor, num_workers):
    embedder = Embedder(model, image_processor, batch_size=2, num_workers=num_workers, progress=False)
    parts = [range(0, 3), range(5, 10)]
    embedded = []
    for part in embedder.embed_parts(faces, parts):
        assert torch.is_grad_enabled()  # not in the middle of something
        embedded.append(part.original)
    expected = embedder.embed(faces).original
    assert [len(part) for part in embedded] == [3, 5]
    np.testing.assert_allclose(np.concatenate(embedded), expected[[0, 1, 2, 5, 6, 7, 8, 9]], atol=1e-5)
