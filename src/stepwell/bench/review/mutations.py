"""Single changes of a finished review, each of which the verifier has to find."""

from __future__ import annotations

import base64
import json
import random
import re
import zlib
from collections.abc import Callable

from stepwell.review.verifier import verify


def mutate_digit(text: str, chance: random.Random) -> str:
    """Another digit in a visible mark."""
    spots = [
        found.start() + number
        for found in re.finditer(r"(?<=>)[^<>]*(?=</(?:data|tspan)>)", text)
        for number, one in enumerate(found[0])
        if one.isdigit() and one.isascii()
    ]
    spot = chance.choice(spots)
    other = chance.choice([one for one in "0123456789" if one != text[spot]])
    return text[:spot] + other + text[spot + 1 :]


def mutate_sign(text: str, chance: random.Random) -> str:
    """A direction or a minus sign turned round."""
    pairs = [("rose", "fell"), ("fell", "rose"), ("increased", "decreased"), ("decreased", "increased")]
    pairs += [
        ("涨", "跌"),
        ("跌", "涨"),
        ("上行", "下行"),
        ("下行", "上行"),
        ("增加", "减少"),
        ("\u2212", ""),
    ]
    forms = "verb|value|signed|move|gained|set|revised|hired|changed|dearer"
    spots = [
        (found.start(1), before, after)
        for before, after in pairs
        for found in re.finditer(rf'data-form="(?:{forms})">({before})', text)
    ]
    spot, before, after = chance.choice(spots)
    return text[:spot] + after + text[spot + len(before) :]


def mutate_date(text: str, chance: random.Random) -> str:
    """Another day of the month."""
    full = r"\w+day, \w+ (\d+), \d{4}|\d{4}年\d+月(\d+)日"
    short = r'data-form="(?:day|known_day|on)">(?:[A-Za-z, ]+ (\d+)|\d+月(\d+)日)'
    found = chance.choice([*re.finditer(full, text), *re.finditer(short, text)])
    group = 1 if found[1] else 2
    day = str(int(found[group]) % 27 + 1)
    return text[: found.start(group)] + day + text[found.end(group) :]


def mutate_raw(text: str, chance: random.Random) -> str:
    """A bit of a raw reply."""
    start = text.index('id="raw">') + len('id="raw">')
    end = text.index("</script>", start)
    raw = json.loads(text[start:end])
    row = raw[chance.choice(sorted(raw))]
    data = bytearray(zlib.decompress(base64.b64decode(row["data"])))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    row["data"] = base64.b64encode(zlib.compress(bytes(data))).decode()
    return text[:start] + json.dumps(raw) + text[end:]


def mutate_trace(text: str, chance: random.Random) -> str:
    """A digit of a value in the trace."""
    values = [*re.finditer(r'"value": "([^"]*\d[^"]*)"', text)]
    found = chance.choice(values)
    spots = [number for number in range(found.start(1), found.end(1)) if text[number] in "123456789"]
    spot = chance.choice(spots or [found.start(1)])
    return text[:spot] + chance.choice([one for one in "123456789" if one != text[spot]]) + text[spot + 1 :]


def insert_number(text: str, chance: random.Random) -> str:
    """A number, a direction or a ranking between the marks."""
    words = [" 7", " twice", " record", " ½", "翻倍", "三", " higher", " ９", "%"]
    ends = [found.start() for found in re.finditer(r"</(?:p|li|h1|h2|figcaption)>", text)]
    spot = chance.choice(ends)
    return text[:spot] + chance.choice(words) + text[spot:]


MUTATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "digit": mutate_digit,
    "sign": mutate_sign,
    "date": mutate_date,
    "raw byte": mutate_raw,
    "trace": mutate_trace,
    "inserted": insert_number,
}


def missed(text: str, name: str, count: int, seed: int) -> int:
    """How many of ``count`` changes of a kind the verifier does not find."""
    chance, found = random.Random(seed), 0
    for _ in range(count):
        found += not verify(MUTATIONS[name](text, chance).encode()).holds
    return count - found
