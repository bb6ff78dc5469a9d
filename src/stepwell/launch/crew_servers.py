"""Servers of a run or a fit: those of the command line, or one of our own for every model that is named."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew
from stepwell.agents.planner import with_writer
from stepwell.agents.servers import ModelPlace, Servers
from stepwell.basics.this_machine import usable_cores
from stepwell.engines.models import base_model_note, resolve_model
from stepwell.errors import BadInput
from stepwell.launch.embedded import embedded
from stepwell.launch.several import engine_settings
from stepwell.library.store import Library
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import Settings, load

MAX_MODELS = 8
LEAST_DEVICE_KV_TOKENS = 2_048
"""For a server that shares the device's room with others: less holds no prompt of a crew."""
ServerOption = Annotated[
    Sequence[str],
    Parameter(
        help="An OpenAI-compatible server, or MODEL=URL for one model (repeat). [its own, one per model]"
    ),
]
_BEFORE_URL = re.compile(r"=(?=https?://.)", re.DOTALL)
"""The name of a model, a path too, may have a "=" of its own."""
Models = Mapping[str, str]
"""Per model what asks for it, for a sentence where no server has it."""


@dataclass(frozen=True, slots=True)
class Given:
    """``--server`` as it was given; false where it was not."""

    rest: str | None = None
    """Takes every model that is not named."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Per model the URL of its server."""
    key: str | None = None

    @classmethod
    def of(cls, values: Sequence[str], key: str | None = None) -> Given:
        """From the command line. Raises ``BadInput``."""
        rest: list[str] = []
        named: dict[str, str] = {}
        for value in values:
            model, *url = _BEFORE_URL.split(value, maxsplit=1)
            if value.startswith(("http://", "https://")):
                rest.append(value)
            elif not model or not url:
                raise BadInput(f"--server {value} is no URL such as http://127.0.0.1:8000, nor MODEL=URL")
            elif named.setdefault(model, url[0]) != url[0]:
                raise BadInput(f"--server gives the model {model} two servers: one has to be enough")
        if len(rest) > 1:
            raise BadInput(
                f"--server gives {len(rest)} servers without a model: say which has which, as MODEL=URL"
            )
        return cls(rest[0] if rest else None, named, key)

    def __bool__(self) -> bool:
        return bool(self.rest or self.named)

    @property
    def first(self) -> str | None:
        """Where everything is that is asked of one server, such as documents."""
        return self.rest or next(iter(self.named.values()), None)

    @property
    def models(self) -> tuple[str, ...]:
        """That it names; an empty one stands for the only one of a server that takes all."""
        return (*([""] if self.rest else []), *self.named)

    @property
    def api_key(self) -> str:
        """For all of them; servers of our own need none."""
        return self.key or os.environ.get("OPENAI_API_KEY", "none") if self else "none"

    def default(self) -> str:
        """The model of roles that name none: the only one, as far as one knows before asking a server."""
        return next(iter(self.named)) if len(self.named) == 1 and not self.rest else ""

    def address(self, model: str, asking: str) -> Addressed:
        """Where a model is. Raises ``BadInput`` where no server was given for it."""
        if model in self.named:
            return Addressed(model, self.named[model], own=True)
        if self.rest is not None:
            return Addressed(model, self.rest, own=False)
        there = ", ".join(self.named)
        if not model:
            raise BadInput(
                f"{asking} names no model, and --server gives several: "
                f"say which, as in --model NAME, of {there}"
            )
        raise BadInput(
            f"{asking} asks for the model {model!r}, which no server has: there is {there}; "
            f"give one more, as in --server {model}=URL"
        )


@dataclass(frozen=True, slots=True)
class Addressed:
    """A model and the URL of its server."""

    model: str
    """As crews call it; empty: the server's only one."""
    url: str
    own: bool
    """The server is said to have this model, and may call it by another name."""


def models_of(crew: Crew, default: str) -> dict[str, str]:
    """The models that a crew's turns go to, and for each a role that asks for it."""
    found: dict[str, str] = {}
    for role in with_writer(crew).used_roles:
        found.setdefault(role.model or default, f"the role {role.name}")
    return found


async def place_of(addressed: Addressed, client: Client) -> ModelPlace:
    """The model on its server, which is asked. Raises ``StepwellError`` where it does not have it."""
    if addressed.own:
        return ModelPlace(addressed.model, client, await client.called(addressed.model))
    if addressed.model:
        await client.require_model(addressed.model)
    name = addressed.model or await client.only_model()
    return ModelPlace(name, client, name)


@asynccontextmanager
async def opened(addressed: Sequence[Addressed], key: str, seed: int) -> AsyncIterator[Servers]:
    """All of them as one, with a client for each URL. Raises ``StepwellError`` where a model is not there."""
    async with AsyncExitStack() as stack:
        urls = dict.fromkeys(one.url for one in addressed)
        clients = {url: await stack.enter_async_context(Client(url, key, seed)) for url in urls}
        yield Servers([await place_of(one, clients[one.url]) for one in addressed])


@contextmanager
def addresses(
    given: Given, models: Models, scratch: Path, console: Console, library: Library | None = None
) -> Iterator[list[Addressed]]:
    """The server of every model; those of our own run for the time of the block, all with ``library``.
    Raises ``BadInput``."""
    if given:
        yield [given.address(model, asking) for model, asking in models.items()]
        return
    own = own_settings(models)
    notes = [_shares(own)] if len(own) > 1 else []
    bases = [base_model_note(settings.engine.model) for settings in own.values()]
    for note in [*notes, *filter(None, bases)]:
        console.print(note, markup=False, soft_wrap=True)
    with ExitStack() as stack:
        made = []
        for number, (model, settings) in enumerate(own.items()):
            place = scratch / f"server-{number}"
            place.mkdir()
            url = stack.enter_context(served(settings, place, console, library))
            made.append(Addressed(model, url, own=True))
        yield made


# --- servers of our own ----------------------------------------------------------------------------


def default_model() -> str:
    """What a server of our own has where nothing is said."""
    return load().engine.model


def own_settings(models: Models) -> dict[str, Settings]:
    """Per model the settings of its server. Raises ``BadInput`` for one that is not there.

    Several share what the user's settings give to one: threads that wait for each other on too few cores are
    far slower than half as many, and memory does not grow with the number of models.
    """
    if len(models) > MAX_MODELS:
        raise BadInput(f"{len(models)} models are asked for: at most {MAX_MODELS} run at once")
    made = {}
    for model, asking in models.items():
        own = _settings_of(model)
        if own.engine.kind == "llamacpp":
            _require_model(own.engine.model, asking)
        made[model] = _share(own, len(models))
    return made


def _settings_of(model: str) -> Settings:
    """Those of a server that has this one model: one of the user's own, by its name, or another file."""
    own = load()
    for engine in engine_settings(own):
        if model in (engine.name, engine.model):
            return replace(own, engine=engine, models=())
    return replace(load(flags={"engine.model": model}), models=())


def _require_model(model: str, asking: str) -> None:
    try:
        resolve_model(model)
    except BadInput as error:
        raise BadInput(f"{asking}: {error}") from error


def _share(own: Settings, count: int) -> Settings:
    if count == 1:
        return own
    cores = own.engine.threads or usable_cores()
    tokens = own.engine.device_kv_tokens
    engine = replace(
        own.engine,
        threads=max(1, cores // count),
        device_kv_tokens=max(min(tokens, LEAST_DEVICE_KV_TOKENS), tokens // count),
    )
    kv = replace(own.kv, host_kv=own.kv.host_kv // count, disk_kv=own.kv.disk_kv // count)
    return replace(own, engine=engine, kv=kv)


def _shares(own: Mapping[str, Settings]) -> str:
    one = next(iter(own.values()))
    threads = f"{one.engine.threads} thread{'s' if one.engine.threads != 1 else ''}"
    return (
        f"{len(own)} models, a server for each: {', '.join(own)}; each has {threads}, KV of "
        f"{one.engine.device_kv_tokens:,} tokens on the device, {one.kv.host_kv >> 20:,} MiB in host memory "
        f"and {one.kv.disk_kv >> 20:,} MiB on disk."
    )


def embedded_settings(own: Settings, scratch: Path) -> Settings:
    """The user's own settings, but for keys and places: no one else is served, and nothing stays."""
    ledger = replace(own.ledger, path=str(scratch / "ledger.db"))
    kv = replace(own.kv, disk_dir=scratch / "kv")
    return replace(
        own, kv=kv, ledger=ledger, server=ServerSettings(), keys=(), keys_file=None, record=None, budgets=()
    )


@contextmanager
def served(own: Settings, scratch: Path, console: Console, library: Library | None = None) -> Iterator[str]:
    """A server of our own for the time of the block; yields its URL."""
    say: Callable[..., None] = partial(console.print, markup=False, soft_wrap=True)
    settings = embedded_settings(own, scratch)
    loading = (
        f"Loading {settings.engine.model if settings.engine.kind == 'llamacpp' else 'the null engine'} ..."
    )
    say(loading)
    with ExitStack() as stack:
        with console.status(loading) if console.is_terminal else nullcontext():
            node = stack.enter_context(embedded(settings, progress=say, library=library))
        say(f"{node.node.text.name} is served at {node.url}/v1 for this run.")
        yield node.url
