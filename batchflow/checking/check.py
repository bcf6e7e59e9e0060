"""Applies all rules to one durable function and to the functions that it calls between its steps."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from batchflow.checking.call_graph import reachable_functions
from batchflow.checking.finding import Finding
from batchflow.checking.function import CallerFacts, FunctionBody
from batchflow.checking.rules_replay import foreign_awaits, global_state, input_and_output, sleeping, time_and_chance
from batchflow.checking.rules_steps import duplicate_names, lost_steps, names_in_loops, nested_steps, unordered_steps
from batchflow.checking.rules_suspension import limited_waits, swallowed_suspensions
from batchflow.checking.source import FunctionNode, SourceFile

Rule: TypeAlias = Callable[[FunctionBody], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    duplicate_names,
    names_in_loops,
    time_and_chance,
    input_and_output,
    sleeping,
    global_state,
    foreign_awaits,
    lost_steps,
    limited_waits,
    unordered_steps,
    nested_steps,
    swallowed_suspensions,
)


def check(source: SourceFile, function: FunctionNode, context: str) -> list[Finding]:
    """Return what makes the function unsafe to replay, sorted by line; `context` names its context parameter.

    Skips lines with the comment `# batchflow: ok`.
    """
    body = FunctionBody(source, function, CallerFacts(contexts=frozenset({context})), None)
    found = {finding for part in reachable_functions(body) for rule in RULES for finding in rule(part)}
    return sorted(it for it in found if it.line not in source.silenced)
