"""The app as a Space: app.py starts it, the card says how."""

import runpy

import gradio
import pytest
from huggingface_hub import SpaceCard

from hf_face.app import push_app
from hf_face.app.space import space_files


def test_the_space_starts_the_page_of_the_model_it_names(app_model, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda page, **options: pages.append((page, options)))
    (tmp_path / "app.py").write_text(space_files(str(app_model))["app.py"])
    runpy.run_path(str(tmp_path / "app.py"), run_name="__main__")
    ((page, options),) = pages
    assert options == {}  # the Space's environment says where it listens
    assert page.title == "Faces in photographs" and not page.analytics_enabled


def test_it_is_published_with_a_card_of_a_gradio_space(hub):
    push_app("org/faces", model="org/model")
    read = {name: hub.store.read("org/faces", name, repo_type="space").decode() for name in space_files()}
    card = SpaceCard(read["README.md"]).data
    assert (card.sdk, card.sdk_version, card.app_file) == ("gradio", gradio.__version__, "app.py")
    assert card.models == ["org/model"] and "datasets" not in card.to_dict()
    assert "hf_face[app" in read["requirements.txt"] and "'org/model'" in read["app.py"]


def test_what_is_on_this_machine_only_is_not_published(app_model, hub):
    with pytest.raises(ValueError, match="is on this machine, where a Space cannot read it: push it first"):
        push_app("org/refused", model=str(app_model))
    assert ("space", "org/refused") not in hub.store.repos
