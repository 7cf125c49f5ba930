"""Runs under engines and without, by name: `CASE/ENGINE`, or `CASE/ENGINE from RUN` for the second half of one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked

SCRIPT = Path(__file__).with_name("under_engines.py")


@dataclass
class EngineRuns:
    """Runs in a folder, with the settings of each case."""

    folder: Path
    cases: dict[str, dict[str, Any]]

    def launch(self, *names: str, num_ranks: int = 2) -> None:
        """Train one run after the other, on ranks that stay together."""
        runs = json.dumps([self._run(name) for name in names])
        ranks = forked.start([SCRIPT, runs], num_ranks, DS_ACCELERATOR="cpu")
        assert ranks.wait(timeout=400) == 0, ranks.stderr[-3000:]

    def place(self, name: str) -> Path:
        return self.folder / name.replace("/", "-").replace(" ", "-")

    def settings(self, name: str) -> dict[str, Any]:
        return self.cases[name.partition("/")[0]]

    def last_checkpoint(self, name: str) -> Path:
        return self.place(name) / f"checkpoint-{self.settings(name)['max_steps']}"

    def logged(self, name: str, key: str) -> list[float]:
        state = json.loads((self.last_checkpoint(name) / "trainer_state.json").read_text())
        return [entry[key] for entry in state["log_history"] if key in entry]

    def _run(self, name: str) -> dict[str, Any]:
        run, _, start = name.partition(" from ")
        settings = self.settings(name)
        resume = {"resume_from": f"{self.place(start)}/checkpoint-{settings['save_steps']}"} if start else {}
        return {"folder": str(self.place(name)), "engine": run.partition("/")[2], **settings, **resume}
