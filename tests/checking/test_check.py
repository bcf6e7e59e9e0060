"""One function and all rules: order, what is silenced, how far is followed; and no false findings."""

import ast
from collections.abc import Iterator

import pytest

from batchflow.checking.check import check
from batchflow.checking.finding import Finding
from batchflow.checking.source import SourceFile, parameters
from tests.checking.marked import assert_found, findings
from tests.docs.pages import blocks, pages, read
from tests.house.sources import sources

# Tests whose subject is code that breaks a rule: (file, rule).
ON_PURPOSE = {
    ("tests/app/test_resources.py", "await"),
    ("tests/batch/test_function.py", "await"),
    ("tests/qstash/test_attempts.py", "await"),
    ("tests/qstash/test_run_identity.py", "await"),
    ("tests/scenarios/test_waits.py", "await"),
    ("tests/serve/test_cancellation.py", "await"),
    ("tests/serve/test_cancellation.py", "duplicate-name"),
    ("tests/serve/test_cancellation.py", "except"),
    ("tests/serve/test_cancellation.py", "timeout"),
    ("tests/serve/test_endings.py", "duplicate-name"),
    ("tests/serve/test_endings.py", "except"),
    ("tests/serve/test_mismatches.py", "duplicate-name"),
    ("tests/serve/test_mismatches.py", "nested-step"),
    ("tests/typing/cases/refused.py", "duplicate-name"),
    ("tests/typing/cases/waits_refused.py", "duplicate-name"),
    ("tests/qstash/killed_batch_app.py", "io"),
    ("tests/qstash/killed_batch_app.py", "time"),
    ("benchmarks/qstash_app.py", "global"),
    ("docs/how-to/check.md", "io"),
    ("docs/how-to/check.md", "name-in-loop"),
    ("docs/how-to/check.md", "time"),
    ("docs/how-to/durable-functions.md", "duplicate-name"),
}


def found_in(source: SourceFile) -> Iterator[Finding]:
    """What is found in every function that says that it takes a context."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef):
            for parameter in parameters(node):
                if source.is_context(parameter.annotation):
                    yield from check(source, node, parameter.arg)


def unexpected(source: SourceFile) -> list[str]:
    return sorted({str(it) for it in found_in(source) if (it.path, it.rule) not in ON_PURPOSE})


@pytest.mark.parametrize("folder", ["examples", "tests", "benchmarks"])
def test_the_code_of_this_repository_gives_no_false_finding(folder: str) -> None:
    """Whatever is found breaks a rule, and is meant to."""
    files = [SourceFile(it.text, it.path) for it in sources(folder) if "WorkflowContext" in it.text]
    assert [found for source in files for found in unexpected(source)] == []


def test_the_documentation_gives_no_false_finding() -> None:
    """Nor do its code blocks."""
    shown = [(page, it) for page in pages() for it in blocks(read(page)) if it.language == "python"]
    files = [SourceFile("\n" * (it.line - 1) + it.text, page) for page, it in shown if "WorkflowContext" in it.text]
    assert [found for source in files for found in unexpected(source)] == []


def test_findings_come_by_line() -> None:
    """Whatever rule they break, and whatever function they stand in."""
    text = """
        import time
        def helper():
            time.time()

        async def run(ctx):
            open("a")
            helper()
            time.time()
    """
    assert [(it.line, it.rule) for it in findings(text)] == [(4, "time"), (7, "io"), (9, "time")]
    assert str(findings(text, "app/jobs.py")[1]) == (
        "app/jobs.py:7: io: open(…) is repeated on every replay; do it in a step: await ctx.run(name, function)"
    )


def test_a_comment_silences_its_line() -> None:
    """The line of the finding, whatever else the comment says; text that looks like it is none."""
    assert_found("""
        import time
        async def run(ctx):
            time.time()  # batchflow: ok
            time.time()  # noqa: X  # batchflow: ok, for the log only
            time.time(), "# batchflow: ok"  # !time
            time.time()  # batchflow: okay !time
            try:
                await ctx.run("a", fn)
            except:  # batchflow: ok
                pass
            await ctx.run(  # batchflow: ok
                "a",
                fn,
            )
    """)


def test_a_function_that_calls_itself_is_read_once() -> None:
    """Directly, through another, and in a loop."""
    assert_found("""
        import time
        async def run(ctx):
            await other(ctx, 1)
            await run(ctx)

        async def other(ctx, depth):
            time.time()  # !time
            for it in range(depth):
                await run(ctx)
                await other(ctx, it)
    """)


def test_functions_of_the_functions_own_see_its_names() -> None:
    """A name that means something else in them is not the context."""
    assert_found("""
        async def run(ctx):
            async def one(ctx):
                await ctx.run("a", fn)  # !await
            async def two():
                ctx = shell
                await ctx.run("b", fn)  # !await
            async def three(depth: int = 0):
                await ctx.run("c", fn)
            await one(shell)
            await two()
            await three()
    """)


def test_a_parameter_that_says_so_is_a_context() -> None:
    """Under an alias too, where nobody is seen to pass it on."""
    assert_found("""
        from batchflow import WorkflowContext
        Context = WorkflowContext[int]
        async def run(ctx: Context):
            async def branch(mine: Context, id: int):
                await mine.run(f"a:{id}", fn)
                await mine.run("b", fn)
            await spread(branch, ctx)
    """)


def test_classes_and_bases_are_followed_in_the_file() -> None:
    """A method of a base class, a static one; a class defined in the function is left alone."""
    assert_found("""
        import time
        class Base(Generic[T]):
            async def more(self, ctx):
                time.time()  # !time

        class Batch(Base[int]):
            async def run(self, ctx, item):
                class Local:
                    at = time.time()
                await self.more(ctx)
                self.stamp(ctx)

            @staticmethod
            def stamp(context):
                context.log(time.time())  # !time
    """)


def test_invalid_escapes_are_no_warnings_of_the_check() -> None:
    """Whoever wrote them has seen them."""
    assert findings('async def run(ctx):\n    "\\d"\n') == []
