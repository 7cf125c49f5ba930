"""A token is in nothing that a run writes or prints."""

import dataclasses
import pickle

import pytest

from hf_face.training import FaceTrainingArguments

TOKEN = "hf_NotToBeSeenByAnyone"


@pytest.fixture
def logged(caplog):
    caplog.set_level("DEBUG")
    return caplog


def test_no_file_of_a_run_has_the_token(make_trainer, tmp_path, logged, capfd):
    trainer = make_trainer(
        hub_token=TOKEN, max_steps=2, save_strategy="steps", save_steps=1, report_to="tensorboard", log_level="debug"
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.bin", "trainer_state.json"} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in logged.text and TOKEN not in "".join(capfd.readouterr())
    assert trainer.args.hub_token == TOKEN, "it is still there for the pushes"


def test_no_text_or_pickle_of_the_arguments_has_the_token(tmp_path):
    args = FaceTrainingArguments(str(tmp_path), hub_token=TOKEN, report_to="none", use_cpu=True, learning_rate=0.123)
    for text in (repr(args), str(args), f"{args}", args.to_json_string(), str(args.to_dict())):
        assert TOKEN not in text and "0.123" in text
    assert TOKEN.encode() not in pickle.dumps(args)
    loaded = pickle.loads(pickle.dumps(args))
    assert loaded.hub_token is None and loaded.learning_rate == 0.123
    assert dataclasses.replace(args, seed=1).hub_token == TOKEN
