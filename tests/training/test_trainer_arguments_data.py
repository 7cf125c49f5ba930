"""What the Trainer's arguments on its data do; each test is marked with those it shows."""

import pytest


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.shows("data_seed", "accelerator_config")
def test_the_order_of_the_images_has_a_seed_of_its_own(make_trainer):
    def first(**settings):
        return next(iter(make_trainer(**settings).get_train_dataloader()))["rows"].tolist()

    assert first(data_seed=1) == first(data_seed=1, seed=5) != first(data_seed=2)
    assert make_trainer(accelerator_config={"split_batches": True}).accelerator.split_batches


@pytest.mark.shows(
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
)
def test_workers_read_ahead(make_trainer, people_stream):
    settings = {"num_workers": 1, "pin_memory": False, "persistent_workers": True, "prefetch_factor": 3}
    settings |= {"multiprocessing_context": "fork", "in_order": False}
    settings = {f"dataloader_{name}": value for name, value in settings.items()}
    trainer, plain = make_trainer(max_steps=2, **settings), make_trainer(max_steps=2)
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.pin_memory, loader.persistent_workers) == (1, False, True)
    assert (loader.prefetch_factor, loader.in_order) == (3, False)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)
    with pytest.raises(ValueError, match="dataloader_in_order=False does not work with a stream"):
        make_trainer(train_dataset=people_stream, dataloader_in_order=False)
    with pytest.raises(ValueError, match="split_batches does not work with a stream"):
        make_trainer(train_dataset=people_stream, accelerator_config={"split_batches": True})


@pytest.fixture
def people_stream(faces):
    return faces[0].to_iterable_dataset()


@pytest.mark.shows("remove_unused_columns")
def test_columns_that_nothing_reads(make_trainer, faces):
    more = faces[0].add_column("more", ["text"] * len(faces[0]))
    trainer, plain = make_trainer(train_dataset=more, remove_unused_columns=True), make_trainer()
    trainer.train()
    plain.train()
    assert losses(trainer) == losses(plain)


@pytest.mark.shows("debug", "train_sampling_strategy")
def test_values_that_work_of_settings_that_are_refused_otherwise(make_trainer):
    trainer = make_trainer(max_steps=1, debug="underflow_overflow", train_sampling_strategy="sequential")
    assert next(iter(trainer.get_train_dataloader()))["rows"].tolist() == list(range(16))
    trainer.train()


@pytest.mark.shows("per_device_eval_batch_size")
def test_protocols_embed_in_batches(make_trainer):
    trainer = make_trainer(per_device_eval_batch_size=20)
    sizes = []
    trainer.model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    trainer.evaluate()
    assert set(sizes) == {20}
