"""How much one operation takes on at once, so that others wait for it no longer than a moment."""

SWEPT = 2_000
"""How much of what is cancelled is ended."""

SWEPT_AT_ONCE = 200
"""How much of a batch is ended before its cancellation is answered; the rest follows in slices."""

IDLE = 500
"""How many flow keys are looked at, whether they are idle."""

LANES = 64
"""From how many lanes one round of a claim takes."""

PRUNED = 5_000
"""How many rows whose retention is over are removed."""
