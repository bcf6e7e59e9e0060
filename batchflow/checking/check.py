"""All rules, applied to one durable function and what it calls between its steps."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from batchflow.checking.body import Body, Given
from batchflow.checking.finding import Finding
from batchflow.checking.reach import reach
from batchflow.checking.rules_awaits import foreign_awaits
from batchflow.checking.rules_chance import time_and_chance
from batchflow.checking.rules_handlers import swallowed_suspensions
from batchflow.checking.rules_io import global_state, input_and_output, sleeping
from batchflow.checking.rules_limits import limited_waits
from batchflow.checking.rules_lost import lost_steps
from batchflow.checking.rules_names import duplicate_names, names_in_loops
from batchflow.checking.rules_nesting import nested_steps
from batchflow.checking.rules_order import unordered_steps
from batchflow.checking.scope import FunctionNode
from batchflow.checking.source import Source

Rule: TypeAlias = Callable[[Body], Iterator[Finding]]

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


def check(source: Source, function: FunctionNode, context: str) -> list[Finding]:
    """What makes the function unsafe to replay, by line; `context` is its parameter that is the context.

    A line with the comment `# batchflow: ok` is left out.
    """
    body = Body(source, function, Given(contexts=frozenset({context})), None)
    found = {finding for part in reach(body) for rule in RULES for finding in rule(part)}
    return sorted(it for it in found if it.line not in source.silenced)
