"""Fixtures every test file may ask for."""

import gc
import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_face import FaceImageProcessor, registry
from hf_face.data import VerificationPairs, load_orl, make_verification_pairs, split_identities
from hf_face.models import FAMILIES
from hf_face.models.modeling_face import face_embedding_output

SHARED = ("", "hub", "faults", "training")  # folders with modules that tests import
sys.path[:0] = [str(Path(__file__).parent / name) for name in SHARED]

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_collection():
    gc.disable()  # imports leave no garbage


def pytest_terminal_summary(terminalreporter):
    """Print what tests recorded as `record_property("row", {column: cell})`, a table for each file."""
    tables: dict[str, list[dict[str, str]]] = {}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        rows = [value for name, value in report.user_properties if name == "row"]
        tables.setdefault(report.nodeid.partition("::")[0], []).extend(rows)
    for file, rows in tables.items():
        if rows:
            terminalreporter.section(file)
            lines = [list(rows[0]), *([row[column] for column in rows[0]] for row in rows)]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            for line in lines:
                terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


@pytest.fixture(scope="session", autouse=True)
def imports_stay():
    """The garbage collector, which every training calls, need not look through what has been imported."""
    gc.freeze()
    gc.enable()
    yield
    gc.unfreeze()


@pytest.fixture
def no_waiting_for_workers():
    """Ends the data workers that an error has left: torch waits for each of them for five seconds."""
    yield
    for worker in multiprocessing.active_children():
        worker.terminate()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The small reference files that travel with the tests."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and weights that lie beside a developer's checkout and do not travel with it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the photographs and weights in {folder} are not here")
    return folder


@pytest.fixture(scope="module")
def registries_as_before():
    """Leaves what tests register out of the sight of other files' tests, which speak of all that is registered."""
    before = [set(kind) for kind in registry.REGISTRIES]
    families = dict(FAMILIES)
    yield
    for kind, names in zip(registry.REGISTRIES, before, strict=True):
        for name in set(kind) - names:
            del kind._entries[name]
    for added in set(FAMILIES) - set(families):
        del FAMILIES[added]


class PixelModel(nn.Module):
    """A face model that takes no time: a random projection of the shrunken image. Counts its forward passes."""

    def __init__(self, embedding_size: int = 16):
        super().__init__()
        torch.manual_seed(0)
        self.pool = nn.AdaptiveAvgPool2d(8)
        self.norm = nn.BatchNorm2d(3)
        self.projection = nn.Linear(3 * 8 * 8, embedding_size)
        self.num_calls = 0

    def forward(self, pixel_values):
        self.num_calls += 1
        return face_embedding_output(self.projection(self.norm(self.pool(pixel_values)).flatten(1)))


@pytest.fixture
def model() -> PixelModel:
    return PixelModel().eval()


@pytest.fixture
def image_processor() -> FaceImageProcessor:
    return FaceImageProcessor()


@pytest.fixture(scope="session")
def orl() -> Dataset:
    return load_orl()


@pytest.fixture(scope="session")
def orl_pairs(orl) -> VerificationPairs:
    """All genuine pairs of four people's ten photographs each, 180, and as many impostor pairs."""
    return make_verification_pairs(split_identities(orl, num_held_out=4, seed=0)[1], name="orl")


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory):
    from hub_server import HubServer

    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="session")
def strangers(hub_server, tmp_path_factory):
    """Programs that have transformers, and are `alice` on the local Hub."""
    from strangers import Strangers

    auto = "transformers.models.auto"
    libraries = ["timm", f"{auto}.modeling_auto", f"{auto}.image_processing_auto", "transformers.pipelines"]
    environment = {
        "HF_ENDPOINT": hub_server.url,
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": hub_server.token,
        "TRANSFORMERS_OFFLINE": "0",
    }
    strangers = Strangers(libraries, **environment)
    yield strangers
    strangers.end()


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The local Hub, as `alice`, for the real clients of this process; downloads go to an empty cache."""
    import datasets.config
    import huggingface_hub.constants as constants
    import transformers.utils.hub

    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub_server.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it remembers the endpoint it was made with
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub_server.url)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # retries without waiting
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    hub_server.store.requests.clear()
    hub_server.store.faults.clear()
    return hub_server
