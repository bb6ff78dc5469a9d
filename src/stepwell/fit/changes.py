"""What can be changed of a profile, one part at a time, and how such a change is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepwell.agents.crews.definition import Crew, Role
from stepwell.agents.crews.profile import Profile, apply
from stepwell.agents.penalty import Penalty
from stepwell.agents.planner import with_writer
from stepwell.errors import BadInput

LADDER = (1, 2, 3, 5, 8, 13, 21, 34)
"""Numbers of samples that are tried."""
TRADE_FACTOR = 4
"""How many times as many samples an agent may be given up for, at most."""


@dataclass(frozen=True, slots=True)
class Change:
    """A profile with one part less than another."""

    part: str
    """What is spared: ``the critic``, ``samples of the solver``."""
    done: str
    """What was done about it: ``dropped``, ``3 instead of 5``."""
    profile: Profile
    adds: bool = False
    """A rule is added and no part taken away: one that changes nothing is left out."""


def without_role(profile: Profile, role: str) -> Profile:
    roles = {name: settings for name, settings in profile.roles.items() if name != role}
    return replace(profile, drop=(*profile.drop, role), roles=roles)


def with_setting(profile: Profile, role: str, **settings: Any) -> Profile:
    """The profile with other settings of one role."""
    own = dict(profile.roles.get(role, {})) | settings
    return replace(profile, roles=dict(profile.roles) | {role: own})


def used_roles(crew: Crew, profile: Profile) -> dict[str, Role]:
    """Those that a profile leaves, as it sets them."""
    applied = apply(crew, profile)
    return {name: role for name, role in applied.roles.items() if name not in applied.dropped}


def spared_roles(crew: Crew, profile: Profile, needed: str) -> Iterator[Change]:
    """Without each role that can be spared: all but the one that answers alone."""
    for name in used_roles(crew, profile):
        changed = without_role(profile, name)
        if name != needed and _fits(crew, changed):
            yield Change(f"the {name}", "dropped", changed)


def traded_roles(crew: Crew, profile: Profile, needed: str) -> Iterator[Change]:
    """Without a role, and with more samples of one that is left: what is spared is spent on those.

    One after another, so that only questions that need more are asked more often. The fewest first.
    """
    for change in spared_roles(crew, profile, needed):
        for name, role in used_roles(crew, change.profile).items():
            for count in LADDER:
                if role.samples < count <= TRADE_FACTOR * role.samples and (role.check or role.samples > 1):
                    changed = replace(with_setting(change.profile, name, samples=count), wave=1)
                    done = f"dropped, for up to {count} samples of the {name} one after another"
                    yield Change(change.part, done, changed)


def _fits(crew: Crew, profile: Profile) -> bool:
    try:
        with_writer(apply(crew, profile))
    except BadInput:
        return False
    return True


def fewer_samples(crew: Crew, profile: Profile, role: str) -> Iterator[Change]:
    """The fewest first."""
    most = used_roles(crew, profile)[role].samples
    for count in LADDER:
        if count < most:
            changed = with_setting(profile, role, samples=count)
            yield Change(f"samples of the {role}", f"{count} instead of {most}", changed)


def other_models(crew: Crew, profile: Profile, models: Sequence[str], role: str = "") -> Iterator[Change]:
    """Each other model for a role, or for all of them at once; those that no role names are on the first."""
    used = used_roles(crew, profile)
    now = list(dict.fromkeys(one.model or models[0] for name, one in used.items() if role in ("", name)))
    for model in models:
        if now != [model]:
            changed = with_setting(profile, role, model=model) if role else _all_on(profile, model)
            whose = f"the {role}" if role else "all"
            yield Change(f"the model of {whose}", f"{model} instead of {', '.join(now)}", changed)


def _all_on(profile: Profile, model: str) -> Profile:
    own = {name: {**settings} for name, settings in profile.roles.items()}
    for settings in own.values():
        settings.pop("model", None)
    return replace(profile, model=model, roles={name: one for name, one in own.items() if one})


def one_sample(crew: Crew, profile: Profile) -> Iterator[Change]:
    """Each role that gives several answers gives one."""
    for name, role in used_roles(crew, profile).items():
        if role.samples > 1:
            changed = with_setting(profile, name, samples=1)
            yield Change(f"further samples of the {name}", f"1 instead of {role.samples}", changed)


def no_check(crew: Crew, profile: Profile) -> Iterator[Change]:
    """Each role whose answers are checked goes unchecked."""
    for name, role in used_roles(crew, profile).items():
        if role.check:
            changed = with_setting(profile, name, check="")
            yield Change(f"the check of the {name} ({role.check})", "dropped", changed)


def shorter_answers(crew: Crew, profile: Profile, role: str, limits: list[int]) -> Iterator[Change]:
    """The shortest first; longer ones than now are left out."""
    most = used_roles(crew, profile)[role].max_tokens
    for limit in sorted(set(limits)):
        if limit < most:
            changed = with_setting(profile, role, max_tokens=limit)
            done = f"at most {limit} tokens, not {most}"
            yield Change(f"long answers of the {role}", done, changed, adds=True)


def one_at_a_time(crew: Crew, profile: Profile) -> Iterator[Change]:
    """Samples after one another, so that a checked or settled answer saves the rest."""
    several = any(role.samples > 1 for role in used_roles(crew, profile).values())
    if several and profile.wave != 1:
        before = f"{profile.wave} at once" if profile.wave else "all at once"
        yield Change(
            "samples at once", f"one after another, not {before}", replace(profile, wave=1), adds=True
        )


def penalised(profile: Profile, like: Penalty, factors: tuple[float, ...]) -> Iterator[Change]:
    """A price on every intermediate token, the highest first, each with and without a bias to the end."""
    for factor in factors:
        token_price_microusd = round(like.token_price_microusd * factor)
        for bias in dict.fromkeys((like.eos_bias, 0.0)):
            rule = replace(like, token_price_microusd=token_price_microusd, eos_bias=bias)
            shown = f"{token_price_microusd / 1_000_000:g} USD a million, end bias {bias:g}"
            yield Change("unpriced tokens", shown, replace(profile, penalty=rule), adds=True)


def describe(crew: Crew, profile: Profile) -> str:
    """A candidate in a few words: what it leaves out of the crew, and what it sets."""
    words = []
    left_out = [name for name in profile.drop if name in crew.roles]
    if left_out:
        words.append(f"without {', '.join(left_out)}")
    for role, settings in profile.roles.items():
        own = [f"samples {settings['samples']}"] if "samples" in settings else []
        own += [f"tokens {settings['max_tokens']}"] if "max_tokens" in settings else []
        own += [f"on {settings['model']}"] if "model" in settings else []
        own += ["unchecked"] if settings.get("check") == "" else []
        own += [f"pass rate {settings['pass_rate']:g}"] if "pass_rate" in settings else []
        words += [f"{role}: {', '.join(own)}"] if own else []
    if profile.model:
        words.append(f"on {profile.model}")
    if profile.wave:
        words.append(f"{profile.wave} at once")
    if profile.penalty is not None:
        price = f"{profile.penalty.token_price_microusd / 1_000_000:g} USD a million"
        words.append(f"penalty {price}, end bias {profile.penalty.eos_bias:g}")
    return "; ".join(words) or "the whole crew"
