"""What a question about cost names: the plan it may be for, the subject, and the inputs that change.

Rules of words, which know no figure: they only narrow what the grammar of planner.toml lets the model write,
to the parts, users and numbers that stand in the question. Where they find nothing it has all that there is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from stepwell.agents.tools import tool

PARTS = ("gb200", "gb300", "h100", "h200", "b200", "b300", "mi300x", "tpu-v6e")
LATER = {"month": 1, "quarter": 3, "year": 12}
WORDS = {
    "one": 1, "a": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10, "a hundred": 100,
    "once": 1, "twice": 2, "double": 2, "doubled": 2, "doubles": 2, "triple": 3, "thrice": 3, "half": 0.5,
    "halved": 0.5, "halves": 0.5, "a third": 0.3333, "a quarter": 0.25,
}  # fmt: skip
FRACTIONS = {"half": 0.5, "a half": 0.5, "a third": 0.3333, "a quarter": 0.25, "a fifth": 0.2, "a tenth": 0.1}
_PART = re.compile(
    r"(?P<by>\bby )?\b(?P<part>a half|half|a third|a quarter|a fifth|a tenth)\b"
    r"(?P<whole> of)?"
    r"(?P<than> (?:more|less|[a-z]{3,9}er)\b)?"
)
"""A part that is added or taken off: "by half", "a tenth cheaper"; "half as dear" is a factor."""
_FACTOR = re.compile(
    r"\b(?:(a hundred|ten|six|five|four|three|two|\d+(?:\.\d+)?)(?: times|x\b|-fold)"
    r"|(twice|doubled?s?|triple|thrice|half|halve[sd]|a third|a quarter))"
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|per ?cent|percent)")
_LESS = re.compile(
    r"\b(?:less|cheaper|lower|fewer|shorter|slower|fall|drop|smaller|decline|shrink|sink|down|cut|off\b)"
)
_LATE = re.compile(r"(\d+|an?|one|two|three|four|five|six) (month|quarter|year)s?\b")
_DELAY = re.compile(r"\b(?:late|delay|slip|behind|postpone|wait)")
_NUMBER = re.compile(r"(?<![\w.-])\$? ?(\d[\d,]*(?:\.\d+)?)(?: ?(million|thousand|billion|m|k)\b)?")
_SCALE = {"million": 10**6, "m": 10**6, "thousand": 1000, "k": 1000, "billion": 10**9}
_USERS = re.compile(r"(\d[\d,]*(?:\.\d+)?) ?(million|thousand|billion|m|k)? (?:users?|people|customers)")
_SUBJECT = re.compile(r"\b(?:100 ?mw|hundred megawatts?|300 ?(?:bn|billion))\b(?: dollars?)?")
"""What names a plan that ships has a figure in it, and that figure is no input."""
_SPLIT = re.compile(r"\band\b(?! (?:b|h|gb|mi|tpu)-?\d)|;|, but ")

SERVING = (
    (r"\b(?:disks?|ssds?|drives?|flash storage)\b", "ssd.usd_gb"),
    (r"\b(?:dram|host memory|ram)\b", "dram.usd_gb"),
    (r"\bendurance|writes? a day", "ssd.dwpd"),
    (r"\b(?:hour|rent|rental)\b", "usd_hour_rent"),
    (r"\b(?:hbm|device memory).{0,12}bandwidth|\bmemory bandwidth", "hbm_tb_s"),
    (r"\b(?:hbm|device memory)\b(?!.{0,12}bandwidth)", "hbm_gb"),
    (r"\b(?:prompts?|inputs?|contexts?)\b", "input_tokens"),
    (r"\b(?:answers?|outputs?|replies)\b", "output_tokens"),
)
STORAGE = (
    (r"\bminutes?\b", "video_minutes"),
    (r"video.{0,30}\bdays?\b|\bdays?\b.{0,30}video", "video_days"),
    (r"mbit|bitrate|bit rate", "video_mbit_s"),
    (r"(?:image|picture|photo)s?.{0,30}\bdays?\b", "image_days"),
    (r"\b(?:images|pictures|photos)\b", "images"),
    (r"\bimport\w*\b.{0,30}\bdays?\b", "import_days"),
    (r"\bimport\w*\b", "import_gb"),
    (r"\bsessions\b", "sessions"),
    (r"\blibrar\w+\b", "library_mb"),
)
CONTRACT = (
    (r"\bsites?\b|campus", "sites.delay_months"),
    (r"amplif|intermediate|times the tokens|tokens", "customer.served.amplification"),
    (r"token price|list price|price of tokens", "customer.served.price_factor"),
    (r"utili[sz]ation|\bbusy\b|\bin use\b|\bused\b", "customer.utilisation"),
    (r"take.or.pay", "customer.take_or_pay_share"),
    (r"renew", "customer.renewal_probability"),
    (r"servers|capex", "capex.0.usd_per_mw"),
    (r"electricity|grid|\bpower\b", "power.grid_usd_per_mwh"),
    (r"discount", "discount_rate"),
)
_SHARES = ("utilisation", "share", "probability")
_SHARED = ("customer.served.amplification", "customer.served.price_factor")
"""Inputs of contracts whose words are those of serving as well."""
_UNITS = {"days": r" ?days?\b", "minutes": r" ?(?:minutes?|min)\b", "mbit_s": r" ?mbit"}
"""What stands behind a number of an input that ends so, and behind no number of another."""
_KINDS = {"storage": STORAGE, "contract": CONTRACT}
_MOST = 24
_BESIDE = 14
"""Characters."""


@tool(idempotent=True, expected_ms=5)
def choices(question: str) -> str:
    """The JSON schema of the plans that a question can mean.

    Args:
        question: about the cost of serving agents
    """
    return json.dumps(schema_for(question))


def schema_for(question: str) -> dict[str, Any]:
    """The schema of the answers that the question can mean; ``{}``: the words say nothing."""
    text = " ".join(question.lower().split())
    ways = [one for plan in plans_of(text) if (one := _way(plan, text))]
    return {"anyOf": ways} if ways else {}


def plans_of(text: str) -> list[str]:
    """The plans that it may be about, most telling words first."""
    if re.search(r"contract|data.?cent|campus|present value", text) or _SUBJECT.search(text):
        return ["contract"]
    if _USERS.search(text):
        return ["storage"]
    if not parts_of(text) and any(re.search(words, text) for words, name in CONTRACT if name not in _SHARED):
        return ["contract"]  # it supposes what only a contract has
    if len(parts_of(text)) > 1:
        return ["hardware"]
    if re.search(r"margin|earn|profit|charge|million tokens", text):
        return ["price"]
    if re.search(r"how many|machines|replicas|capacity|cheapest mix", text):
        return ["capacity"]
    return ["capacity", "price"]


def parts_of(text: str) -> list[str]:
    """In the order in which they stand."""
    found = {name: match.start() for name in PARTS if (match := re.search(rf"(?<!\w){name}s?\b", text))}
    if "tpu-v6e" not in found and (match := re.search(r"\btpu v?6e|\bv6e\b|\btpus?\b", text)):
        found["tpu-v6e"] = match.start()
    return sorted(found, key=lambda name: found[name])


def _way(plan: str, text: str) -> dict[str, Any] | None:
    changes = list(itertools.islice(_changes(plan, text), _MOST))
    if not changes and not _values(_bare(text), ""):
        changes = [[]]  # nothing is supposed: the plan as it is
    if not changes:
        return None
    properties = {
        "plan": {"enum": [plan]},
        "of": {"enum": _subjects(plan, text)},
        "inputs": {"enum": changes},
    }
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def _subjects(plan: str, text: str) -> list[str]:
    if plan == "contract":
        if named := _SUBJECT.search(text):  # its own name says more than any other word
            return ["compute-300bn" if named[0].startswith("300") else "tokens-100mw"]
        tokens = re.search(r"token|served|amplif|turns", text)
        big = re.search(r"compute|\bbig|\blarge\b|sites?\b|campus", text)
        if bool(tokens) != bool(big):
            return ["tokens-100mw" if tokens else "compute-300bn"]
        return ["compute-300bn", "tokens-100mw"]
    if plan == "storage" and (match := _USERS.search(text)):
        return [str(round(_float(match[1]) * _SCALE.get(match[2] or "", 1)))]
    parts = parts_of(text)
    if plan == "hardware":
        return [",".join(parts)]
    return parts[:1] or ["h200"]


def _bare(text: str) -> str:
    """Without what names the subject, whose figures are no inputs."""
    return _SUBJECT.sub(" it ", _USERS.sub(" users ", text))


def _changes(plan: str, text: str) -> Iterator[list[str]]:
    """Every way to read the question: an input and a value of each of its clauses that has both."""
    clauses = [_pairs(plan, clause) for clause in _SPLIT.split(_bare(text))]
    told = [pairs for pairs in clauses if pairs] or [pairs for pairs in [_pairs(plan, _bare(text))] if pairs]
    if not told:
        return
    for some in itertools.product(*told):
        each = list(itertools.chain.from_iterable(some))
        if len({one.partition("=")[0] for one in each}) == len(each):
            yield each


def _pairs(plan: str, clause: str) -> list[list[str]]:
    """The readings of a clause, each a list of inputs with their values: every value is of the input that
    stands nearest to it; only inputs that stand equally near leave a choice."""
    named = [
        (found.start(), found.end(), name)
        for words, name in _KINDS.get(plan, SERVING)
        for found in re.finditer(words, clause)
    ]
    kinds: dict[str, list[tuple[int, int]]] = {}
    for start, end, name in named:
        kinds.setdefault(name, []).append((start, end))
    values = {name: _values(clause, name) for name in kinds}
    choices: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for name, places in kinds.items():
        for start, end, value in values[name]:
            if not _fits(name, clause[end:], value):
                continue
            gap = min(max(low - end, start - high, 0) for low, high in places)
            choices.setdefault((start, end), []).append((gap, f"{name}={value}"))
    nearest = [[one for gap, one in some if gap == min(some)[0]] for _, some in sorted(choices.items())]
    return [list(some) for some in itertools.product(*nearest)] if nearest else []


def _fits(name: str, behind: str, value: str) -> bool:
    """Whether the unit behind a plain number, if it is one of ``_UNITS``, is that of the input."""
    if not value[:1].isdigit():
        return True
    units = [unit for unit, words in _UNITS.items() if re.match(words, behind)]
    return not units or name.endswith(units[0])


def _values(clause: str, name: str) -> list[tuple[int, int, str]]:
    """What the clause says of an input, with where it stands: changes, or else the numbers in it."""
    if name.endswith("delay_months"):
        return (
            []
            if not _DELAY.search(clause)
            else [(*m.span(), f"+{round(_float(m[1]) * LATER[m[2]])}") for m in _LATE.finditer(clause)]
        )
    changes = [(*m.span(), _by_percent(clause, m, name)) for m in _PERCENT.finditer(clause)]
    taken = [(*m.span(), _by_part(clause, m)) for m in _PART.finditer(clause) if m["by"] or m["than"]]
    if name.endswith(_SHARES):
        taken += [(*m.span(), _shown(FRACTIONS[m["part"]])) for m in _PART.finditer(clause) if m["whole"]]
    changes += taken
    for m in _FACTOR.finditer(clause):
        if not any(start < m.end() and m.start() < end for start, end, _ in taken):
            changes.append((*m.span(), _by_factor(clause, m)))
    return changes or _numbers(clause)


def _by_percent(clause: str, said: re.Match[str], name: str) -> str:
    share = float(said[1]) / 100
    is_share = name.endswith((*_SHARES, "growth", "discount_rate")) and not re.search(
        r"\b(?:more|less|dearer|cheaper|longer|shorter|higher|lower)\b", clause
    )
    return _shown(share) if is_share else f"x{_shown(1 - share if _is_less(clause, said) else 1 + share)}"


def _by_part(clause: str, said: re.Match[str]) -> str:
    share = FRACTIONS[said["part"]]
    return f"x{_shown(1 - share if _is_less(clause, said) else 1 + share)}"


def _by_factor(clause: str, said: re.Match[str]) -> str:
    number = _float(said[1] or said[2])
    # "three times cheaper" and "half as dear" both make it less.
    return f"x{_shown(1 / number if said[1] and number > 1 and _is_less(clause, said) else number)}"


def _is_less(clause: str, said: re.Match[str]) -> bool:
    """Whether it is said so beside the number: "which is cheaper if" is about something else."""
    return _LESS.search(clause[max(0, said.start() - _BESIDE) : said.end() + _BESIDE]) is not None


def _numbers(clause: str) -> list[tuple[int, int, str]]:
    spaced = re.compile("|".join(rf"\b{re.escape(part)}s?\b" for part in PARTS))
    rest = spaced.sub(lambda found: " " * len(found[0]), clause)
    return [
        (*found.span(), _shown(_float(found[1]) * _SCALE.get(found[2], 1)))
        for found in _NUMBER.finditer(rest)
    ]


def _float(text: str) -> float:
    return float(WORDS[text]) if text in WORDS else float(text.replace(",", ""))


def _shown(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".")
