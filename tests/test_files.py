"""What a folder refers to lies inside it."""

import pytest

from hf_face.files import file_inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"not ours")
    (tmp_path / "folder" / "figures").mkdir(parents=True)
    (tmp_path / "folder" / "figures" / "roc.png").write_bytes(b"ours")
    return tmp_path / "folder"


def test_a_file_inside_is_its_path(folder):
    assert file_inside(folder, "figures/roc.png") == folder / "figures" / "roc.png"
    assert file_inside(folder, "figures/../figures/roc.png").read_bytes() == b"ours"
    (folder / "link.png").symlink_to("figures/roc.png")
    assert file_inside(folder, "link.png").read_bytes() == b"ours"


def test_a_file_elsewhere_is_refused_however_it_is_named(folder, tmp_path):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "linked/secret.png", "../folder2/x.png"):
        with pytest.raises(ValueError, match="folder refers to a file outside it"):
            file_inside(folder, name)


def test_the_cache_of_the_hub_links_to_the_files_of_its_repository(tmp_path):
    for repository in ("models--a--b", "models--c--d"):
        snapshot = tmp_path / repository / "snapshots" / "0f"
        snapshot.mkdir(parents=True)
        (tmp_path / repository / "blobs").mkdir()
        (tmp_path / repository / "blobs" / "1e").write_bytes(b"")
        (snapshot / "model.safetensors").symlink_to("../../blobs/1e")
    assert file_inside(snapshot, "model.safetensors").is_file()
    with pytest.raises(ValueError, match="outside"):
        file_inside(snapshot, "../../../models--a--b/blobs/1e")
