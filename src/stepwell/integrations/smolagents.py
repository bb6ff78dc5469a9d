"""smolagents: ``tell(agent)`` before ``agent.run(...)``. A run from scratch of that agent is a session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any
from uuid import uuid4

from stepwell.integrations._tell import SessionAgent, Teller, caller, needs, with_headers

with needs("smolagents[openai]"):
    from smolagents import FinalAnswerStep, OpenAIModel


def tell(agent: Any, base_url: str | None = None, api_key: str | None = None, end: str = "done") -> Teller:
    """For ``agent`` and all that it manages; each gets its own copy of its ``OpenAIModel``."""
    return _Turns(agent, Teller(base_url, api_key, end)).teller


class _Turns:
    who: SessionAgent | None = None
    first: Any = None  # of the agent's memory: another one is another context

    def __init__(self, agent: Any, teller: Teller, manager: _Turns | None = None) -> None:
        self.agent, self.teller, self.manager = agent, teller, manager
        if isinstance(agent.model, OpenAIModel):
            agent.model = model = copy(agent.model)
            model.generate = partial(self.turn, model.generate)
            model.generate_stream = partial(self.streamed, model.generate_stream)
            agent.step_callbacks.register(FinalAnswerStep, lambda step: teller.ends(self.who or self.begin()))
        for managed in agent.managed_agents.values():
            _Turns(managed, teller, self)

    def begin(self) -> SessionAgent:
        steps, above = self.agent.memory.steps or [None], self.manager.who if self.manager else None
        if self.who is None or self.first is not steps[0]:
            self.first, self.who = steps[0], caller(self.agent.name or "agent", uuid4().hex, above)
            if above is not None:
                self.teller.waits(above, "child", after=self.who)
        return self.who

    def turn(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        [message] = self.streamed(lambda *a, **k: [generate(*a, **k)], *args, **kwargs)
        return message

    def streamed(self, generate: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        who, text = self.begin(), ""
        self.agent.model.kwargs = with_headers(self.agent.model.kwargs, self.teller.turn(who))
        for said in generate(*args, **kwargs):
            calls = [f'"{call.function.name}"' for call in said.tool_calls or [] if call.function]
            text += str(said.content or "") + " ".join(calls)
            yield said
        known = [*self.agent.tools, *self.agent.managed_agents]
        tools = [name for name in known if re.search(rf'\b{name}\(|"{name}"', text)]
        self.teller.asked(who, tools or ["python_interpreter"] * hasattr(self.agent, "python_executor"))
