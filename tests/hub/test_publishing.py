"""`push_to_hub` against a Hub: what arrives, and that it arrives whole or not at all."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hub_store import ANSWER_LOST
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors.torch import load
from transformers import AutoImageProcessor, AutoModel

from hf_face import FaceRecognitionConfig, FaceRecognitionModel, IResNetConfig, IResNetModel
from hf_face.hub import FaceModelCardData, TrainingData, push_to_hub, write_model_folder


@pytest.fixture
def push(hub, backbone, image_processor, card, measurements, monkeypatch):
    """Push the session's backbone, measured once."""
    monkeypatch.setattr("hf_face.hub.model_card.measure_model", lambda model: measurements)

    def push(repo_id: str, model=backbone, **kwargs):
        return push_to_hub(model, repo_id, **{"card": card, "image_processor": image_processor, **kwargs})

    return push


@pytest.fixture
def main(hub):
    """The commit that `main` of a repository is at."""
    return lambda repo_id: hub.store.repos["model", repo_id].commit("main")


def nothing_was_sent(hub) -> bool:
    return all(request.method == "GET" for request in hub.store.requests)


def different(backbone: IResNetModel) -> IResNetModel:
    model = IResNetModel(backbone.config)
    torch.nn.init.normal_(next(model.parameters()))
    return model


def test_everything_arrives_in_one_commit(hub, push, main, card):
    before = len(hub.store.repos)
    info = push("org/complete")
    repo = hub.store.repos["model", "org/complete"]
    assert len(hub.store.repos) == before + 1
    assert [commit.title for commit in repo.history("main")] == ["Publish face recognition model", "initial commit"]
    assert info.oid == main("org/complete").oid
    assert main("org/complete").files.keys() == {
        ".gitattributes",
        "README.md",
        "alignment.py",
        "config.json",
        "configuration_face.py",
        "configuration_iresnet.py",
        "face_detection.py",
        "figures/orl_roc.png",
        "image_processing_face.py",
        "layers.py",
        "model.safetensors",
        "model_card.json",
        "modeling_face.py",
        "modeling_iresnet.py",
        "opencv_zoo.py",
        "pipeline_face_embedding.py",
        "pipeline_face_verification.py",
        "pixels.py",
        "preprocessor_config.json",
        "training_log.json",
    }
    assert json.loads(hub.store.read("org/complete", "training_log.json")) == card.log_history
    assert json.loads(hub.store.read("org/complete", "config.json"))["similarity_thresholds"] == {"1e-2": 0.3125}


def test_what_was_pushed_loads_from_the_hub(push, embeddings, faces):
    push("org/loads")
    model = AutoModel.from_pretrained("org/loads")
    image_processor = AutoImageProcessor.from_pretrained("org/loads")
    assert type(model) is IResNetModel  # hf_face is imported: no remote code
    with torch.inference_mode():
        assert torch.equal(model(**image_processor(faces, return_tensors="pt")).pooler_output, embeddings)


def test_a_second_push_sends_no_weights_again(hub, push, main):
    push("org/twice")
    weights = main("org/twice").files["model.safetensors"]
    assert weights.oid in {request.path.split("/")[-1] for request in hub.store.uploads()}
    hub.store.requests.clear()
    push("org/twice")
    assert hub.store.uploads() == []
    assert main("org/twice").files["model.safetensors"] == weights


def test_a_folder_is_pushed_under_another_name(hub, push, main, backbone, image_processor, card, tmp_path):
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    push_to_hub(folder, "org/from_folder")
    assert hub.store.read("org/from_folder", "model.safetensors") == (folder / "model.safetensors").read_bytes()
    readme = hub.store.read("org/from_folder", "README.md").decode()
    assert 'AutoModel.from_pretrained("org/from_folder")' in readme and '"run"' not in readme
    assert "figures/orl_roc.png" in main("org/from_folder").files


def test_private_branch_and_pull_request(hub, push, main, backbone):
    push("org/variants", private=True)
    assert hub.store.repos["model", "org/variants"].private
    head = main("org/variants").oid

    push("org/variants", different(backbone), revision="experiment", commit_message="On a branch")
    assert hub.store.repos["model", "org/variants"].commit("experiment").title == "On a branch"

    info = push("org/variants", different(backbone), create_pr=True, commit_message="A proposal")
    assert info.pr_revision == "refs/pr/1"
    assert hub.store.repos["model", "org/variants"].commit("refs/pr/1").title == "A proposal"
    assert main("org/variants").oid == head


def test_someone_without_write_access_can_open_a_pull_request(hub, push, backbone):
    push("org/public")
    info = push("org/public", different(backbone), token="hf_bob", create_pr=True)
    assert info.pr_num == 1 and "model.safetensors" in hub.store.repos["model", "org/public"].commit("refs/pr/1").files


def test_nothing_of_the_old_model_stays_beside_the_new_one(hub, push, main, card):
    push("org/changing")
    config = json.loads(hub.store.read("org/changing", "config.json"))
    config["auto_map"]["AutoModel"] = "modeling_old.OldModel"
    old = {"modeling_vit_face.py": b"", "modeling_old.py": b"", "config.json": json.dumps(config).encode()}
    own = {"app.py": b"the user's", "notes/figures.txt": b"the user's"}
    files = main("org/changing").files | {name: hub.store.keep(content) for name, content in (old | own).items()}
    files["model-00001-of-00002.safetensors"] = files["model.safetensors"]
    hub.store.repos["model", "org/changing"].add_commit("main", "by hand", files, main("org/changing").oid)
    assert {"figures/orl_roc.png", "training_log.json"} < files.keys()

    push("org/changing", card=dataclasses.replace(card, figures=[], log_history=[]))
    left = set(main("org/changing").files)
    assert {"app.py", "notes/figures.txt", "modeling_iresnet.py", "model.safetensors"} < left
    gone = {"modeling_vit_face.py", "modeling_old.py", "model-00001-of-00002.safetensors"}
    assert not left & (gone | {"figures/orl_roc.png", "training_log.json"})


def test_the_head_travels_only_when_asked_for(hub, push, main):
    backbone_config = IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16), stem_size=8, embedding_size=64)
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config=backbone_config, num_identities=10))
    push("org/with_head", model)
    assert "head.index.json" not in main("org/with_head").files
    push("org/with_head", model, include_head=True)
    head = load(hub.store.read("org/with_head", "head-00001-of-00001.safetensors"))
    assert torch.equal(head["weight"], model.head.weight)
    published = AutoModel.from_pretrained("org/with_head")
    assert type(published) is IResNetModel
    assert all(torch.equal(v, model.backbone.state_dict()[k]) for k, v in published.state_dict().items())


# What goes wrong on the way


@pytest.mark.parametrize("status", [None, 503], ids=["connection cut", "server error"])
def test_an_upload_that_fails_once_is_sent_again(hub, push, main, status):
    hub.store.fail("PUT", "/upload/", status)
    name = f"org/retried_{status}"
    push(name)
    assert "model.safetensors" in main(name).files


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/upload/", None),
        ("PUT", "/upload/", 500),
        ("POST", "/commit/main", 500),
        ("POST", "/commit/main", None),
    ],
)
def test_a_push_that_fails_leaves_the_previous_revision(hub, push, main, backbone, embeddings, method, path, status):
    name = f"org/broken_{method}_{status}"
    push(name)
    before = main(name)
    hub.store.fail(method, path, status, times=100)
    with pytest.raises(Exception) as failure:
        push(name, different(backbone))
    assert f"Nothing was published: {name} is still at {before.oid}" in failure.value.__notes__[0]
    assert main(name) == before
    hub.store.faults.clear()
    info = push(name, different(backbone))  # the same call again
    assert main(name).oid == info.oid != before.oid


@pytest.mark.parametrize("made", ["repository", "branch"])
@pytest.mark.parametrize(("method", "path"), [("PUT", "/upload/"), ("POST", "/commit/")])
def test_a_first_push_that_fails_leaves_nothing(hub, push, main, backbone, made, method, path):
    name = f"org/first_{made}_{method}"
    revision = None if made == "repository" else "dev"
    if made == "branch":
        push(name)
    hub.store.fail(method, path, 500, times=100)
    with pytest.raises(Exception) as failure:
        push(name, different(backbone), revision=revision)
    assert "Nothing was published" in failure.value.__notes__[0]
    hub.store.faults.clear()
    if made == "branch":
        assert hub.store.repos["model", name].refs == {"main": main(name).oid}
    else:
        assert ("model", name) not in hub.store.repos
    push(name, different(backbone), revision=revision)  # the same call again
    assert "model.safetensors" in hub.store.repos["model", name].commit(revision or "main").files


@pytest.mark.parametrize("new", [True, False])
def test_an_answer_that_is_lost_is_not_called_nothing(hub, push, main, backbone, new):
    """The commit arrived: what is on the Hub must not be taken away, and the user must hear of it."""
    name = f"org/lost_{new}"
    if not new:
        push(name)
    hub.store.fail("POST", "/commit/main", ANSWER_LOST, times=100)
    with pytest.raises(Exception) as failure:
        push(name, different(backbone))
    assert f"main of {name} has moved from" in failure.value.__notes__[0]
    assert main(name).oid in failure.value.__notes__[0] and "model.safetensors" in main(name).files


def test_a_hub_that_is_gone_is_not_said_to_be_as_it_was(hub, push, backbone):
    push("org/gone")
    hub.store.fail("POST", "/commit/main", 500, times=100)
    hub.store.fail("GET", "/refs", 500, times=100)
    with pytest.raises(HfHubHTTPError) as failure:
        push("org/gone", different(backbone))
    assert "its current state could not be determined" in failure.value.__notes__[0]


def test_a_change_by_someone_else_in_between_is_not_overwritten(hub, push, main, backbone, monkeypatch):
    push("org/contended")
    info = HfApi.model_info

    def model_info_then_someone_commits(api, *args, **kwargs):
        answer = info(api, *args, **kwargs)
        hub.store.repos["model", "org/contended"].add_commit("main", "someone", main("org/contended").files, answer.sha)
        return answer

    monkeypatch.setattr(HfApi, "model_info", model_info_then_someone_commits)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        push("org/contended", different(backbone))
    assert main("org/contended").title == "someone"


# What is refused


def test_nobody_logged_in(hub, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(LocalTokenNotFoundError, match="hf auth login"):
        push("org/nobody")
    assert ("model", "org/nobody") not in hub.store.repos


def test_wrong_token(hub, push):
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as error:
        push("org/wrong", token="hf_nonsense")
    assert error.value.response.status_code == 401
    assert ("model", "org/wrong") not in hub.store.repos


@pytest.mark.parametrize("exists", [False, True])
def test_no_permission(hub, push, exists):
    name = f"org/forbidden_{exists}"
    if exists:
        push(name)
    commits = dict(hub.store.repos["model", name].commits) if exists else None
    hub.store.requests.clear()
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        push(name, token="hf_bob")
    assert hub.store.uploads() == []
    assert commits == (hub.store.repos["model", name].commits if exists else None)
    assert exists or ("model", name) not in hub.store.repos


def test_a_repository_with_other_content(hub, push, main):
    api = HfApi()
    api.create_repo("org/bert")
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="org/bert")
    api.create_repo("org/notes")
    api.upload_file(path_or_fileobj=b"notes", path_in_repo="thesis/chapter.txt", repo_id="org/notes")
    with pytest.raises(ValueError, match="org/bert contains a model of type 'bert', not a face model"):
        push("org/bert")
    with pytest.raises(
        ValueError, match=r"org/notes contains files that do not belong to a model \(thesis/chapter.txt\)"
    ):
        push("org/notes")
    assert main("org/notes").files.keys() == {".gitattributes", "thesis/chapter.txt"}
    push("org/notes", overwrite=True)
    assert "thesis/chapter.txt" not in main("org/notes").files and "model.safetensors" in main("org/notes").files


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "preprocessor_config.json", "model_card.json"])
def test_an_incomplete_folder(hub, backbone, image_processor, card, tmp_path, missing):
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    (folder / missing).unlink()
    what = {
        "model.safetensors": "weights, expected model.safetensors",
        "preprocessor_config.json": r"image processor \(preprocessor_config.json\)",
    }
    with pytest.raises(FileNotFoundError, match=f"{folder} has no {what.get(missing, missing)}"):
        push_to_hub(folder, "org/incomplete")
    assert nothing_was_sent(hub)


def test_a_folder_that_is_not_a_face_model(hub, tmp_path, card, image_processor):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"contains a model of type 'bert', expected one of .*iresnet"):
        push_to_hub(tmp_path, "org/bert_folder", card=card, image_processor=image_processor)


def test_weights_that_do_not_fit_the_code(hub, backbone, image_processor, card, tmp_path):
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"depths": [1, 1, 1, 2], "embedding_size": 32}))
    with pytest.raises(ValueError, match=r"do not fit IResNetModel .*\d+ missing \(.*\d+ of another shape \("):
        push_to_hub(folder, "org/misfit")
    assert nothing_was_sent(hub)


def test_code_that_answers_something_else(hub, push, backbone, monkeypatch):
    """Code published from a changed class, as in a notebook: the file beside the weights does not know the change."""

    def doubled(self, pixel_values, **kwargs):
        return forward(self, pixel_values.flip(-1), **kwargs)

    forward = IResNetModel.forward
    monkeypatch.setattr(IResNetModel, "forward", doubled)
    with pytest.raises(ValueError, match="differs from IResNetModel with the same weights"):
        push("org/changed")
    assert nothing_was_sent(hub)


def test_no_card_no_processor_no_license(hub, push, card):
    with pytest.raises(ValueError, match="requires a card"):
        push("org/bare", card=None)
    with pytest.raises(ValueError, match="requires its image processor"):
        push("org/bare", image_processor=None)
    with pytest.raises(ValueError, match="State the license of the weights"):
        push("org/bare", card=FaceModelCardData(license="", training_data=card.training_data))
    with pytest.raises(ValueError, match="State what the weights were trained on"):
        push("org/bare", card=FaceModelCardData(license="mit", training_data=[]))
    with pytest.raises(ValueError, match="State the license or terms of the training data 'WebFace'"):
        push("org/bare", card=FaceModelCardData(license="mit", training_data=[TrainingData("WebFace", "")]))
    with pytest.raises(ValueError, match="IResNetModel has no head"):
        push("org/bare", include_head=True)
    with pytest.raises(ValueError, match="Repo id must be in the form 'repo_name' or 'namespace/repo_name': 'org/a/b'"):
        push("org/a/b")
    with pytest.raises(ValueError, match="create_pr=True or revision='dev', not both"):
        push("org/bare", create_pr=True, revision="dev")
    assert nothing_was_sent(hub)


def test_loading_what_is_not_there(hub):
    with pytest.raises(OSError, match="org/missing is not a local folder and is not a valid model identifier"):
        AutoModel.from_pretrained("org/missing")


def test_an_interrupted_download_goes_on_where_it_stopped(hub, push, main, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    push("org/resumed")
    weights = main("org/resumed").files["model.safetensors"]
    half = weights.size // 2 // 1000 * 1000  # whole chunks that were written before the connection broke
    hub.store.fail("GET", f"/storage/{weights.oid}", None)
    folder = Path(snapshot_download("org/resumed", allow_patterns="*.safetensors"))
    assert [request.range for request in hub.store.requests if request.range] == [f"bytes={half}-"]
    assert (folder / "model.safetensors").read_bytes() == hub.store.blob(weights.oid).read_bytes()
