"""LangGraph: ``ChatStepwell`` for ``ChatOpenAI``, and ``graph.with_config(callbacks=[Stepwell()])``."""

from __future__ import annotations

from typing import Any

from stepwell.integrations._tell import SessionAgent, Teller, caller, needs, with_headers

with needs("langgraph langchain-openai"):
    from langchain_core.runnables.config import var_child_runnable_config
    from langchain_openai import ChatOpenAI
    from langgraph.callbacks import GraphCallbackHandler


class Stepwell(GraphCallbackHandler):
    """A node that calls a model is an agent, a thread a session. A graph that a tool runs begins anew."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, end: str = "done") -> None:
        self.teller, self.run_inline = Teller(base_url, api_key, end), True
        self._ways: dict[Any, list[tuple[Any, str | None]]] = {}  # every run and those around it: id, name
        self._last: dict[Any, SessionAgent] = {}  # by run: the agent that called last in it

    def on_chain_start(self, serialized: Any, given: Any, /, *, run_id: Any, **more: Any) -> None:  # type: ignore[override]
        name = None if "tool_call_id" in more else str(more.get("name"))
        self._ways[run_id] = [(run_id, name), *self._ways.get(more.get("parent_run_id"), [])]

    def on_chain_end(self, outputs: Any, *, run_id: Any, **more: Any) -> None:
        self.teller.over(run_id)
        self._ways.pop(run_id, None), self._last.pop(run_id, None)

    def on_interrupt(self, event: Any) -> None:
        self.teller.over(*[run for run, _ in self._ways.get(event.run_id, [])], wait="person")

    def on_llm_end(self, response: Any, *, parent_run_id: Any = None, **more: Any) -> None:
        if who := self._last.get(parent_run_id):
            self.teller.asked(who, [one["name"] for one in response.generations[0][0].message.tool_calls])

    def turn(self, run: Any, said: dict[str, Any]) -> dict[str, str]:
        (way, names), node = zip(*self._ways.get(run, [(run, "")]), strict=True), said.get("langgraph_node")
        at = names.index(node) + 1 if node in names else len(way) - 1
        outer = next((i for i in range(at + 1, len(way)) if way[i] in self._last), at)
        above, fresh = self._last[way[outer]] if outer > at else None, None in names[at:outer]
        role = f"{names[at]}.{node}".removeprefix("LangGraph.").removesuffix(".agent")
        own, (kind, nth, *_) = said.get("thread_id") or way[-1], said.get("langgraph_path") or ("", "")
        own = way[at] if fresh else own
        who = caller(role, str(own), above, nth=nth if kind == "__pregel_push" else "")
        headers = self.teller.turn(who, None if way[at] in self._last else above, way[at if fresh else -1])
        self._last[run] = self._last[way[at]] = who
        return headers

    on_tool_start, on_chain_error, on_tool_end, on_tool_error = on_chain_start, *[on_chain_end] * 3  # type: ignore[assignment]


class ChatStepwell(ChatOpenAI):
    def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        payload, config = super()._get_request_payload(*args, **kwargs), var_child_runnable_config.get() or {}
        held: Any = config.get("callbacks")
        for told in [one for one in getattr(held, "handlers", []) if isinstance(one, Stepwell)]:
            payload = with_headers(payload, told.turn(held.parent_run_id, config.get("metadata") or {}))
        return payload
