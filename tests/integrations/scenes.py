"""What the tests of integrations share: a scripted model on a real node, and what the server knows then.

The node is whole (HTTP, driver, policy, null engine), so that hints arrive where they are used; only the
text that it writes is scripted, because the null engine's own text calls no tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stepwell.engines.null import END_TOKEN, NullConfig
from stepwell.loop.driver import Driver
from stepwell.loop.requests import Delta, Finished, Generation, Sink
from stepwell.loop.snapshot import AgentView
from stepwell.policy.types import Hint, RequestId
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL, FakeText, null_driver, serving, until

Says = Callable[[str], str]
"""The prompt -> what the model answers."""


class ScriptedDriver(Driver):
    """The real driver; one token of every answer is computed, and the script's text stands for it."""

    says: Says
    submitted = 0

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        prompt = bytes(token for token in generation.prompt if token < END_TOKEN).decode()
        text = [self.says(prompt)]
        self.submitted += 1  # on the server's one event loop

        def scripted(output: Any) -> None:
            if isinstance(output, Delta):
                output = replace(output, text=text.pop() if text else "")
            elif isinstance(output, Finished):
                output = replace(output, reason="stop")
            sink(output)

        return super().submit(replace(generation, max_new_tokens=1), scripted)


@dataclass
class Node:
    """One server, as a client and as its operator see it."""

    server: BackgroundServer
    driver: ScriptedDriver

    @property
    def url(self) -> str:
        return f"{self.server.base_url}/v1"

    @property
    def agents(self) -> dict[str, AgentView]:
        """All that are known, when nothing is under way: a turn is counted a little after its answer."""
        until(lambda: sum(view.turns for view in self._views()) == self.driver.submitted)
        return {view.agent: view for view in self._views()}

    def named(self, name: str) -> AgentView:
        """The only agent of a role."""
        (found,) = [view for view in self.agents.values() if view.role == name]
        return found

    def _views(self) -> Sequence[AgentView]:
        return self.driver.snapshot().agents

    def waits(self, name: str, wait: str, *, timed: bool = False) -> Hint:
        """What was said of the only agent of a role, as soon as that is the wait (or fail).

        ``timed``: with an expected time. The server takes a turn that ends in tool calls for a wait for
        a tool by itself, so that only the time shows that somebody said so.
        """

        def said() -> bool:
            # None: the list may be a little older than the agent. (No bare ``next``: asyncio never hands a
            # StopIteration on from the thread that a tool runs in, and the program would wait for ever.)
            hint = self._hint(name)
            return (
                hint is not None and hint.wait.value == wait and (hint.expected_us is not None or not timed)
            )

        until(said)
        hint = self._hint(name)
        assert hint is not None
        return hint

    def _hint(self, name: str) -> Hint | None:
        return next((view.hint for view in self._views() if view.role == name), None)


@contextmanager
def scripted_node(says: Says) -> Iterator[Node]:
    plain = null_driver(NullConfig(model=MODEL, block_tokens=16, device_blocks=2_048))
    driver = ScriptedDriver(plain.engine, FakeText(plain.engine.info), plain.tiers, plain.scheduler)
    driver.says = says
    driver.start()
    try:
        with serving(driver, driver.text) as server:
            yield Node(server, driver)
    finally:
        driver.stop(5.0)
