"""The tools ``python`` and ``run_tests``: code in the sandbox, and what came of it in a few lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.functions import from_function
from stepwell.agents.tools.sandbox import START_S, SandboxRun, run_python
from stepwell.agents.tools.workspace import Workspace

_DEFINES = re.compile(r"^(?:def|async def|class|import|from) |^@", re.MULTILINE)
BESIDE_S = START_S + 5.0
"""What a tool's own timeout leaves on top of the time of the code, for starting and clearing away."""
SHOWN_FAILURES = 10


@dataclass(frozen=True, slots=True)
class CodeVerdict:
    """What tests said about code."""

    passed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    """The test, and why; a test that was never reached did not pass."""
    error: str | None
    """Why the code did not get as far as its tests, or was ended among them."""

    @property
    def good(self) -> bool:
        """All passed, there was at least one, and nothing else went wrong."""
        return bool(self.passed) and not self.failed and self.error is None


async def check_code(code: str, tests: str, workspace: Workspace) -> CodeVerdict:
    """Runs ``tests`` over ``code``: every assert at the top level and every function ``test...``.

    ``ToolError`` when the tests themselves are not Python, or fail before they test anything.
    """
    run = await run_python(code, workspace, tests=tests)
    if (broken := run.said("tests_error")) is not None:
        raise ToolError(f"the tests cannot be run: {broken}")
    ended = f"{run.ended[0].upper()}{run.ended[1:]}" if run.ended else None
    outcomes = [(str(report["test"]), report["why"]) for report in run.reports if "test" in report]
    planned = [str(text) for text in run.said("planned") or ()]
    reached = [(text, str(why)) for text, why in outcomes if why is not None]
    missing = [(text, "was not reached") for text in planned[len(outcomes) :]]
    passed = tuple(text for text, why in outcomes if why is None)
    return CodeVerdict(passed, (*reached, *missing), run.said("error") or ended)


def show_run(run: SandboxRun) -> str:
    """What was printed, then the last expression's value or what went wrong."""
    parts = [run.printed.rstrip("\n")] if run.printed.strip() else []
    if run.ended is not None:
        parts.append(f"The run was ended: {run.ended}.")
    elif (error := run.said("error")) is not None:
        parts.append(error)
    elif (value := run.said("value")) is not None:
        parts.append(value)
    elif (code := run.said("exit")) not in (None, "None", "0"):
        parts.append(f"The code ended itself with exit({code}).")
    return "\n".join(parts) or "(nothing was printed: print what you want to see)"


def show_verdict(verdict: CodeVerdict) -> str:
    """Counts first; then why the code stopped, and the tests that failed."""
    total = len(verdict.passed) + len(verdict.failed)
    lines = [f"{len(verdict.passed)} of {total} tests passed." if total else "There are no tests."]
    if verdict.error is not None:
        lines.append(f"The code did not run to its end: {verdict.error}")
    for text, why in verdict.failed[:SHOWN_FAILURES]:
        lines.append(f"failed: {' '.join(text.split())[:300]} ({why})")
    if len(verdict.failed) > SHOWN_FAILURES:
        lines.append(f"and {len(verdict.failed) - SHOWN_FAILURES} more")
    return "\n".join(lines)


def program_of(reply: str) -> str:
    """The first fenced block that defines something, or the first one, or the reply from a definition on."""
    blocks = _fenced(reply)
    if blocks:
        return next((block for block in blocks if _DEFINES.search(block)), blocks[0])
    start = _DEFINES.search(reply)
    return reply[start.start() :] if start else reply


def _fenced(reply: str) -> list[str]:
    """What stands between lines of three backticks; the last block may have no end."""
    blocks: list[str] = []
    inside = False
    for line in reply.splitlines(keepends=True):
        if line.lstrip(" \t").startswith("```"):
            inside = not inside
            blocks += [""] * inside
        elif inside:
            blocks[-1] += line
    return blocks


def visible_tests_tool(workspace: Workspace) -> Tool:
    """The tool ``visible_tests``: the person's own tests over a program, for a role's ``check``."""

    async def visible_tests(program: str) -> str:
        """Says whether a program passes the tests that came with the task.

        Args:
            program: the program, also inside a Markdown fence
        """
        if not workspace.tests:
            raise ToolError("no tests came with this task: give a file of them, like tests.py")
        verdict = await check_code(program_of(program), workspace.tests, workspace)
        if not verdict.good:
            raise ToolError(show_verdict(verdict))
        return show_verdict(verdict)

    return from_function(
        visible_tests, expected_ms=500, timeout_s=workspace.limits.wall_s + BESIDE_S, idempotent=True
    )


def python_tool(workspace: Workspace) -> Tool:
    """The tool ``python``."""

    async def python(code: str) -> str:
        """Runs Python 3 with its standard library, without network or files; print what you want to see.

        Args:
            code: statements; the value of a last expression is shown too
        """
        return show_run(await run_python(code, workspace))

    return from_function(
        python, expected_ms=500, timeout_s=workspace.limits.wall_s + BESIDE_S, idempotent=True
    )


def run_tests_tool(workspace: Workspace) -> Tool:
    """The tool ``run_tests``."""

    async def run_tests(code: str, tests: str) -> str:
        """Runs tests over code and says which pass.

        Args:
            code: the functions to be tested
            tests: asserts, one a line, or functions named test_...
        """
        return show_verdict(await check_code(code, tests, workspace))

    return from_function(
        run_tests, expected_ms=500, timeout_s=workspace.limits.wall_s + BESIDE_S, idempotent=True
    )
