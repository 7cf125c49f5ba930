"""
`accelerate launch` and `torchrun`, several times in one process; started by `test_engines_matrix.py`.

    launches.py LAUNCHES_AS_JSON

A launch is a list of commands, one for each machine. Ranks are forked from this process, which has imported what they
need, where launchers start Python anew. All else is the launchers' own: files, arguments, environment and agents. FSDP
is told that there is an accelerator, without which accelerate does not start it.
"""

import json
import os
import runpy
import sys

import torch.distributed.run
from accelerate import PartialState
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import DistributedType, parse_flag_from_env
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

configure = torch.distributed.run.config_from_args
prepare = PartialState.__init__


def fork_ranks(args):
    config, _, _ = configure(args)
    config.start_method = "fork"
    return config, run_script, [args.module, args.training_script, *args.training_script_args]


def run_here(args):
    (_, *arguments), environment = prepare_simple_launcher_cmd_env(args)
    os.environ.update(environment)
    run_script(args.module, *arguments[args.module :])


def run_script(is_module: bool, script: str, *arguments: str) -> None:
    torch.set_num_threads(1)  # before there are threads: in a fork, the first two to ask for torch's pool can collide
    sys.argv = [script, *arguments]
    if is_module:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


def prepare_as_on_gpus(self, *args, **kwargs):
    prepare(self, *args, **kwargs)
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def start(launcher: str, *arguments: str) -> None:
    if launcher == "torchrun":
        torch.distributed.run.main(arguments)
    elif launcher == "accelerate":
        accelerate_launch.launch_command(accelerate_launch.launch_command_parser().parse_args(arguments[1:]))


def launch(machines: list[list[str]]) -> None:
    """Run each machine's command in a process of its own, and exit if one fails."""
    pids = []
    for command in machines:
        pid = os.fork()
        if pid == 0:
            start(*command)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit(status)


if __name__ == "__main__":
    torch.distributed.run.config_from_args = fork_ranks
    accelerate_launch.simple_launcher = run_here
    PartialState.__init__ = prepare_as_on_gpus
    for machines in json.loads(sys.argv[1]):
        launch(machines)
