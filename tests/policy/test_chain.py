"""Names of prefixes: equal exactly when the prefixes are, and apart for every tenant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.chain import TokenChain, root_hash

ROOT = root_hash("model", "tenant")
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=80)


@given(tokens, tokens)
def test_growing_in_pieces_gives_the_same_names(first: list[int], second: list[int]) -> None:
    whole = TokenChain(ROOT, 16, first + second)
    grown = TokenChain(ROOT, 16, first)
    new = grown.extend(second)
    assert grown.units == whole.units
    assert list(new) == whole.units[len(first) // 16 :]


@given(tokens, tokens, st.integers(0, 80))
def test_names_agree_exactly_as_far_as_the_tokens_do(a: list[int], b: list[int], length: int) -> None:
    length = min(length, len(a), len(b))
    same = a[:length] == b[:length]
    assert (TokenChain(ROOT, 16, a).name(length) == TokenChain(ROOT, 16, b).name(length)) == same


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=80))
def test_every_length_has_a_name_of_its_own(a: list[int]) -> None:
    chain = TokenChain(ROOT, 16, a)
    names = [chain.name(n) for n in range(len(a) + 1)]
    assert len(set(names)) == len(names)
    assert [names[n] for n in range(16, len(a) + 1, 16)] == chain.units


def test_tenant_and_model_enter_every_name() -> None:
    roots = {root_hash(m, t) for m in ("a", "b") for t in ("x", "y")}
    assert len({TokenChain(root, 16, range(16)).units[0] for root in roots}) == 4
    assert root_hash("a\x00b", "c") != root_hash("a", "b\x00c")


def test_names_do_not_change_between_versions() -> None:
    """Disk records outlive the process: this hash is part of their format."""
    assert TokenChain(ROOT, 4, range(8)).units[1].hex() == "f803990edb6f94189d2add5c497c7aea"
