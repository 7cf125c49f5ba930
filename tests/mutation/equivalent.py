"""Mutants that no test can notice, and why: the one place for them."""

# File, the line, what became of it, reason.
EQUIVALENT: tuple[tuple[str, str, str, str], ...] = ()
