"""Profiles: the same crew with fewer agents, other models, fewer samples, and a price on every token.

``pro`` is the crew as it is written. ``flash`` is what the crew's file says under ``[profiles.flash]``, or
what ``stepwell profile fit`` found; where there is neither, a flash that fits any crew::

    [profile]
    name = "flash"
    crew = "code"
    drop = ["planner", "critic"]          # agents that do not pay for themselves
    model = ""                            # of all roles that are not given one here; empty: each role's own
    wave = 1                              # samples asked for at once; 0: all
    [profile.penalty]
    token_price_usd_per_million = 2.0     # of intermediate tokens, for the crew's own decisions
    answer_value_usd = 0.0005
    eos_bias = 4.0
    eos_bias_tokens = 400
    [profile.roles.coder]                 # any setting of a role
    samples = 3
    max_tokens = 96
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import role_values
from stepwell.agents.crews.tables import names_file, read_table
from stepwell.agents.crews.values import (
    names_of,
    number_of,
    require_keys,
    require_known,
    table_of,
    typed,
    whole_of,
)
from stepwell.agents.penalty import Penalty
from stepwell.errors import BadInput

PRO, FLASH = "pro", "flash"
LUXURIES = ("planner", "critic", "judge")
"""Roles that ship and that a crew can do without: a flash that was not fitted goes without them."""
MOST_USD = 1_000_000
MOST_BIAS = 100
_KEYS = ("name", "crew", "drop", "model", "wave", "penalty", "roles")
_PENALTY_KEYS = ("token_price_usd_per_million", "answer_value_usd", "eos_bias", "eos_bias_tokens")
# What a role may be set to that TOML has a short form for: the rest of a role is the crew's own matter.
_ROLE_KEYS = (
    "model", "max_tokens", "temperature", "max_turns", "shots", "samples", "pass_rate", "usual_tokens",
    "instructions", "description", "briefed", "check", "stop",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """What is changed of a crew. One that says nothing changes nothing."""

    name: str
    crew: str = ""
    """The crew it is for; empty: any that has its roles."""
    drop: tuple[str, ...] = ()
    model: str = ""
    wave: int = 0
    penalty: Penalty | None = None
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per role: the settings of ``Role`` that are other ones."""


FALLBACK_FLASH = Profile(
    FLASH,
    drop=LUXURIES,
    wave=1,
    penalty=Penalty(token_price_microusd=2_000_000, answer_value_microusd=500, eos_bias=2.0),
)
"""A flash for crews that say none: no luxuries, one sample after another, two dollars a million tokens
against a twentieth of a cent an answer."""


def general_says(crew: str) -> str:
    """In one sentence, what the general flash changes of a crew that has none of its own."""
    penalty = FALLBACK_FLASH.penalty
    assert penalty is not None
    return (
        f"The crew {crew} has no profile flash of its own; the general one applies: no "
        f"{', '.join(LUXURIES[:-1])} or {LUXURIES[-1]}, one sample after another, and "
        f"{penalty.token_price_microusd / 1e6:g} USD per million intermediate tokens against "
        f"{penalty.answer_value_microusd / 1e6:g} USD for a right answer. 'stepwell profile fit' finds one."
    )


def find_profile(crew: Crew, name: str) -> Profile:
    """``pro``, ``flash``, another of the crew's own, or a TOML or YAML file. Raises ``BadInput``."""
    if name in crew.profiles:
        where = f"crew {crew.name}: [profiles.{name}]"
        return parse_profile(table_of(crew.profiles, name, where), where, name)
    if names_file(name):
        return load_profile(Path(name))
    require_known(name, [*dict.fromkeys([*crew.profiles, PRO, FLASH]), "a TOML or YAML file"], "profile")
    return Profile(PRO) if name == PRO else FALLBACK_FLASH


def load_profile(path: Path) -> Profile:
    """The profile in a TOML or YAML file. Raises ``BadInput``."""
    data = read_table(path, "profile")
    require_keys(data, ("profile",), str(path))
    return parse_profile(table_of(data, "profile", str(path)), f"{path}: [profile]", path.stem)


def parse_profile(data: Mapping[str, Any], where: str = "profile", name: str = "") -> Profile:
    """A profile of its table. Raises ``BadInput`` with one sentence that names the key."""
    require_keys(data, _KEYS, where)
    roles = table_of(data, "roles", where)
    for role in roles:
        require_keys(table_of(roles, role, where), _ROLE_KEYS, f"{where}: roles.{role}")
    return Profile(
        name=typed(data, "name", str, where, name),
        crew=typed(data, "crew", str, where, ""),
        drop=names_of(data, "drop", where),
        model=typed(data, "model", str, where, ""),
        wave=whole_of(data, "wave", where) if "wave" in data else 0,
        penalty=_penalty(table_of(data, "penalty", where), f"{where}: penalty")
        if "penalty" in data
        else None,
        roles={role: role_values(roles[role], f"{where}: roles.{role}") for role in roles},
    )


def _penalty(data: Mapping[str, Any], where: str) -> Penalty:
    require_keys(data, _PENALTY_KEYS, where)
    for key in _PENALTY_KEYS[:2]:
        if key not in data:
            raise BadInput(f"{where}: {key} is missing: a price and a value are weighed against each other")
    return Penalty(
        token_price_microusd=_microusd(data, "token_price_usd_per_million", where),
        answer_value_microusd=_microusd(data, "answer_value_usd", where),
        eos_bias=number_of(data, "eos_bias", where, most=MOST_BIAS),
        eos_bias_tokens=whole_of(data, "eos_bias_tokens", where) if "eos_bias_tokens" in data else 400,
    )


def _microusd(data: Mapping[str, Any], key: str, where: str) -> int:
    number_of(data, key, where, most=MOST_USD)
    return round(Decimal(str(data[key])) * 1_000_000)


def apply(crew: Crew, profile: Profile) -> Crew:
    """The crew under a profile. Raises ``BadInput`` where the two do not fit."""
    where = f"profile {profile.name}"
    if profile.crew and profile.crew != crew.name:
        raise BadInput(f"{where} is for the crew {profile.crew}, not {crew.name}")
    general = profile is FALLBACK_FLASH
    for name in [*(() if general else profile.drop), *profile.roles]:
        require_known(name, crew.roles, f"{where}: role")
    drop = profile.drop
    if crew.entry in drop and not crew.roles[crew.entry].plans:
        if not general:
            raise BadInput(f"{where} drops {crew.entry}, which is asked: only a planner can be spared there")
        drop = tuple(name for name in drop if name != crew.entry)
    model = {"model": profile.model} if profile.model else {}
    roles = {
        name: replace(role, **(model | dict(profile.roles.get(name, {}))))
        for name, role in crew.roles.items()
    }
    dropped = tuple(dict.fromkeys([*crew.dropped, *drop]))
    return replace(crew, roles=roles, dropped=dropped, wave=profile.wave, penalty=profile.penalty)


def dump(profile: Profile) -> str:
    """The profile as TOML that ``load_profile`` reads again."""
    lines = ["[profile]", f"name = {_text(profile.name)}"]
    if profile.crew:
        lines.append(f"crew = {_text(profile.crew)}")
    lines.append(f"drop = {json.dumps(list(profile.drop))}")
    if profile.model:
        lines.append(f"model = {_text(profile.model)}")
    lines.append(f"wave = {profile.wave}")
    if (penalty := profile.penalty) is not None:
        lines += [
            "[profile.penalty]",
            f"token_price_usd_per_million = {_usd(penalty.token_price_microusd)}",
            f"answer_value_usd = {_usd(penalty.answer_value_microusd)}",
            f"eos_bias = {penalty.eos_bias}",
            f"eos_bias_tokens = {penalty.eos_bias_tokens}",
        ]
    for name, settings in profile.roles.items():
        lines.append(f"[profile.roles.{name}]")
        lines += [
            f"{key} = {_text(list(value) if isinstance(value, tuple) else value)}"
            for key, value in settings.items()
        ]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """A string, number or truth as TOML writes it; its escapes are those of JSON, but for surrogates."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _usd(microusd: int) -> str:
    return f"{Decimal(microusd) / 1_000_000:f}" if microusd % 1_000_000 else f"{microusd // 1_000_000}.0"
