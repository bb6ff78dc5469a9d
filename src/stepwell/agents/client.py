"""Chat completions of any OpenAI-compatible server, with the caller and what comes next.

Full queues and lost connections are waited for; a spent budget pauses the session; what the server
refuses ends the agent with the server's own sentence. A server that knows no hints is asked once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from stepwell.agents.events import TurnUsage
from stepwell.agents.limits import Paused, budget_reached
from stepwell.agents.streaming import STREAMED, collected
from stepwell.errors import StepwellError

TURN_TIMEOUT_S = 900.0
HINT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 256
MAX_HINTS_AT_ONCE = 16
"""So that hundreds of agents that end together do not open as many connections, each a cost ever after."""
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
FIRST_WAIT_MS = 250
LONGEST_WAIT_MS = 8_000
MICROUSD_PER_CENT = 10_000
FATAL = frozenset({401, 403, 404})
"""A wrong key or model: no agent of the session would fare better."""

Body = dict[str, Any]
Hint = Mapping[str, Any]
Retry = Callable[[str, int], None]
Read = Callable[[httpx2.Response], Awaitable[dict[str, Any]]]


class TurnRefused(StepwellError):
    """The server will not do this turn, however often it is asked: its own sentence."""


@dataclass(frozen=True, slots=True)
class CallingAgent:
    """Which agent of which session calls."""

    session: str
    agent: str
    role: str
    parent: str | None = None
    model: str = ""
    """As its crew calls it; with several servers it says where the agent's KV lies."""

    def headers(self) -> dict[str, str]:
        headers = {"X-Session-ID": self.session, "X-Agent-ID": self.agent, "X-Agent-Name": self.role}
        return headers if self.parent is None else headers | {"X-Parent-Agent-ID": self.parent}

    @property
    def path(self) -> str:
        """Where its hints go."""
        return f"/agents/{quote(self.session)}/{quote(self.agent)}/hint"


@dataclass(frozen=True, slots=True)
class TurnReply:
    """One answered turn: the message as it is kept, and what it took."""

    message: dict[str, Any]
    usage: TurnUsage
    cut: bool
    """It ended at ``max_tokens``."""
    id: str = ""
    """The server's; empty where it gives none."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server that does not answer is waited for."""

    full_attempts: int = 200
    """A queue that is full is normal under load."""
    lost_attempts: int = 6
    """Connections that fail, and answers that say the server is broken."""


class _AgainError(Exception):
    """Asking again may help."""


@dataclass(slots=True)
class _Failed:
    """The tries of one request so far."""

    patience: Patience
    full: int = 0
    lost: int = 0
    response: httpx2.Response | None = None
    """The last one; None where the connection was lost."""
    why: str = ""

    def note(self, response: httpx2.Response | None, why: str) -> None:
        self.response, self.why = response, why
        if response is not None and response.status_code == 429:
            self.full += 1
        else:
            self.lost += 1

    @property
    def is_enough(self) -> bool:
        return self.lost >= self.patience.lost_attempts or self.full >= self.patience.full_attempts


@dataclass(slots=True)
class Client:
    """One server. Use as a context; calls may run at once."""

    server: str
    api_key: str = "none"
    seed: int = 0
    patience: Patience = field(default_factory=Patience)
    transport: httpx2.AsyncBaseTransport | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    hints: bool = True
    """Off once the server has shown that it knows none."""
    stream: bool = False
    """Whether answers are streamed, so that the time to their first token is known."""
    trace: Callable[[str], Mapping[str, str]] = lambda agent: {}
    """Headers that name the span of an agent's turn, so that the server's own span is part of the trace."""
    _http: httpx2.AsyncClient = field(init=False)
    _random: random.Random = field(init=False)
    _saying: asyncio.Semaphore = field(init=False)

    async def __aenter__(self) -> Client:
        base = self.server.rstrip("/")
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        self._http = httpx2.AsyncClient(
            base_url=base if base.endswith("/v1") else base + "/v1",
            headers={"Authorization": f"Bearer {self.api_key}"},
            timeout=TURN_TIMEOUT_S,
            limits=limits,
            transport=self.transport,
            # A proxy from the environment must not come between us and our own loopback.
            trust_env="//127.0.0.1" not in base and "//localhost" not in base,
        )
        self._random = random.Random(self.seed)
        self._saying = asyncio.Semaphore(MAX_HINTS_AT_ONCE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def only_model(self) -> str:
        """The server's model. Raises ``StepwellError`` when it serves several or none."""
        names = list(dict.fromkeys((await self._models()).values()))
        if len(names) != 1:
            raise StepwellError(
                f"{self.server} serves {len(names)} models ({', '.join(names[:5]) or 'none'}): name one, "
                "as in --model NAME or in the role"
            )
        return names[0]

    async def called(self, model: str) -> str:
        """What the server calls a model that it is said to have: the same, or its only one.

        Raises ``StepwellError`` when it serves several others, or none.
        """
        known = await self._models()
        if model in known:
            return model
        names = list(dict.fromkeys(known.values()))
        if len(names) != 1:
            there = f"there is {', '.join(names[:5])}" if names else "it lists none"
            raise StepwellError(f"{self.server} does not serve the model {model!r}: {there}")
        return names[0]

    async def _models(self) -> dict[str, str]:
        """Per name of a chat model that the server lists, the model behind it: one may have several."""
        data = await self._ask("GET", "/models", None, {}, _quiet)
        models = [model for model in data.get("data") or () if isinstance(model, dict)]
        listed = [model for model in models if model.get("type") != "embedding"]
        names = {str(model.get("id")) for model in listed}
        return {
            str(model.get("id")): str(model["root"] if model.get("root") in names else model.get("id"))
            for model in listed
        }

    async def require_model(self, model: str) -> None:
        """Raises ``StepwellError`` where the server says that it has no such model. Many list only a part of
        what they take, so those that say nothing of the kind are believed to have it."""
        try:
            response = await self._http.get(f"/models/{quote(model, safe='')}")
        except httpx2.HTTPError:
            return  # a server that is not there is waited for at the first turn
        if _code(response) == "model_not_found":
            raise StepwellError(f"{self.server} does not serve the model {model!r}: {_sentence(response)}")

    async def end_tokens(self, model: str) -> list[int]:
        """The tokens that end an answer of a model, empty where the server does not say.

        ``end_token_ids`` of the model is Stepwell's own; OpenAI's models have no such field.
        """
        given = (await self.told(f"/models/{quote(model)}")).get("end_token_ids")
        return [token for token in given if isinstance(token, int)] if isinstance(given, list) else []

    async def told(self, path: str) -> dict[str, Any]:
        """What the server says at a path, such as ``/models/NAME``; empty where it says nothing."""
        try:
            return await self._ask("GET", path, None, {}, _quiet)
        except StepwellError:
            return {}

    async def chat(self, body: Body, caller: CallingAgent, hint: Hint | None, retry: Retry) -> TurnReply:
        """One turn. Raises ``TurnRefused``, ``Paused`` or ``StepwellError``."""
        began_s = time.perf_counter()
        body = body | STREAMED if self.stream else body
        sent = body | {"agent_hint": dict(hint)} if hint and self.hints else body
        read = collected if self.stream else _whole
        headers = caller.headers() | dict(self.trace(caller.agent))
        try:
            data = await self._ask("POST", "/chat/completions", sent, headers, retry, read)
        except TurnRefused as error:
            if "agent_hint" not in sent or "agent_hint" not in str(error):
                raise
            self.hints = False
            data = await self._ask("POST", "/chat/completions", body, headers, retry, read)
        return _reply(data, began_s)

    async def say(self, caller: CallingAgent, hint: Hint) -> None:
        """A hint between turns. Never an error: a server that takes none is not told again."""
        if not self.hints:
            return
        try:
            async with self._saying:
                response = await self._http.post(
                    caller.path, json=dict(hint), headers=caller.headers(), timeout=HINT_TIMEOUT_S
                )
        except httpx2.HTTPError:
            return
        if response.status_code in (404, 405, 501) and _code(response) != "agent_not_found":
            self.hints = False

    async def set_budget(self, session: str, left_microusd: int) -> None:
        """Have the server stop the session where the budget ends; servers without budgets are left alone."""
        path = f"/sessions/{quote(session)}"
        try:
            before = await self._http.get(path)
            control = _json(before).get("spend_control") or {} if before.status_code == 200 else {}
            limit = Decimal(str(control.get("consumed") or 0)) + Decimal(left_microusd) / MICROUSD_PER_CENT
            await self._http.post(path, json={"spend_control": {"limit": float(limit)}})
        except (httpx2.HTTPError, TurnRefused, ArithmeticError):
            return

    async def _ask(
        self,
        method: str,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
        retry: Retry,
        read: Read | None = None,
    ) -> dict[str, Any]:
        failed = _Failed(self.patience)

        def say(state: RetryCallState) -> None:
            wait_s = 0.0 if state.next_action is None else state.next_action.sleep
            retry(failed.why, round(wait_s * 1_000))

        tries = AsyncRetrying(
            sleep=self.sleep,
            retry=retry_if_exception_type(_AgainError),
            stop=lambda state: failed.is_enough,
            wait=lambda state: self._wait_ms(failed.response, failed.full + failed.lost) / 1_000,
            before_sleep=say,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    return await self._once(method, path, body, headers, read or _whole, failed)
        except _AgainError:
            pass
        why = f"the server {self.server} does not answer: {failed.why}; resume later"
        raise Paused("server_unreachable", why)

    async def _once(
        self,
        method: str,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
        read: Read,
        failed: _Failed,
    ) -> dict[str, Any]:
        """One try. Raises ``_AgainError`` where another may help, and what ends the turn."""
        try:
            async with self._http.stream(method, path, json=body, headers=dict(headers)) as answer:
                if answer.status_code == 200:
                    return await read(answer)
                await answer.aread()
        except httpx2.HTTPError as error:
            failed.note(None, f"{type(error).__name__} {error}".strip())
        else:
            why = _sentence(answer)
            self._require_retry(answer, why)
            failed.note(answer, why)
        raise _AgainError

    def _require_retry(self, response: httpx2.Response, why: str) -> None:
        """Raises unless asking again may help."""
        if _code(response) in ("session_budget_exceeded", "agent_budget_exceeded", "insufficient_quota"):
            raise budget_reached(f"the server says: {why}")
        final = response.headers.get("x-should-retry", "").lower() == "false"
        if response.status_code in FATAL:
            raise StepwellError(f"the server {self.server} says: {why}")
        if final or response.status_code not in RETRIED:
            raise TurnRefused(why)

    def _wait_ms(self, response: httpx2.Response | None, attempts: int) -> int:
        """What the server asks for, else twice as long each time, and never all agents at once."""
        asked = "" if response is None else response.headers.get("retry-after-ms", "")
        if asked.isascii() and asked.isdigit():
            return min(max(int(asked), 10), LONGEST_WAIT_MS)
        longest = min(FIRST_WAIT_MS << min(attempts - 1, 8), LONGEST_WAIT_MS)
        return longest - self._random.randrange(longest // 4)


async def _whole(response: httpx2.Response) -> dict[str, Any]:
    await response.aread()
    return _json(response)


def _quiet(why: str, wait_ms: int) -> None:
    """There is no observer yet."""


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        value = json.loads(response.content, parse_float=Decimal)
    except ValueError as error:
        raise TurnRefused(
            f"the server answered {response.status_code} with something that is not JSON"
        ) from error
    return value if isinstance(value, dict) else {}


def _error(response: httpx2.Response) -> dict[str, Any]:
    try:
        error = _json(response).get("error")
    except TurnRefused:
        return {}
    return error if isinstance(error, dict) else {}


def _code(response: httpx2.Response) -> str:
    return str(_error(response).get("code") or "")


def _sentence(response: httpx2.Response) -> str:
    """The server's own, or the beginning of whatever it sent."""
    said = _error(response).get("message") or response.text[:200].strip()
    return f"{said or 'no reason'} (HTTP {response.status_code})"


def _reply(data: Mapping[str, Any], began_s: float) -> TurnReply:
    try:
        choice = data["choices"][0]
        said = choice["message"]
        message: dict[str, Any] = {"role": "assistant", "content": said.get("content") or ""}
        if calls := said.get("tool_calls"):
            message["tool_calls"] = [_call(call) for call in calls]
        usage, cut = _usage(data.get("usage") or {}), choice.get("finish_reason") == "length"
        if (first_s := data.get("first_token_s")) is not None:
            usage = replace(usage, first_token_us=round((first_s - began_s) * 1_000_000))
        return TurnReply(message, usage, cut, str(data.get("id") or ""))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise TurnRefused("the server's answer is no chat completion") from error


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    named = {"name": str(function["name"]), "arguments": str(function.get("arguments") or "{}")}
    return {"id": str(call["id"]), "type": "function", "function": named}


def _usage(usage: Mapping[str, Any]) -> TurnUsage:
    details = usage.get("prompt_tokens_details") or {}
    cost = usage.get("cost")
    return TurnUsage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        recomputed_tokens=int(details.get("recomputed_tokens") or 0),
        cached_by_tier=dict(details.get("cached_tokens_by_kv_tier") or {}),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cost_microusd=None if cost is None else round(Decimal(str(cost)) * 1_000_000),
    )
