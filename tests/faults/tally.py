"""What came of the faults of each kind, as a table."""

from dataclasses import dataclass


@dataclass
class Tally:
    """
    Attributes:
        kills: How often a process was killed.
        survived: After how many of them nothing damaged was chosen, and the newest of what was whole.
        runs: How many runs, each killed one or more times, were then led to their end.
        equal: How many of these ended as one that was not disturbed.
        leftovers: Files and folders that an undisturbed run would not have left.
    """

    fault: str
    kills: int = 0
    survived: int = 0
    runs: int = 0
    equal: int = 0
    leftovers: int = 0


TALLIES: dict[str, Tally] = {}


def tally(fault: str) -> Tally:
    return TALLIES.setdefault(fault, Tally(fault))


def table() -> str:
    rows = list(TALLIES.values())
    total = Tally("all", *(sum(getattr(row, name) for row in rows) for name in list(vars(rows[0]))[1:]))
    lines = ["| fault | kills | survived | resumed equal | leftovers |", "|---|---|---|---|---|"]
    for row in [*rows, total]:
        lines.append(
            f"| {row.fault} | {row.kills} | {row.survived} | {row.equal} of {row.runs} runs | {row.leftovers} |"
        )
    return "\n".join(lines)
