"""QStash as the engine: runs of served functions, step by step over signed HTTP."""
