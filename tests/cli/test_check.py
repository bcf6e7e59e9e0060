"""`batchflow check`: from an app to what is unsafe in its durable functions."""

from tests.cli.command_line import JOBS, CommandLine

SAFE = """
import functools
import time

from batchflow import Batchflow, BatchWorkflow, NoParams, WorkflowContext

flow = Batchflow("sqlite://")


def charge(id: str) -> float:
    return time.time()


@flow.serve("/pay")
async def pay(context: WorkflowContext[list[str]]) -> None:
    for id in context.payload:
        await context.run(f"charge:{id}", charge, id)
"""

UNSAFE = (
    SAFE
    + """

@flow.serve("/refund")
async def refund(context: WorkflowContext[list[str]]) -> None:
    for id in context.payload:
        await context.run("charge", charge, id)


class Letters(BatchWorkflow[NoParams, str, None], ids_only=True):
    async def process(self, ctx: WorkflowContext[NoParams], item: str) -> None:
        await ctx.sleep(f"until {time.time()}", 5)
        await self.more(ctx, item)

    async def more(self, ctx: WorkflowContext[NoParams], item: str) -> None:
        open(item)


class Plain(BatchWorkflow[NoParams, str, None], ids_only=True):
    async def execute(self, item: str) -> None:
        open(item)


flow.add(Letters())
flow.add(Plain())
"""
)

FOUND = [
    (
        23,
        "name-in-loop",
        "the step name 'charge' is the same in every round of the loop; "
        "put into it what varies, such as f'charge:{id}'",
    ),
    (
        28,
        "time",
        "time.time() comes out differently on every replay; use ctx.now(), or read the time in a step",
    ),
    (32, "io", "open(…) is repeated on every replay; do it in a step: await ctx.run(name, function)"),
]


def test_safe_functions_give_nothing(command: CommandLine) -> None:
    """One line says how many were read; the exit code is 0."""
    command.write(SAFE)
    answer = command("check", command.target)
    assert (answer.code, answer.out, answer.err) == (0, "1 durable function checked: nothing found\n", "")


def test_an_app_without_durable_functions_gives_nothing(command: CommandLine) -> None:
    """The hooks of a batch are steps themselves."""
    command.write(JOBS)
    assert command("check", command.target).out == "0 durable functions checked: nothing found\n"


def test_findings_are_a_line_each(command: CommandLine) -> None:
    """File, line, rule and sentence, for served functions and for `process`; the exit code is 1."""
    command.write(UNSAFE)
    answer = command("check", command.target)
    lines = [f"{command.name}.py:{line}: {rule}: {message}" for line, rule, message in FOUND]
    assert (answer.code, answer.err) == (1, "")
    assert answer.out.splitlines() == [*lines, "3 durable functions checked: 3 findings"]


def test_findings_are_one_json_document(command: CommandLine) -> None:
    """`--json` has what the lines have."""
    command.write(UNSAFE)
    answer = command("check", command.target, "--json")
    assert answer.code == 1
    assert answer.document == {
        "success": False,
        "functions": ["/pay", "/refund", "letters.process"],
        "findings": [
            {"path": f"{command.name}.py", "line": line, "rule": rule, "message": message}
            for line, rule, message in FOUND
        ],
    }
    command.write(SAFE)


def test_what_two_functions_call_is_found_once(command: CommandLine) -> None:
    """And counted once."""
    command.write(
        SAFE
        + """
async def helper(ctx: WorkflowContext[int]) -> None:
    open("a")

@flow.serve("/one")
async def one(ctx: WorkflowContext[int]) -> None:
    await helper(ctx)

@flow.serve("/two")
async def two(ctx: WorkflowContext[int]) -> None:
    await helper(ctx)
"""
    )
    assert command("check", command.target).out.splitlines()[1:] == ["3 durable functions checked: 1 finding"]


def test_functions_are_read_through_what_is_wrapped_around_them(command: CommandLine) -> None:
    """Decorators, partials, methods and objects that can be called."""
    command.write(
        SAFE
        + """
def logged(fn):
    @functools.wraps(fn)
    async def call(*args, **kwargs):
        return await fn(*args, **kwargs)
    return call

@flow.serve("/decorated")
@logged
async def decorated(ctx: WorkflowContext[int]) -> None:
    open("a")

async def bound(ctx: WorkflowContext[int], name: str) -> None:
    open("b")

async def second(name: str, ctx: WorkflowContext[int]) -> None:
    await ctx.run("a", print)
    await ctx.run("a", print)

class Object:
    async def __call__(self, ctx: WorkflowContext[int]) -> None:
        open("c")

    async def method(self, ctx: WorkflowContext[int]) -> None:
        open("d")

flow.serve("/partial")(functools.partial(bound, name="a"))
flow.serve("/second")(functools.partial(second, "a"))
flow.serve("/object")(Object())
flow.serve("/method")(Object().method)
"""
    )
    lines = command("check", command.target).out.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == ["io", "io", "duplicate-name", "io", "io"]
    assert lines[-1] == "6 durable functions checked: 5 findings"


def test_a_function_without_a_source_is_told(command: CommandLine) -> None:
    """One sentence with its name, beside what is found in the others; it is not taken for safe."""
    command.write(
        SAFE
        + """
TEXT = '''
async def typed(ctx: WorkflowContext[int]) -> None:
    open("a")
'''
exec(compile(TEXT, "<prompt>", "exec"))
flow.serve("/typed")(typed)
"""
    )
    answer = command("check", command.target)
    message = "the source of '/typed' cannot be read, so it is not checked; define it in a Python file"
    assert (answer.code, answer.err) == (1, "")
    assert answer.out == f"<prompt>:2: unreadable: {message}\n2 durable functions checked: 1 finding\n"


def test_nothing_is_called(command: CommandLine) -> None:
    """The functions are read; the state is not made either."""
    command.write(SAFE.replace('"sqlite://"', ""))
    command("check", command.target)
    assert [it.name for it in command.folder.iterdir() if it.suffix == ".db"] == []


def test_a_target_that_is_none_is_usage(command: CommandLine) -> None:
    """As for the other commands."""
    answer = command("check", "nowhere:flow")
    message = "error: there is no module 'nowhere' here; run the command in the folder that holds it\n"
    assert (answer.code, answer.out, answer.err) == (2, "", message)
