"""OpenAI's Agents SDK: ``set_trace_processors([StepwellTracing()])``, with tracing on; it exports nothing."""

from __future__ import annotations

from typing import Any

from stepwell.integrations._tell import SessionAgent, Teller, caller, needs, override

with needs("openai-agents"):
    from agents.models import chatcmpl_helpers, openai_responses
    from agents.tracing import Span, TracingProcessor, get_current_trace
HEADERS = (chatcmpl_helpers.HEADERS_OVERRIDE, openai_responses._HEADERS_OVERRIDE)


class StepwellTracing(TracingProcessor):
    """Which agent acts in which run, as the SDK traces it. A trace, or its ``group_id``, is a session."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, end: str = "done") -> None:
        self.teller = Teller(base_url, api_key, end)
        self._acts: dict[str, tuple[SessionAgent, str]] = {}  # by open span: which agent, in which run
        self._gave: dict[str, list[SessionAgent]] = {}  # by run: the agents that handed over
        self._undo: dict[str, Any] = {}

    def on_span_start(self, span: Span[Any]) -> None:
        kind, (who, run) = span.span_data.type, self._acts.get(span.parent_id or "", (None, ""))
        if kind == "agent":
            run = span.parent_id or span.trace_id
            who = self._begin(span, run, who)
        elif who is not None and kind == "function":
            self.teller.began(who, span.span_data.name, span.span_id)
        elif who is not None and kind in ("generation", "response"):
            self._undo[span.span_id] = override(HEADERS, self.teller.turn(who))
        if who is not None:
            self._acts[span.span_id] = who, run

    def _begin(self, span: Span[Any], run: str, above: SessionAgent | None) -> SessionAgent:
        givers, name = self._gave.get(run, []), span.span_data.name
        waiting, taken = givers[-1] if givers else above, [who for who, _ in list(self._acts.values())]
        own = run if above else getattr(get_current_trace(), "group_id", None) or span.trace_id
        who, *_ = [one for one in givers if one.name == name] or [caller(name, own, above, waiting, taken)]
        if waiting is not None:
            self.teller.waits(waiting, "child", after=who)
        return who

    def on_span_end(self, span: Span[Any]) -> None:
        data, (who, run) = span.span_data, self._acts.pop(span.span_id, (None, ""))
        self._undo.pop(span.span_id, lambda: None)()
        over = self._gave.pop(span.span_id, [])  # it was a run
        if who is not None and data.type == "function":
            self.teller.ended(who, span.span_id, asks=data.input is not None and data.output is None)
        elif who is not None and data.type == "handoff":
            self._gave.setdefault(run, []).append(who)
        elif who is not None and data.type == "agent" and who not in self._gave.get(run, [])[-1:]:
            over += [*self._gave.pop(run, []), who]
        for one in over:
            self.teller.ends(one)

    def on_trace_start(self, *_: Any) -> None: ...

    on_trace_end = shutdown = force_flush = on_trace_start  # type: ignore[assignment]
