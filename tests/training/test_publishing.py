"""What a run publishes when, and what it says of pushes that fail."""

from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_face.hub import FaceModelCardData, TrainingData
from hf_face.training import publishing
from hf_face.training.publishing import Publisher, check_card

CARD = FaceModelCardData(license="mit", training_data=[TrainingData("ORL", "free for research")])


def done(error: Exception | None = None) -> Future:
    job: Future = Future()
    job.set_result(None) if error is None else job.set_exception(error)
    return job


@pytest.fixture
def make(monkeypatch, tmp_path):
    """`make(**settings)`: a publisher, whose calls of others are in `calls`."""
    calls: list = []

    def note(name, result=None):
        return lambda *given, **named: calls.append((name, *given, *named.values())) or result

    def save(folder=None):
        calls.append(("save", folder))
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)

    def make(jobs=(), card=CARD, first=True, hub_model_id=None, **settings) -> Publisher:
        defaults = {
            "output_dir": str(tmp_path / "a_run"),
            "hub_model_id": None,
            "hub_token": "its own",
            "hub_private_repo": True,
            "hub_revision": None,
            "hub_strategy": HubStrategy.EVERY_SAVE,
            "hub_always_push": False,
            "load_best_model_at_end": True,
            "should_save": True,
        }
        trainer = SimpleNamespace(
            args=SimpleNamespace(**defaults | settings),
            state=SimpleNamespace(global_step=3),
            control=None,
            hub_model_id=hub_model_id,
            callback_handler=SimpleNamespace(on_push_begin=lambda *given: None),
            is_world_process_zero=lambda: first,
            push_in_progress=PushInProgress(list(jobs)) if jobs is not None else None,
            save_model=save,
            whole_state_dict=lambda part: {part: "tensors"},
            evaluate=lambda figures_dir: calls.append(("evaluate", figures_dir)),
            eval_dataset=None,
            processing_class=None,
            model=SimpleNamespace(head="head", backbone=SimpleNamespace(config="config")),
        )
        publisher = Publisher(trainer, card)
        publisher.calls = calls
        return publisher

    branch = SimpleNamespace(check=note("check"), make=note("make"), put_back_on_error=lambda: nullcontext())
    monkeypatch.setattr(publishing, "HubBranch", lambda api, name, revision: calls.append((name, revision)) or branch)
    monkeypatch.setattr(publishing, "HfApi", lambda token, library_name: SimpleNamespace(token=token))
    monkeypatch.setattr(publishing, "full_name", lambda api, name: f"org/{name}")
    monkeypatch.setattr(publishing, "complete_card", lambda card, trainer: "a card")
    monkeypatch.setattr(publishing, "load_model", lambda folder: "a model")
    for name in ("check_card_data", "write_model_card", "write_model_folder", "write_head", "refuse_split_head"):
        monkeypatch.setattr(publishing, name, note(name))
    monkeypatch.setattr(publishing, "publish_checkpoint", note("publish_checkpoint"))
    monkeypatch.setattr(publishing, "push_to_hub", note("push_to_hub", "a commit"))
    return make


def test_a_card_is_checked_before_training_if_there_is_one(make):
    publisher = make()
    publisher.check_card()
    assert publisher.calls == [("check_card_data", CARD, "config")]
    make(card=None).check_card()
    assert len(publisher.calls) == 1
    with pytest.raises(ValueError, match="A model card requires licenses"):
        check_card(None)
    with pytest.raises(ValueError, match="license"):
        check_card(FaceModelCardData(license=None, training_data=CARD.training_data))


@pytest.mark.parametrize(
    ("load_best", "best", "step"), [(True, "run/checkpoint-2", 2), (True, None, 3), (False, "run/checkpoint-2", 3)]
)
def test_measurements_are_of_the_present_weights(make, tmp_path, load_best, best, step):
    publisher = make(load_best_model_at_end=load_best)
    assert (publisher.weights_step, publisher.started_at_step) == (0, 0)
    evaluator = SimpleNamespace(name="orl", lead_figure=lambda folder: Path(folder, "roc.png"))
    publisher.remember(evaluator, {"accuracy": 0.5}, None)
    assert publisher.measured["orl"].figure is None
    publisher.remember(evaluator, {"accuracy": 0.5}, tmp_path)
    assert publisher.measured["orl"].figure == tmp_path / "roc.png"
    state = SimpleNamespace(global_step=3, best_model_checkpoint=best, best_global_step=2)
    publisher.on_train_begin(publisher.trainer.args, state, None)
    assert publisher.measured == {} and (publisher.weights_step, publisher.started_at_step) == (3, 3)
    publisher.remember(evaluator, {"accuracy": 0.5}, None)
    publisher.on_train_end(publisher.trainer.args, state, None)
    assert publisher.weights_step == step and (publisher.measured == {}) == (step == 2)


@pytest.mark.parametrize(("figures", "measures"), [((), True), (("a",), True), (("a", "b"), False)])
def test_what_has_no_figures_is_measured(make, tmp_path, figures, measures):
    publisher = make()
    publisher._measure()
    assert publisher.calls == [], "there are no protocols"
    publisher.trainer.eval_dataset = [SimpleNamespace(name=name, lead_figure=Path) for name in ("a", "b")]
    for evaluator in publisher.trainer.eval_dataset:
        publisher.remember(evaluator, {}, "roc.png" if evaluator.name in figures else None)
    publisher._measure()
    assert publisher.calls == ([("evaluate", tmp_path / "a_run" / "figures")] if measures else [])


@pytest.mark.parametrize(
    ("now", "setting", "expected"),
    [
        ("org/now", "org/set", "org/now"),
        (None, "org/set", "org/set"),
        (None, None, "a_run"),
        ("org/now", None, "org/now"),
    ],
)
def test_a_repository_has_the_name_of_the_run_unless_it_is_set(make, tmp_path, now, setting, expected):
    publisher = make(hub_model_id=now)
    publisher.trainer.args.hub_model_id = setting
    assert publisher.push() == "a commit"
    _, _, name, *_ = publisher.calls[-1]
    assert name == expected
    publisher.write_card()
    assert publisher.calls[-1][-1] == (expected if expected != "a_run" else str(tmp_path / "a_run"))
    publisher.make_repository()
    assert ("org/a_run" if setting is None else "org/org/set", None) in publisher.calls


@pytest.mark.parametrize(("first", "saves"), [(True, True), (False, True), (False, False)])
def test_only_the_first_rank_publishes(make, first, saves):
    publisher = make(first=first, should_save=saves)
    assert publisher.push(include_head=True) == ("a commit" if first else None)
    called = [name for name, *_ in publisher.calls]
    assert ("write_head" in called) == saves and "refuse_split_head" in called
    assert ("push_to_hub" in called) == first
    publisher.make_repository()
    assert hasattr(publisher, "api") == first
    if not first:
        publisher.push_checkpoint("run/checkpoint-3")
        assert "write_model_folder" not in [name for name, *_ in publisher.calls]


@pytest.mark.parametrize(("token", "used"), [(None, "its own"), ("another", "another")])
@pytest.mark.parametrize(("private", "made"), [(None, True), (False, False)])
def test_a_repository_is_made_as_told(make, token, used, private, made):
    publisher = make()
    publisher.make_repository(token, private)
    assert publisher.api.token == used
    assert publisher.calls == [("org/a_run", None), ("check", made, False), ("make", made)]
    assert publisher.trainer.hub_model_id == "org/a_run"


@pytest.mark.parametrize(
    ("strategy", "jobs", "always", "pushed"),
    [
        (HubStrategy.END, [], True, None),
        (HubStrategy.EVERY_SAVE, [], False, ""),
        (HubStrategy.EVERY_SAVE, None, False, ""),
        (HubStrategy.EVERY_SAVE, [done()], False, ""),
        (HubStrategy.EVERY_SAVE, [Future()], False, None),
        (HubStrategy.EVERY_SAVE, [Future()], True, ""),
        (HubStrategy.CHECKPOINT, [], False, "last-checkpoint"),
        (HubStrategy.ALL_CHECKPOINTS, [], False, "checkpoint-3"),
    ],
)
def test_what_is_pushed_during_training(make, tmp_path, strategy, jobs, always, pushed):
    publisher = make(jobs, hub_model_id="org/name", hub_strategy=strategy, hub_always_push=always)
    futures = []
    publisher.api = SimpleNamespace(run_as_future=lambda *given: futures.append(given) or "a job")
    publisher.push_checkpoint("run/checkpoint-3")
    if pushed is None:
        assert publisher.calls == futures == []
        return
    snapshot = tmp_path / "a_run" / "_push-3"
    folder = snapshot / "name"
    assert publisher.calls[:2] == [
        ("save", snapshot / "saved"),
        ("write_model_folder", snapshot / "saved", folder, "org/name", "a card"),
    ]
    checkpoint = ("publish_checkpoint", Path("run/checkpoint-3"), folder / pushed)
    assert publisher.calls[2:] == ([checkpoint] if pushed else [])
    assert [given[1:] for given in futures] == [(folder, 3)]
    running = [job for job in jobs or [] if not job.done()]
    assert publisher.trainer.push_in_progress.jobs == [*running, "a job"]


def test_a_card_that_cannot_be_written_does_not_stop_training(make, tmp_path, monkeypatch, caplog):
    publisher = make(hub_model_id="org/name")

    def refuse(*given, **named):
        raise ValueError("not finite")

    monkeypatch.setattr(publishing, "write_model_folder", refuse)
    publisher.push_checkpoint("run/checkpoint-3")
    assert "A push during training failed.\nnot finite" in caplog.text
    assert not (tmp_path / "a_run" / "_push-3").exists()


@pytest.mark.parametrize(
    ("first", "jobs", "left"),
    [(True, None, []), (True, [done()], []), (True, [Future()], ["_push-3"]), (False, None, ["_push-3"])],
)
def test_what_a_killed_run_was_sending_is_removed(make, tmp_path, first, jobs, left):
    publisher = make(jobs, first=first)
    (tmp_path / "a_run" / "_push-3").mkdir(parents=True)
    publisher.remove_leftovers()
    assert [path.name for path in (tmp_path / "a_run").iterdir()] == left


def test_pushes_that_fail_are_told_once(make, caplog):
    error = ValueError("no such branch")
    error.add_note("the branch is as it was")
    running = Future()
    publisher = make([done(), done(error), running])
    for _ in range(2):
        publisher.report_failures()
    assert [record.getMessage() for record in caplog.records] == [
        "A push during training failed.\nno such branch\nthe branch is as it was"
    ]
    assert publisher.trainer.push_in_progress.jobs == [running]
    running.set_result(None)
    publisher.finish()
    assert publisher.trainer.push_in_progress.jobs == []
    make(None).finish()
