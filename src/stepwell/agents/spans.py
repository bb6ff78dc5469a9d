"""A session as OpenTelemetry spans (the extra ``otel``): a listener on the stream of events.

``invoke_agent NAME`` for every task of an agent, under the span of the agent that gave it; ``chat MODEL`` and
``execute_tool NAME`` for its turns and calls. The entry agent's span is as long as the session, because the
runtime carries out its plans on its behalf. Names and attributes are those of the semantic conventions for
generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/), written out here: the package that has
them as constants marks them as incubating, and they move. Texts are not exported, only counts and names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.agents import events

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from stepwell.agents.session import Session

PROVIDER = "stepwell"
MAX_TEXT_CHARS = 500


@dataclass(slots=True)
class _Agent:
    """What is open of one agent: its task, and in it at most one turn or call."""

    parent: str | None
    role: str
    task: Span | None = None
    step: Span | None = None


@dataclass(slots=True)
class Spans:
    """Tell it every event of ``session``; ``close`` it when nothing more comes, whatever happened.

    ``above`` is the context that the entry agent's span belongs to; None: a trace of its own.
    """

    tracer: Tracer
    session: Session
    above: Context | None = None
    _agents: dict[str, _Agent] = field(default_factory=dict)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Spawned(agent=agent, parent=parent, role=role):
                self._agents[agent] = _Agent(parent, role)
                if parent is None:
                    self._begin_task(agent)
            case events.Assigned(agent=agent):
                self._begin_task(agent)
            case events.TurnBegan(agent=agent, model=model):
                self._begin_turn(agent, model)
            case events.TurnEnded(agent=agent, usage=usage):
                self._end_step(agent, attributes=_usage(usage))
            case events.CallBegan(agent=agent, tool=tool):
                self._begin_call(agent, tool)
            case events.CallEnded(agent=agent, ok=ok):
                self._end_step(agent, error="" if ok else "tool_error")
            case events.Ended(agent=agent, outcome=outcome, text=text):
                self._end_task(agent, outcome, text)
            case events.Finished(status=status, text=text):
                self.close("" if status == "completed" else status, text)
            case _:
                self._note(event)

    def headers(self, agent: str) -> dict[str, str]:
        """``traceparent`` and so on of the agent's turn, for the server that computes it."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        one = self._agents.get(agent)
        said: dict[str, str] = {}
        if one is not None and one.step is not None:
            TraceContextTextMapPropagator().inject(said, set_span_in_context(one.step))
        return said

    def close(self, error: str = "stopped", text: str = "") -> None:
        """End all that is open, the deepest first; a second time there is nothing left to end."""
        for agent in reversed(self._agents):
            one = self._agents[agent]
            self._end_step(agent, error)
            if one.task is not None:
                _end(one.task, error, text)
                one.task = None

    # --- one agent ---------------------------------------------------------------------------------

    def _begin_task(self, agent: str) -> None:
        one = self._agents[agent]
        if one.task is not None:  # the entry agent's next task, or one that goes on
            return
        name = f"invoke_agent {one.role}"
        attributes = self._common("invoke_agent", one.role, agent)
        one.task = self.tracer.start_span(name, self._context_above(one), attributes=attributes)

    def _context_above(self, one: _Agent) -> Context | None:
        """Of the nearest agent above that has a task; in a session that is resumed not every one has."""
        from opentelemetry.trace import set_span_in_context

        above = self._agents.get(one.parent or "")
        while above is not None:
            if above.task is not None:
                return set_span_in_context(above.task)
            above = self._agents.get(above.parent or "")
        return self.above

    def _begin_turn(self, agent: str, model: str) -> None:
        from opentelemetry.trace import SpanKind

        role = self.session.crew.roles[self._agents[agent].role]
        self._begin_step(
            agent,
            "chat",
            model,
            {
                "gen_ai.request.model": model,
                "gen_ai.request.temperature": role.temperature,
                "gen_ai.request.max_tokens": role.max_tokens,
                "gen_ai.output.type": role.output,
            },
            SpanKind.CLIENT,
        )

    def _begin_call(self, agent: str, tool: str) -> None:
        from opentelemetry.trace import SpanKind

        attributes = {"gen_ai.tool.name": tool, "gen_ai.tool.type": "function"}
        self._begin_step(agent, "execute_tool", tool, attributes, SpanKind.INTERNAL)

    def _begin_step(
        self, agent: str, operation: str, name: str, attributes: Mapping[str, Any], kind: Any
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        one = self._agents[agent]
        self._end_step(agent, "interrupted")
        common = self._common(operation, one.role, agent)
        context = self.above if one.task is None else set_span_in_context(one.task)
        one.step = self.tracer.start_span(
            f"{operation} {name}".strip(), context, kind=kind, attributes=common | dict(attributes)
        )

    def _end_step(self, agent: str, error: str = "", attributes: Mapping[str, Any] | None = None) -> None:
        one = self._agents[agent]
        if one.step is not None:
            one.step.set_attributes(dict(attributes or {}))
            _end(one.step, error)
            one.step = None

    def _end_task(self, agent: str, outcome: str, text: str) -> None:
        error = "" if outcome == "completed" else outcome
        self._end_step(agent, error)
        one = self._agents[agent]
        if one.parent is not None and one.task is not None:
            _end(one.task, error, text)
            one.task = None

    def _common(self, operation: str, role: str, agent: str) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.conversation.id": self.session.id,
            "gen_ai.agent.name": role,
            "gen_ai.agent.id": agent,
        }

    def _note(self, event: events.Event) -> None:
        """What has no duration is an event of the span that is open."""
        notes: dict[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
            events.Retried: lambda e: (e.agent, {"wait_ms": e.wait_ms, "why": e.why}),
            events.Waiting: lambda e: (e.agent, {"for": e.waits_for, "after_agent": e.after_agent or ""}),
            events.Messaged: lambda e: (e.author, {"recipient": e.recipient}),
            events.Planned: lambda e: (e.agent, {"round": e.round_number, "steps": len(e.steps)}),
        }
        if type(event) not in notes:
            return
        agent, attributes = notes[type(event)](event)
        one = self._agents.get(agent)
        span = None if one is None else one.step or one.task
        if span is not None:
            named = {f"stepwell.{key}": value for key, value in attributes.items()}
            span.add_event(f"stepwell.{events.kind(event)}", named)


def _usage(usage: events.TurnUsage) -> dict[str, Any]:
    counted = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "stepwell.usage.recomputed_tokens": usage.recomputed_tokens,
    }
    if usage.cost_microusd is not None:
        counted["stepwell.usage.cost_microusd"] = usage.cost_microusd
    return counted


def _end(span: Span, error: str, text: str = "") -> None:
    from opentelemetry.trace import Status, StatusCode

    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR, text[:MAX_TEXT_CHARS] or error))
    with suppress(Exception):  # an exporter's fault is no reason to end a session
        span.end()
