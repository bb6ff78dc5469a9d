"""pydantic-ai: ``Agent(model, capabilities=[Stepwell()])``, for each agent. A conversation is a session."""

from __future__ import annotations

from copy import copy
from typing import Any

from stepwell.integrations._tell import WITHIN, SessionAgent, Teller, caller, needs, with_headers

with needs("pydantic-ai-slim[openai]"):
    from pydantic_ai import ApprovalRequired, DeferredToolRequests, RunContext
    from pydantic_ai.capabilities import AbstractCapability


class Stepwell(AbstractCapability[Any]):
    """Runs that begin in an agent's tool are its children. One instance may serve many agents."""

    who: SessionAgent

    def __init__(self, base_url: str | None = None, api_key: str | None = None, end: str = "done") -> None:
        self.teller = Teller(base_url, api_key, end)

    async def for_run(self, ctx: RunContext[Any]) -> Stepwell:
        """A copy for each run, which knows whose run it is."""
        own = copy(self)
        own.who = caller((ctx.agent and ctx.agent.name) or "agent", ctx.conversation_id or str(ctx.run_id))
        return own

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> Any:
        if (above := WITHIN.get()) is not None and above.agent:
            self.teller.waits(above, "child", after=self.who)
        token = WITHIN.set(self.who)
        try:
            result = await handler()
            if isinstance(result.output, DeferredToolRequests) and result.output.approvals:
                self.teller.waits(self.who, "person")
            return result
        finally:
            WITHIN.reset(token)
            self.teller.ends(self.who)

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        headers = self.teller.turn(self.who)
        request_context.model_settings = with_headers(request_context.model_settings, headers)
        return request_context

    async def wrap_tool_execute(self, ctx: RunContext[Any], *, handler: Any, args: Any, **more: Any) -> Any:
        key, asks = (ctx.run_id, more["call"].tool_call_id), False
        self.teller.began(self.who, more["call"].tool_name, key)
        try:
            return await handler(args)
        except ApprovalRequired:
            asks = True
            raise
        finally:
            self.teller.ended(self.who, key, asks=asks)
