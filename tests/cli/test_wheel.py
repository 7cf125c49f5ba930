"""The wheel alone, installed into an environment of its own, works in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it, which borrows all other packages from the one of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout, wheels, environment = folder / "checkout", folder / "wheels", folder / "environment"
    checkout.mkdir()
    for name in ("hf_face", "recipes"):  # copies, since building leaves files beside the sources
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, checkout / name)
    # with the setuptools that is here (the extra dev has it), where isolation would download one
    run([*PIP, "wheel", checkout, "--no-deps", "--no-build-isolation", "--wheel-dir", wheels])
    run([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    run([*PIP, "--python", python, "install", "--no-deps", *wheels.glob("hf_face-*.whl")])
    # Paths in a .pth file are looked through, and not for .pth files of their own: an editable hf_face is not there.
    purelib = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(purelib, "borrowed.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    shutil.rmtree(checkout)
    return environment


def run(command: list, cwd: Path | None = None) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_lists_trains_and_embeds_in_an_empty_folder(environment, orl, tmp_path):
    hf_face = environment / "bin" / "hf-face"
    work = tmp_path / "empty"
    work.mkdir()
    home = Path(run([environment / "bin" / "python", "-c", "import hf_face; print(hf_face.__file__)"], work).strip())
    assert home.is_relative_to(environment)
    assert "  train     Train a face model from a recipe" in run([hf_face, "--help"], work)
    for name in ("multi_gpu.yaml", "slurm.sh"):
        assert (home.parent / "recipes" / "accelerate" / name).is_file()

    options = "--max_steps 1 --save_strategy no --eval_strategy no --report_to none --use_cpu true --output_dir out"
    run([hf_face, "train", "demo/orl", *options.split()], work)
    assert (work / "out" / "README.md").is_file()  # by the template of the card, which lies in the wheel too
    (work / "faces").mkdir()
    for row in range(3):
        orl[row]["image"].save(work / "faces" / f"{row}.png")
    said = run([hf_face, "embed", "--model", "out", "--images", "faces", "--output", "faces.parquet"], work)
    assert said == "3 images embedded into faces.parquet\n"
    assert pq.read_table(work / "faces.parquet").num_rows == 3
