import numpy as np
import pytest
import torch

from hf_face.evaluation.templates import image_weights, pair_scores, pool_templates


def test_template_is_sum_over_medias_of_mean_over_images():
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    pooled = pool_templates(features, templates=[9, 9, 9, 2], medias=[1, 1, 7, 1])
    assert pooled.ids.tolist() == [2, 9]
    expected = torch.tensor([[1.0, 1.0], [3.0, 1.0]]) / torch.tensor([[2.0], [10.0]]).sqrt()
    torch.testing.assert_close(pooled.features, expected)


def test_weights_are_norm_switch_times_detector_score():
    features = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(image_weights(features), torch.ones(2))
    torch.testing.assert_close(image_weights(features, norm_score=False), torch.tensor([0.2, 0.5]))
    torch.testing.assert_close(image_weights(features, [0.5, 0.1], norm_score=False), torch.tensor([0.1, 0.05]))


def test_template_without_images_is_named():
    pooled = pool_templates(torch.eye(2), [3, 8], [0, 0])
    assert pooled.rows([8, 3, 8], "list").tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"probes\.csv: entry 2 refers to template 5, which has no images"):
        pooled.rows([8, 5], "probes.csv")
    with pytest.raises(ValueError, match="refers to template 99"):
        pooled.rows([99], "probes.csv")


def test_a_media_is_told_by_its_number_and_its_template():
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [6.0, 0.0], [0.0, 2.0]])
    pooled = pool_templates(features, templates=[0, 0, 0, 2, 2], medias=[1, 1, 0, 0, 1])
    expected = torch.tensor([[3.0, 1.0], [6.0, 2.0]]) / torch.tensor([[10.0], [40.0]]).sqrt()
    torch.testing.assert_close(pooled.features, expected)


@pytest.mark.parametrize("missing", [-20, 2, 5, 9, 20])
def test_missing_templates_are_named_wherever_they_lie(missing):
    pooled = pool_templates(torch.eye(3), [3, 8, 4], [0, 0, 0])
    assert pooled.rows([8, 3, 4, 3, 8, 8], "pairs").tolist() == [2, 0, 1, 0, 2, 2]
    with pytest.raises(ValueError, match=f"pairs: entry 4 refers to template {missing}, .*1 of 6 entries"):
        pooled.rows([8, 3, 4, missing, 8, 8], "pairs")


def test_feature_that_is_not_finite_is_named():
    features = torch.tensor([[1.0], [float("nan")], [2.0]])
    with pytest.raises(ValueError, match="template 40: the features of its images are not finite"):
        pool_templates(features, [30, 40, 50], [0, 0, 0])


def test_one_id_per_image():
    with pytest.raises(ValueError, match="2 features, 3 template ids and 2 media ids"):
        pool_templates(torch.eye(2), [1, 2, 3], [0, 0])


@pytest.mark.parametrize(("num_pairs", "block_size"), [(4000, 2**24), (4000, 700), (4000, 1), (30, 2**24)])
def test_pair_scores_are_dot_products_whatever_the_way(num_pairs, block_size):
    """Many pairs are read off the grid, in one block or several; few are gathered."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((150, 8)))
    rows_a, rows_b = rng.integers(0, 100, num_pairs), rng.integers(50, 150, num_pairs)
    expected = (features[rows_a] * features[rows_b]).sum(1).numpy()
    np.testing.assert_allclose(pair_scores(features, rows_a, rows_b, block_size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("num_pairs", "way"), [(12, "_grid_scores"), (11, "_gathered_scores")])
def test_the_grid_is_computed_where_one_in_64_of_its_entries_is_used(monkeypatch, num_pairs, way):
    """Eight rows lead and half of the grid of 96 is needed: 8 * 96 / 64 = 12."""
    for name in ("_grid_scores", "_gathered_scores"):
        monkeypatch.setattr(f"hf_face.evaluation.templates.{name}", lambda *_, name=name: name)
    rows_a, rows_b = np.arange(num_pairs) % 8, np.arange(num_pairs) + 20
    assert pair_scores(torch.eye(96), rows_a, rows_b) == way


def test_blocks_of_the_grid_with_one_pair_or_none():
    """A row of the grid a block; of the rows that lead, the second has no pair to its right and the third has one."""
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    rows_a, rows_b = np.array([0, 3, 4]), np.array([3, 0, 1])
    expected = (features[rows_a] * features[rows_b]).sum(1)
    np.testing.assert_allclose(pair_scores(features, rows_a, rows_b, block_size=5), expected, rtol=1e-5)
