"""What an agent leaves when it is done is kept for those who are about to go on from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.types import Hint, Wait
from tests.driver.harness import make_rig
from tests.policy.eviction_world import World, name_of

SECOND_US = 1_000_000
SOON = Hint(Wait.TOOL, 20 * SECOND_US)
DONE = Hint(Wait.DONE)


def speaks(world: World, agent: str, labels: list[str], hint: Hint) -> None:
    world.begin(agent)
    world.end(agent, labels=labels, hint=hint)


def is_dead(world: World, *labels: str) -> bool:
    return world.eviction.is_dead(world.blocks[name_of(list(labels))])


def test_the_page_that_one_reader_has_read_is_kept_for_its_twin_until_that_one_is_done() -> None:
    world = World("stepwell")
    speaks(world, "first", ["document"], SOON)
    speaks(world, "twin", ["document"], SOON)
    speaks(world, "first", ["document", "page"], DONE)
    assert not is_dead(world, "document", "page")
    speaks(world, "twin", ["document", "page"], DONE)
    assert is_dead(world, "document", "page")


def test_it_is_kept_for_the_third_as_well_when_two_are_done() -> None:
    world = World("stepwell")
    for reader in ("first", "second", "third"):
        speaks(world, reader, ["document"], SOON)
    for reader in ("first", "second"):
        speaks(world, reader, ["document", "page"], DONE)
    assert not is_dead(world, "document", "page")
    speaks(world, "third", ["document", "page"], DONE)
    assert is_dead(world, "document", "page")


def test_one_that_has_gone_another_way_is_no_heir() -> None:
    world = World("stepwell")
    speaks(world, "first", ["document"], SOON)
    speaks(world, "other", ["document", "its own", "way", "on"], SOON)
    speaks(world, "first", ["document", "page"], DONE)
    assert is_dead(world, "document", "page")


@given(st.lists(st.booleans(), min_size=40, max_size=60))
def test_how_often_heirs_go_on_is_learned(follow: list[bool]) -> None:
    """Where they never do, what is left is dead in the end."""
    follow = [False] * 40 + follow[:2] if not any(follow) else follow
    world = World("stepwell")
    for number, follows in enumerate(follow):
        at = str(number)
        speaks(world, f"first {at}", [at], SOON)
        speaks(world, f"twin {at}", [at], SOON)
        speaks(world, f"first {at}", [at, "page"], DONE)
        speaks(world, f"twin {at}", [at, "page" if follows else "another"], DONE)
    speaks(world, "first", ["last"], SOON)
    speaks(world, "twin", ["last"], SOON)
    speaks(world, "first", ["last", "page"], DONE)
    went_on = sum(follow)
    chance = (went_on + 1) / (len(follow) + 2)
    if chance < 1 / 40:
        assert is_dead(world, "last", "page")
    elif chance > 1 / 20:
        assert not is_dead(world, "last", "page")


def test_a_twin_finds_what_the_first_has_read_though_others_needed_the_room() -> None:
    """A device of eight blocks and a host of eight; four strangers come between the two."""
    rig = make_rig(8, 8, 0, eviction="stepwell", always_load=False)
    document = tuple(97 + i % 26 for i in range(32))
    page = (*document, *(97 + (i * 3) % 26 for i in range(32)))
    for agent in ("first", "twin"):
        rig.ask(document, 1, agent=agent, tenant="t", hint=Hint(Wait.TOOL, 60 * SECOND_US))
        rig.settle()
    rig.ask(page, 1, agent="first", tenant="t", hint=DONE)
    rig.settle()
    for number in range(4):
        stranger = tuple(97 + (i * 5 + number) % 26 for i in range(50))
        rig.ask(
            stranger, 1, agent=f"stranger {number}", tenant="t", hint=Hint(Wait.PERSON, 9_000 * SECOND_US)
        )
        rig.settle()
    before = rig.driver.snapshot().counters["recomputed_tokens"]
    rig.ask(page, 1, agent="twin", tenant="t", hint=DONE)
    rig.settle()
    again = rig.driver.snapshot().counters["recomputed_tokens"] - before
    assert again < 16, "at most the end of its last block"
