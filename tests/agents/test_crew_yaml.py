"""Crews and profiles in YAML: what the same TOML gives, without the traps of the language."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.crews.files import find_crew, load_crew, shipped_crews
from stepwell.agents.crews.profile import find_profile, load_profile
from stepwell.agents.crews.tables import read_table, toml_table
from stepwell.agents.crews.yaml_table import yaml_table
from stepwell.errors import BadInput

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "crews"
CREW = """
crew:
  name: pair
  entry: solver
  limits: {budget_usd: 0.02, tokens: 500000}
roles:
  solver:
    instructions: |
      You solve.
      Be short.
    model: no            # a name, not false
    temperature: .5
    stop: [on, 2026-11-22, "12"]
  critic: {}
mcp:
  shop: {command: ./shop, env: {KEY: "$KEY"}, timeout_s: 2.5}
profiles:
  cheap:
    drop: [critic]
    penalty: {token_price_usd_per_million: 0.1, answer_value_usd: 0.0005}
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_crew_in_yaml_is_the_crew_that_toml_would_be(tmp_path: Path) -> None:
    crew = find_crew(str(written(tmp_path / "pair.yaml", CREW)))
    solver = crew.roles["solver"]
    assert (crew.name, crew.entry, crew.limits.budget_microusd) == ("pair", "solver", 20_000)
    assert solver.instructions == "You solve.\nBe short.\n"
    assert (solver.model, solver.temperature) == ("no", 0.5)
    assert crew.mcp_servers["shop"].timeout_s == 2.5
    assert crew.folder == tmp_path
    penalty = find_profile(crew, "cheap").penalty
    assert penalty is not None
    assert (penalty.token_price_microusd, penalty.answer_value_microusd) == (100_000, 500)


def test_dates_switches_and_octals_stay_what_they_look_like() -> None:
    got = yaml_table("a: [no, on, y, 2026-11-22, 1:30, 012, 0x1f, 0o17, +3, 1e3, .5, ~, True, '1', 1_0]", "x")
    assert got["a"] == [
        *("no", "on", "y", "2026-11-22", "1:30", 12, 31, 15, 3),
        *(Decimal("1e3"), Decimal("0.5"), None, True, "1", "1_0"),
    ]
    assert [type(one) for one in got["a"][5:9]] == [int] * 4
    assert yaml_table("", "x") == yaml_table("# nothing\n", "x") == {}


def test_the_example_in_yaml_is_the_crew_that_ships() -> None:
    found = list(EXAMPLES.glob("*.yaml"))
    assert found
    for path in found:
        assert path.stem in shipped_crews()
        assert load_crew(path) == find_crew(path.stem)


def test_a_profile_in_yaml(tmp_path: Path) -> None:
    text = "{crew: pair, model: gemma3, wave: 2, roles: {solver: {samples: 3, pass_rate: 0.45}}}"
    profile = load_profile(written(tmp_path / "lean.yml", f"profile: {text}\n"))
    assert (profile.name, profile.crew, profile.model, profile.wave) == ("lean", "pair", "gemma3", 2)
    assert profile.roles == {"solver": {"samples": 3, "pass_rate": 0.45}}
    crew = load_crew(written(tmp_path / "pair.yaml", CREW))
    assert find_profile(crew, str(tmp_path / "lean.yml")) == profile


def test_an_alias_repeats_a_whole_value() -> None:
    assert yaml_table("a: &x {b: [1]}\nc: *x\n", "x") == {"a": {"b": [1]}, "c": {"b": [1]}}


BOMB = (
    "a: &a ["
    + ", ".join(["lol"] * 10)
    + "]\n"
    + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("crew: {name: [}", "is not YAML: expected the node content, but found '}' (at line 1, column 15)"),
        ("crew:\n\tname: x\n", "found character '\\t' that cannot start any token (at line 2, column 1)"),
        ("a: 1\nb: \x07\n", "is not YAML: special characters are not allowed (at line 2)"),
        ("roles:\n  a: {}\n  a: {}\n", "the key 'a' stands there twice (at line 3, column 3)"),
        ("a: !!python/name:os.system", "the tag 'tag:yaml.org,2002:python/name:os.system' is"),
        ("a: !!str 1", "2002:str' is not taken: write the plain value (at line 1, column 4)"),
        (BOMB, "its aliases make more of it than a short file may come to (at line"),
        ("a: &a [*a]", "*'a' repeats nothing that is whole by then (at line 1, column 8)"),
        ("a: *b", "*'b' repeats nothing that is whole by then"),
        ("a: " + "[" * 200_000, "more than 40 tables and lists stand in one another (at line 1, column 44)"),
        ("a: 1\n---\nb: 2\n", "a second document begins: a file holds one (at line 2, column 1)"),
        ("- a\n", "is not a table: it begins with keys, such as crew: and roles:"),
        ("just text", "is not a table"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "<< is not of YAML 1.2"),
        ("{[1]: 2}", "a key is plain text (at line 1, column 2)"),
        ("a: 1e999999999999999999999", "the number 1e999999999999999999999 is too large or too small"),
        ('a: "\\ud800"', "the text holds half of a character"),
        ("a: .nan", "the number nan is too large or too small, or none at all (at line 1, column 4)"),
        ("a: " + "9" * 5_000, "is too large or too small"),
    ],
)  # fmt: skip
def test_what_is_no_plain_yaml_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path / "x.yaml", text)
    with pytest.raises(BadInput) as caught:
        load_crew(path)
    said = str(caught.value)
    assert sentence in said
    assert "x.yaml" in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("entry: solver", "entry: 7", "[crew]: entry is text, not 7"),
        ("entry: solver", "entry:", "[crew]: entry is text, not nothing"),
        ("model: no ", "model: true ", "[roles.solver]: model is text, not True"),
        ("model: no ", "plans: yes ", "[roles.solver]: plans is true or false, not 'yes'"),
        ("tokens: 500000", "tokens: 500_000", "tokens is a whole number, not '500_000'"),
        ("tokens: 500000", "tokens: 1e5", "tokens is a whole number, not 1E+5"),
        ("critic: {}", "critic: 3", "critic is a table, not 3"),
        ("entry: solver", "entrie: solver", "key 'entrie' is not known: did you mean 'entry'?"),
        ('KEY: "$KEY"', "KEY: 5", "env holds text alone: put numbers in quotes"),
        ("0.02", "2 cents", "the budget 2 cents is no amount"),
    ],
)
def test_the_checks_are_those_of_toml(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    assert before in CREW
    path = written(tmp_path / "x.yaml", CREW.replace(before, after))
    with pytest.raises(BadInput, match=r"^[^\n]+$") as caught:
        load_crew(path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("profile: {model: }", "model is text, not nothing"),
        ("profile: {name: 3}", "name is text, not 3"),
        ("profiles: {}", "key 'profiles' is not known: did you mean 'profile'?"),
        ("profile: [", "is not YAML: "),
    ],
)
def test_a_wrong_profile_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_profile(written(tmp_path / "p.yaml", text))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["big.yaml", "big.toml"])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is larger than 1048576 bytes: a profile is a short file"):
        read_table(written(tmp_path / name, "#" * (1 << 20) + "\n"), "profile")


@pytest.mark.parametrize(
    "text", ["a = nan", "a = 1e400", "a = -inf", f"a = {'9' * 5000}", f"a = {'[' * 9000}"]
)
def test_numbers_and_depths_that_toml_knows_and_a_crew_does_not(text: str) -> None:
    with pytest.raises(BadInput, match=r"^here"):
        toml_table(text, "here")


names = st.text("abcno", min_size=1, max_size=4)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
plain = st.recursive(
    st.booleans() | st.integers(-(10**9), 10**9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, plain, max_size=4))
def test_json_is_read_as_it_is(data: dict[str, Any]) -> None:
    """JSON is YAML, so whatever JSON says comes back."""
    assert yaml_table(json.dumps(data), "x") == data


@given(st.text("{}[]:,&*!-?|>\n '\"ab#%@\\0.~<\t", max_size=60) | st.text(max_size=30))
def test_whatever_is_written_is_a_table_or_one_sentence(text: str) -> None:
    try:
        said = f"x {yaml_table(text, 'x')!r}"
    except BadInput as error:
        said = str(error)
    assert said.startswith("x")
    assert "\n" not in said
