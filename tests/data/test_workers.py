"""Workers that outlive what a scheduler sends to all processes, until their own process ends them."""

import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from hf_face.data import workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals are kept from workers on Linux only")


def test_workers_that_are_forked_are_born_with_the_signals_blocked():
    loader = DataLoader(range(4), num_workers=1, multiprocessing_context="fork", worker_init_fn=print)
    assert workers.spare_workers(loader) is loader
    assert isinstance(loader.multiprocessing_context, workers.PatientContext)
    assert loader.worker_init_fn.func is workers._initialize and loader.worker_init_fn.args == (print,)


def test_workers_that_are_spawned_block_the_signals_themselves():
    loader = workers.spare_workers(DataLoader(range(4), num_workers=1, multiprocessing_context="spawn"))
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert loader.worker_init_fn.func is workers._initialize


def test_a_loader_without_workers_stays_as_it_is():
    loader = workers.spare_workers(DataLoader(range(4)))
    assert loader.multiprocessing_context is None and loader.worker_init_fn is None


def test_a_worker_waits_in_a_thread_that_does_not_keep_it_alive(monkeypatch):
    started, blocked, called = [], [], []
    monkeypatch.setattr(threading, "Thread", lambda **options: started.append(options) or SimpleNamespace(start=list))
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *mask: blocked.append(mask))
    for further in (None, called.append):
        workers._initialize(further, 3)
    assert called == [3]
    assert blocked == [(signal.SIG_BLOCK, workers.SIGNALS)] * 2
    assert started == [{"target": workers._end_with_parent, "daemon": True}] * 2


@pytest.mark.parametrize(("parent", "waits"), [(SimpleNamespace(pid=5), 3), (None, 0)])
def test_a_worker_ends_when_its_own_process_says_so(monkeypatch, parent, waits):
    senders = iter([7, 1, 5, 7])
    monkeypatch.setattr(workers.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(signal, "sigwaitinfo", lambda signals: SimpleNamespace(si_pid=next(senders)))
    monkeypatch.setattr(workers.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as exit:
        workers._end_with_parent()
    assert exit.value.code == 0
    assert len(list(senders)) == 4 - waits
