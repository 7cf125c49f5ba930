import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "show_demo.py"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: output_dir"),
        (["outputs/dmo"], "no such file or folder: outputs/dmo. Did you mean 'outputs/demo'?"),
        (["outputs/demo"], "outputs/demo has no config.json: it is not a model folder."),
    ],
)
def test_a_folder_that_is_not_the_demo_s(monkeypatch, capsys, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    Path("outputs/demo").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"show_demo.py: error: {expected}\n")
