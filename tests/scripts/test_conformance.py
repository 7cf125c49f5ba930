"""What `make conformance` does besides running transformers' tests, which it downloads."""

import io
import runpy
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "scripts" / "conformance.py"))


@pytest.fixture(scope="module")
def not_applicable() -> tuple:
    return runpy.run_path(str(ROOT / "tests" / "conformance" / "not_applicable.py"))["NOT_APPLICABLE"]


def test_only_the_common_tests_are_unpacked(script, tmp_path):
    archive = tmp_path / "transformers-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("tests/test_a.py", "tests/models/test_b.py", "tests/data.json", "setup.py", "src/tests/test_c.py"):
            tar.addfile(tarfile.TarInfo(f"transformers-1.0/{name}"), io.BytesIO())
    script["unpack_tests"](archive, tmp_path / "unpacked")
    package = tmp_path / "unpacked" / "transformers_tests"
    assert {path.name for path in package.iterdir()} == {"__init__.py", "test_a.py"}


def test_an_archive_in_the_cache_is_not_downloaded_again(script, tmp_path):
    archive = tmp_path / "transformers-1.0.tar.gz"
    archive.touch()
    assert script["download_archive"]("1.0", tmp_path) == archive


@pytest.mark.parametrize(
    ("model", "test", "reason"),
    [
        ("IresnetTest", "test_save_load", None),
        ("IresnetTest", "test_model_get_set_embeddings", "no tokens"),
        ("RecognitionIresnetTest", "test_correct_missing_keys", "from_backbone"),
        ("RecognitionTimmFaceVitTest", "test_training_gradient_checkpointing_use_reentrant_true", "its own layers"),
        ("PipelineIResNetTest", "test_pipeline_image_feature_extraction_fp16", None),
        ("PipelineIResNetTest", "test_pipeline_image_classification", "another task"),
        ("PipelineIResNetTest", "test_pipeline_fill_mask", "another task"),
    ],
)
def test_what_does_not_apply_has_a_reason(script, not_applicable, model, test, reason):
    found = script["Table"](not_applicable).reason(model, test)
    assert reason in found if reason else found is None


def report(test: str, outcome: str, when: str = "call") -> SimpleNamespace:
    nodeid = f"tests/conformance/families.py::IresnetTest::{test}"
    return SimpleNamespace(
        nodeid=nodeid, when=when, failed=outcome == "failed", skipped=outcome == "skipped", passed=outcome == "passed"
    )


def test_a_test_counts_once_and_as_failed_if_any_part_failed(script):
    table = script["Table"](())
    for each in (
        report("test_a", "passed", "setup"),
        report("test_a", "passed"),
        report("test_b", "passed"),  # a subtest
        report("test_b", "failed"),
        report("test_b", "passed"),
        report("test_c", "skipped"),
        report("test_c", "passed", "teardown"),
        report("test_d", "failed", "setup"),
    ):
        table.pytest_runtest_logreport(each)
    assert str(table).splitlines()[2:] == ["| Iresnet | 1 | 1 | 0 | 2 |", "| all | 1 | 1 | 0 | 2 |"]
