"""What a question about cost names: the plan it may be for, the subject, and the inputs that change.

Rules of words, which know no figure: they only narrow what the grammar of planner.toml lets the model write,
to the parts, users and numbers that stand in the question. Where they find nothing it has all that there is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from stepwell.agents.tools import tool

PARTS = ("gb200", "gb300", "h100", "h200", "b200", "b300", "mi300x", "tpu-v6e")
LATER = {"month": 1, "quarter": 3, "year": 12}
WORDS = {
    "one": 1, "a": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10, "a hundred": 100,
    "once": 1, "twice": 2, "double": 2, "doubled": 2, "doubles": 2, "triple": 3, "thrice": 3, "half": 0.5,
    "halved": 0.5, "halves": 0.5, "a third": 0.3333, "a quarter": 0.25,
}  # fmt: skip
_FACTOR = re.compile(
    r"\b(?:(a hundred|ten|six|five|four|three|two|\d+(?:\.\d+)?)(?: times|x\b|-fold)"
    r"|(twice|doubled?s?|triple|thrice|half|halve[sd]|a third|a quarter))"
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|per ?cent|percent)")
_LESS = re.compile(r"\b(?:less|cheaper|lower|fewer|shorter|fall|falls|drop|drops|smaller|decline)")
_LATE = re.compile(r"(\d+|an?|one|two|three|six) (month|quarter|year)s? (?:late|later|of delay|delay)")
_NUMBER = re.compile(r"(?<![\w.-])\$? ?(\d[\d,]*(?:\.\d+)?)(?: ?(million|thousand|billion|m|k)\b)?")
_SCALE = {"million": 10**6, "m": 10**6, "thousand": 1000, "k": 1000, "billion": 10**9}
_USERS = re.compile(r"(\d[\d,]*(?:\.\d+)?) ?(million|thousand|billion|m|k)? (?:users?|people|customers)")
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
    (r"\b(?:images|pictures|photos)\b(?!.{0,30}\bdays?\b)", "images"),
    (r"\bimport\w*\b(?!.{0,30}\bdays?\b)", "import_gb"),
    (r"\bsessions\b", "sessions"),
    (r"\blibrar\w+\b", "library_mb"),
)
CONTRACT = (
    (r"\bsites?\b|campus", "sites.delay_months"),
    (r"amplif|intermediate|times the tokens|tokens", "customer.served.amplification"),
    (r"token price|list price|price of tokens", "customer.served.price_factor"),
    (r"utili[sz]ation|\bbusy\b", "customer.utilisation"),
    (r"take.or.pay", "customer.take_or_pay_share"),
    (r"renew", "customer.renewal_probability"),
    (r"servers|capex", "capex.0.usd_per_mw"),
    (r"electricity|grid|\bpower\b", "power.grid_usd_per_mwh"),
    (r"discount", "discount_rate"),
)
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
    if re.search(r"contract|data.?cent|campus|\bsites?\b|take.or.pay|present value|renewal", text):
        return ["contract"]
    if _USERS.search(text):
        return ["storage"]
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
    if not changes and not values_of(_USERS.sub(" users ", text), ""):
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
        tokens = re.search(r"token|served|amplif|100 ?mw|turns", text)
        big = re.search(r"compute|300|big|sites?\b|campus", text)
        if bool(tokens) != bool(big):
            return ["tokens-100mw" if tokens else "compute-300bn"]
        return ["compute-300bn", "tokens-100mw"]
    if plan == "storage" and (match := _USERS.search(text)):
        return [str(round(_float(match[1]) * _SCALE.get(match[2] or "", 1)))]
    parts = parts_of(text)
    if plan == "hardware":
        return [",".join(parts)]
    return parts[:1] or ["h200"]


def _changes(plan: str, text: str) -> Iterator[list[str]]:
    """Every way to read the question: an input and a value of each of its clauses that has both."""
    clauses = [_pairs(plan, clause) for clause in _SPLIT.split(_USERS.sub(" users ", text))]
    told = [pairs for pairs in clauses if pairs] or [pairs for pairs in [_pairs(plan, text)] if pairs]
    if not told:
        return
    for some in itertools.product(*told):
        if len({one.partition("=")[0] for one in some}) == len(some):
            yield list(some)


def _pairs(plan: str, clause: str) -> list[str]:
    names = [name for words, name in _KINDS.get(plan, SERVING) if re.search(words, clause)]
    return [f"{name}={value}" for name in names for value in values_of(clause, name)]


def values_of(clause: str, name: str) -> list[str]:
    """What the clause says of an input: a change, or else the numbers that stand in it."""
    if name.endswith("delay_months"):
        late = _LATE.search(clause)
        return [f"+{round(_float(late[1]) * LATER[late[2]])}"] if late else []
    if percent := _PERCENT.search(clause):
        share = float(percent[1]) / 100
        if name.endswith(
            ("utilisation", "share", "probability", "growth", "discount_rate")
        ) and not re.search(r"\b(?:more|less|dearer|cheaper|longer|shorter|higher|lower)\b", clause):
            return [_shown(share)]
        return [f"x{_shown(1 - share if _is_less(clause, percent) else 1 + share)}"]
    if factor := _FACTOR.search(clause):
        number = _float(factor[1] or factor[2])
        # "three times cheaper" and "half as dear" both make it less.
        return [f"x{_shown(1 / number if factor[1] and number > 1 and _is_less(clause, factor) else number)}"]
    return _numbers(clause)


def _is_less(clause: str, said: re.Match[str]) -> bool:
    """Whether it is said so beside the number: "which is cheaper if" is about something else."""
    return _LESS.search(clause[max(0, said.start() - _BESIDE) : said.end() + _BESIDE]) is not None


def _numbers(clause: str) -> Sequence[str]:
    rest = re.sub("|".join(rf"\b{re.escape(part)}s?\b" for part in PARTS), " ", clause)
    return [_shown(_float(number) * _SCALE.get(scale, 1)) for number, scale in _NUMBER.findall(rest)]


def _float(text: str) -> float:
    return float(WORDS[text]) if text in WORDS else float(text.replace(",", ""))


def _shown(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".")
