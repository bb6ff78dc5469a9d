"""Several servers as one: every role's turns and hints go where its model is, and so where its KV lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.agents.client import Body, CallingAgent, Client, Hint, Retry, TurnReply
from stepwell.agents.crews.definition import Crew
from stepwell.agents.state import SessionFile
from stepwell.errors import BadInput, StepwellError

MODELS = "models"


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A model and the server that has it."""

    name: str
    """As crews and profiles call it."""
    client: Client
    model: str
    """As the server calls it."""


@dataclass(slots=True)
class Servers:
    """The servers of one session, in place of a ``Client``. An agent stays with the model that it began on.

    What the agents cost is added up by the session, because every server knows its own part alone.
    """

    places: Sequence[ModelPlace]
    """At least one; the first is where roles go that name no model. Several may be of one server."""
    _by_name: Mapping[str, ModelPlace] = field(init=False)
    _met: dict[str, str] = field(default_factory=dict)
    """Per agent, the URL of its server."""

    def __post_init__(self) -> None:
        self._by_name = {place.name: place for place in self.places}

    @property
    def seed(self) -> int:
        """The same at all of them."""
        return self.places[0].client.seed

    @property
    def _clients(self) -> list[Client]:
        """One for each server."""
        return list({place.client.server: place.client for place in self.places}.values())

    def place(self, model: str) -> ModelPlace:
        """Where a model is. Raises ``StepwellError`` where no server has it."""
        if model not in self._by_name:
            raise StepwellError(f"no server has the model {model!r}: there is {', '.join(self._by_name)}")
        return self._by_name[model]

    def trace(self, headers: Callable[[str], Mapping[str, str]]) -> None:
        """Every turn says with these which span it belongs to."""
        for client in self._clients:
            client.trace = headers

    async def only_model(self) -> str:
        """Of roles that name none."""
        return self.places[0].name

    async def end_tokens(self, model: str) -> list[int]:
        """The tokens that end an answer of a model, empty where its server does not say."""
        place = self.place(model)
        return await place.client.end_tokens(place.model)

    async def chat(self, body: Body, caller: CallingAgent, hint: Hint | None, retry: Retry) -> TurnReply:
        """One turn, on the server of the caller's model. Raises as ``Client.chat``."""
        place = self._place_of(caller)
        own_hint = None if hint is None else self._told(place.client, hint)
        return await place.client.chat(body | {"model": place.model}, caller, own_hint, retry)

    async def say(self, caller: CallingAgent, hint: Hint) -> None:
        """A hint between turns, to the server that has the agent. Never an error."""
        client = self._place_of(caller).client
        await client.say(caller, self._told(client, hint))

    async def set_budget(self, session: str, left_microusd: int) -> None:
        """Every server may use all that is left; their sum is held before each turn, by the session."""
        for client in self._clients:
            await client.set_budget(session, left_microusd)

    def _place_of(self, caller: CallingAgent) -> ModelPlace:
        place = self.place(caller.model)
        self._met[caller.agent] = place.client.server
        return place

    def _told(self, client: Client, hint: Hint) -> Hint:
        """Without the agent that is waited for, where another server has it: this one would wait for ever."""
        if self._met.get(str(hint.get("after_agent")), client.server) == client.server:
            return hint
        return {name: value for name, value in hint.items() if name != "after_agent"}


def keep_models(store: SessionFile, crew: Crew, default: str) -> None:
    """Write down which model each role is on; roles that name none are on ``default``, empty: not known.

    Raises ``BadInput`` where a session is resumed with another: an agent does not change its model, because
    its KV would be worth nothing and its answers would be another model's.
    """
    models = {role.name: role.model or default for role in crew.used_roles}
    kept: dict[str, str] = store.get(MODELS) or {}
    for role, model in kept.items():
        if model and models.get(role) and models[role] != model:
            raise BadInput(
                f"the agents of the role {role} in this session are on the model {model!r}, not "
                f"{models[role]!r}: resume it with the same crew, profile and --model"
            )
    store.put(MODELS, models | {role: model for role, model in kept.items() if model})
