"""The client alone: what is asked again, what is not, and what is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from stepwell.agents.client import CallingAgent, Client, Patience, TurnRefused, TurnReply
from stepwell.agents.limits import Paused
from stepwell.errors import StepwellError
from tests.agents.scripted import failure

WHO = CallingAgent("run 1", "reader-1.x", "reader", "lead")
FINE = {
    "choices": [{"message": {"content": "Yes."}, "finish_reason": "length"}],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "cost": 0.000123,
        "prompt_tokens_details": {"cached_tokens": 4, "recomputed_tokens": 1},
    },
}


def fine() -> httpx2.Response:
    return httpx2.Response(200, json=FINE)


class Server:
    """Answers one after the other; the last one for ever."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def with_client(server: Server, act: Callable[[Client], Any]) -> tuple[Any, list[float]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def scene() -> Any:
        transport = httpx2.MockTransport(server)
        client = Client("http://server", "sk-1", transport=transport, sleep=sleep, patience=Patience(4, 3))
        async with client:
            return await act(client)

    return asyncio.run(scene()), slept


def chat(server: Server) -> tuple[TurnReply, list[float], list[tuple[str, int]]]:
    retries: list[tuple[str, int]] = []
    act = lambda client: client.chat({"model": "m"}, WHO, {"next": "done"}, lambda *r: retries.append(r))  # noqa: E731
    reply, slept = with_client(server, act)
    return reply, slept, retries


def test_a_reply_is_understood_and_the_caller_named() -> None:
    server = Server(fine())
    reply, slept, _ = chat(server)
    assert (reply.message, reply.cut, slept) == ({"role": "assistant", "content": "Yes."}, True, [])
    usage = reply.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.recomputed_tokens) == (7, 4, 1)
    assert (usage.completion_tokens, usage.cost_microusd) == (2, 123)
    headers = server.requests[0].headers
    named = ("authorization", "x-session-id", "x-agent-id", "x-agent-name", "x-parent-agent-id")
    assert [headers[name] for name in named] == ["Bearer sk-1", "run 1", "reader-1.x", "reader", "lead"]
    assert str(server.requests[0].url) == "http://server/v1/chat/completions"


def test_a_full_queue_is_waited_for_as_long_as_it_says() -> None:
    full = failure(429, "rate_limit_exceeded", "Full.", retry_after_ms="700")
    reply, slept, retries = chat(Server(full, full, fine()))
    assert (reply.cut, slept) == (True, [0.7, 0.7])
    assert retries == [("Full. (HTTP 429)", 700)] * 2


def test_lost_connections_are_tried_again_ever_more_slowly() -> None:
    _, slept, _ = chat(Server(httpx2.ConnectError("refused"), failure(502, ""), fine()))
    assert 0.1875 <= slept[0] <= 0.25 and 0.375 <= slept[1] <= 0.5


@pytest.mark.parametrize("answer", [httpx2.ConnectError("refused"), failure(503, "server_overloaded")])
def test_a_server_that_stays_away_pauses_the_session(answer: Any) -> None:
    server = Server(answer)
    with pytest.raises(Paused, match="the server http://server does not answer") as caught:
        chat(server)
    assert (caught.value.status, len(server.requests)) == ("server_unreachable", 3)


def test_what_should_not_be_retried_is_not() -> None:
    server = Server(failure(503, "odd", "Go away.", x_should_retry="false"))
    with pytest.raises(TurnRefused, match="Go away"):
        chat(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_for_the_person(status: int) -> None:
    with pytest.raises(
        StepwellError, match=f"the server http://server says: Wrong. .HTTP {status}."
    ) as caught:
        chat(Server(failure(status, "invalid_api_key", "Wrong.")))
    assert not isinstance(caught.value, TurnRefused | Paused)


@pytest.mark.parametrize(
    "answer", [httpx2.Response(200, text="<html>"), httpx2.Response(200, json={"choices": []})]
)
def test_an_answer_that_is_none_is_refused(answer: httpx2.Response) -> None:
    with pytest.raises(TurnRefused):
        chat(Server(answer))


def streamed(*events: str) -> httpx2.Response:
    return httpx2.Response(200, text="".join(f"data: {event}\n\n" for event in events))


def chat_streamed(server: Server) -> tuple[TurnReply, list[float]]:
    async def act(client: Client) -> TurnReply:
        client.stream = True
        return await client.chat({"model": "m"}, WHO, None, lambda *retry: None)

    return with_client(server, act)


def test_a_stream_is_put_together() -> None:
    call = '{"choices": [{"delta": {"tool_calls": [%s]}}]}'
    server = Server(
        streamed(
            '{"id": "c-1", "choices": [{"delta": {"role": "assistant"}}]}',
            '{"choices": [{"delta": {"content": "Ye"}}]}',
            '{"choices": [{"delta": {"content": "s."}}]}',
            call % '{"index": 0, "id": "t", "function": {"name": "note", "arguments": "{\\"a\\""}}',
            call % '{"index": 0, "function": {"arguments": ": 1}"}}',
            '{"choices": [{"delta": {}, "finish_reason": "length"}]}',
            '{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": '
            '{"cached_tokens_by_kv_tier": {"disk": 4}}}}',
            "[DONE]",
        )
    )
    reply, _ = chat_streamed(server)
    assert (reply.id, reply.cut, reply.message["content"]) == ("c-1", True, "Yes.")
    assert reply.message["tool_calls"] == [
        {"id": "t", "type": "function", "function": {"name": "note", "arguments": '{"a": 1}'}}
    ]
    assert (reply.usage.prompt_tokens, reply.usage.cached_by_tier) == (7, {"disk": 4})
    assert reply.usage.first_token_us is not None
    assert b"include_usage" in server.requests[0].content


@pytest.mark.parametrize(
    "broken",
    [
        ('{"choices": [{"delta": {"content": "Ye"}}]}',),
        ('{"error": {"message": "the engine failed"}}', "[DONE]"),
        ("{not json", "[DONE]"),
    ],
)
def test_a_stream_that_breaks_is_asked_for_again(broken: tuple[str, ...]) -> None:
    whole = streamed('{"choices": [{"delta": {"content": "Yes."}}]}', "[DONE]")
    reply, slept = chat_streamed(Server(streamed(*broken), whole))
    assert (reply.message["content"], len(slept)) == ("Yes.", 1)
    with pytest.raises(Paused):
        chat_streamed(Server(streamed(*broken)))


def test_a_server_that_minds_the_field_is_asked_without_it() -> None:
    server = Server(failure(400, "unknown_parameter", "Unknown parameter: agent_hint"), fine())
    chat(server)
    assert [b"agent_hint" in request.content for request in server.requests] == [True, False]


def test_hints_of_agents_that_are_not_known_yet_do_not_end_the_hints() -> None:
    server = Server(failure(404, "agent_not_found"), failure(404, "unknown_url"), fine())

    async def act(client: Client) -> list[bool]:
        known = []
        for _ in range(3):
            await client.say(WHO, {"next": "done"})
            known.append(client.hints)
        return known

    assert with_client(server, act)[0] == [True, False, False]
    assert len(server.requests) == 2
    assert server.requests[0].url.raw_path == b"/v1/agents/run%201/reader-1.x/hint"


@pytest.mark.parametrize("models", [[], ["a", "b"]])
def test_the_only_model_is_taken_and_no_other_guessed(models: list[str]) -> None:
    server = Server(httpx2.Response(200, json={"data": [{"id": name} for name in models]}))
    with pytest.raises(StepwellError, match=f"serves {len(models)} models"):
        with_client(server, lambda client: client.only_model())


def test_names_of_one_model_are_one_model() -> None:
    listed = [{"id": name, "root": "small-1b"} for name in ("small", "small-1b")]
    answer = lambda: httpx2.Response(200, json={"data": listed})  # noqa: E731
    assert with_client(Server(answer()), lambda client: client.only_model())[0] == "small-1b"
    assert with_client(Server(answer()), lambda client: client.called("small"))[0] == "small"
    assert with_client(Server(answer()), lambda client: client.called("mine"))[0] == "small-1b"


def test_an_embedding_model_beside_the_chat_model_is_no_second_choice() -> None:
    listed = [{"id": "small-1b", "root": "small-1b"}, {"id": "minilm", "type": "embedding"}]
    answer = lambda: httpx2.Response(200, json={"data": listed})  # noqa: E731
    assert with_client(Server(answer()), lambda client: client.only_model())[0] == "small-1b"
    assert with_client(Server(answer()), lambda client: client.called("mine"))[0] == "small-1b"


def test_the_servers_budget_counts_from_what_is_spent_there() -> None:
    session = httpx2.Response(200, json={"spend_control": {"limit": None, "consumed": 1.5}})
    server = Server(session, httpx2.Response(200, json={}))
    with_client(server, lambda client: client.set_budget("run 1", 20_000))
    assert server.requests[1].content == b'{"spend_control":{"limit":3.5}}'
