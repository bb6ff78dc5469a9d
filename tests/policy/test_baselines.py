"""What tells one yardstick from another: whose blocks go first, and what makes that change."""

from __future__ import annotations

from stepwell.policy.types import Hint, KvTier, Wait
from tests.policy.eviction_world import DEVICE, DISK, HOST, World, config_of, name_of

SECOND_US = 1_000_000


def turn(world: World, agent: str, *labels: str, hint: Hint | None = None, **how: object) -> None:
    """One whole turn, a millisecond long, a millisecond after the last."""
    end = {key: how.pop(key) for key in list(how) if key in ("due_us", "tenant")}
    tenant = {"tenant": end["tenant"]} if "tenant" in end else {}
    world.wait(1_000)
    world.begin(agent, **tenant, **how)  # type: ignore[arg-type]
    world.wait(1_000)
    world.end(agent, labels=labels or [agent], **({"hint": hint} if hint else {}), **end)  # type: ignore[arg-type]


def order(world: World, kv_tier: KvTier = DEVICE) -> list[str]:
    """First labels of the blocks on a KV tier, the best victim first."""
    names = {name_of(actor.labels[:1]): actor.labels[0] for actor in world.actors.values() if actor.labels}
    return [names[name] for name in world.victims(kv_tier) if name in names]


def regulars_after_a_scan(eviction: str) -> list[str]:
    """Who is still on the device: six agents that took two turns each, then a hundred that took one."""
    world = World(eviction, config_of(eviction, device=8, host=0, disk=0))
    regulars = [f"regular-{number}" for number in range(6)]
    for agent in [*regulars, *regulars, *(f"stranger-{number}" for number in range(100))]:
        turn(world, agent)
        while len(world.on(DEVICE)) > 8:
            world.evict(DEVICE, keep=False)
    return [agent for agent in regulars if name_of([agent]) in world.on(DEVICE)]


def test_arc_keeps_what_is_used_again_through_a_scan_and_lru_does_not() -> None:
    assert regulars_after_a_scan("lru") == []
    assert len(regulars_after_a_scan("arc")) == 6


def test_arc_gives_recency_more_room_after_a_miss_of_what_recency_would_have_kept() -> None:
    world = World("arc", config_of("arc", device=4, host=0, disk=0))
    for agent in ("a", "a", "b", "b"):  # used twice
        turn(world, agent)
    for agent in ("c", "d"):
        turn(world, agent)
    assert order(world)[0] == "c"
    world.evict(DEVICE, keep=False)
    turn(world, "c")  # missed: it was thrown out too soon
    assert order(world)[0] == "a", "one block that was used once may stay now"


def test_what_a_turn_computes_and_touches_again_counts_as_one_use_for_arc() -> None:
    world = World("arc")
    turn(world, "a")
    world.wait(1_000)
    turn(world, "b")
    turn(world, "a")
    turn(world, "c")
    assert order(world) == ["b", "c", "a"]


def test_a_block_that_is_replaced_leaves_no_ghost_in_arc() -> None:
    world = World("arc", config_of("arc", device=4, host=0, disk=0))
    turn(world, "a")
    world.drop(world.blocks[name_of(["a"])], DEVICE)  # a longer block took its place
    turn(world, "a")
    turn(world, "b")
    assert order(world) == ["a", "b"], "its return is no second use"


def test_priority_lru_takes_the_lowest_service_tier_first_and_the_oldest_within_it() -> None:
    world = World("priority-lru")
    turn(world, "paid", service_tier="priority")
    turn(world, "free-old", service_tier="flex")
    turn(world, "usual", service_tier="default")
    turn(world, "free-new", service_tier="flex")
    assert order(world) == ["free-old", "free-new", "usual", "paid"]


def test_in_priority_lru_a_block_belongs_to_the_highest_service_tier_that_used_it() -> None:
    world = World("priority-lru")
    turn(world, "free", "shared", "of the free", service_tier="flex")
    turn(world, "paid", "shared", "of the paid", service_tier="priority")
    turn(world, "usual", service_tier="default")
    turn(world, "free", "shared", "of the free", service_tier="flex")
    assert order(world) == ["usual", "shared"]


def test_priority_lru_keeps_the_rank_of_a_block_that_steps_down() -> None:
    world = World("priority-lru")
    turn(world, "paid", service_tier="priority")
    turn(world, "free", service_tier="flex")
    for _ in range(2):
        world.evict(DEVICE)
    assert order(world, HOST) == ["free", "paid"]


def test_ttl_spares_an_agent_until_its_time_to_live_is_over() -> None:
    world = World("ttl")
    world.context.costs.ns_per_kib = dict.fromkeys(world.context.costs.ns_per_kib, 10**9)
    turn(world, "cheap")
    turn(world, "dear", "dear", "d1", "d2", "d3")  # four times as much to bring back: kept four times as long
    turn(world, "newest")
    assert order(world) == ["cheap", "newest", "dear"]
    world.wait(10**10)
    assert order(world) == ["cheap", "dear", "newest"], "expired: the least recently used first"


def test_ttl_waits_longer_for_an_agent_that_would_have_to_queue() -> None:
    lone, busy = World("ttl"), World("ttl")
    for world in (lone, busy):
        for number in range(40):
            turn(world, f"agent-{number}")
    for number in range(40):
        busy.begin(f"waiting-{number}")
    turn(lone, "one")
    turn(busy, "one")
    lone_us, active_us = (w.eviction._expires_us["t", "one"] - w.now_us for w in (lone, busy))  # type: ignore[attr-defined]
    assert active_us > lone_us > 0


def test_ttl_learns_that_waiting_does_not_pay() -> None:
    world = World("ttl")
    for _ in range(10):  # always away for much longer than bringing it back takes
        turn(world, "slow")
        world.wait(3_600 * SECOND_US)
    turn(world, "slow")
    assert world.eviction._expires_us["t", "slow"] <= world.now_us  # type: ignore[attr-defined]


def test_ttl_does_not_wait_for_an_agent_that_is_finished() -> None:
    world = World("ttl")
    world.context.costs.ns_per_kib = dict.fromkeys(world.context.costs.ns_per_kib, 10**9)
    turn(world, "going-on", hint=Hint(Wait.TOOL))
    turn(world, "finished", hint=Hint(Wait.DONE))
    assert order(world) == ["finished", "going-on"]


def test_steps_ranks_by_the_turns_before_an_agents_own() -> None:
    world = World("steps")
    turn(world, "tool", hint=Hint(Wait.TOOL))
    turn(world, "after-tool", hint=Hint(Wait.AGENT, after_agent="tool"))
    turn(world, "last", hint=Hint(Wait.AGENT, after_agent="after-tool"))
    turn(world, "person", hint=Hint(Wait.PERSON))
    turn(world, "finished", hint=Hint(Wait.DONE))
    turn(world, "silent")
    assert order(world) == ["finished", "silent", "person", "last", "after-tool", "tool"]


def test_steps_follows_the_chain_when_somebody_else_moves_on() -> None:
    world = World("steps")
    turn(world, "author", hint=Hint(Wait.PERSON))
    turn(world, "reader", hint=Hint(Wait.AGENT, after_agent="author"))
    turn(world, "tool", hint=Hint(Wait.TOOL))
    turn(world, "after-tool", hint=Hint(Wait.AGENT, after_agent="tool"))
    assert order(world) == ["reader", "author", "after-tool", "tool"]
    world.begin("author")  # its reader is next, one step away
    assert order(world) == ["after-tool", "reader", "tool", "author"]


def test_steps_survives_agents_that_wait_for_each_other_and_for_strangers() -> None:
    world = World("steps")
    turn(world, "a", hint=Hint(Wait.AGENT, after_agent="b"))
    turn(world, "b", hint=Hint(Wait.AGENT, after_agent="c"))
    turn(world, "c", hint=Hint(Wait.AGENT, after_agent="a"))
    turn(world, "d", hint=Hint(Wait.CHILD, after_agent="nobody"))
    turn(world, "e", hint=Hint(Wait.AGENT, after_agent="e"))
    assert sorted(order(world)) == ["a", "b", "c", "d", "e"]


def test_steps_believes_no_hint_about_another_tenants_agent() -> None:
    world = World("steps")
    turn(world, "tool", hint=Hint(Wait.PERSON), tenant="t")
    turn(world, "far", hint=Hint(Wait.AGENT, after_agent="tool"), tenant="t")
    turn(world, "near", hint=Hint(Wait.AGENT, after_agent="tool"), tenant="u")
    assert order(world) == ["far", "tool", "near"]


def test_idleness_takes_whoever_has_waited_the_largest_share_of_its_life() -> None:
    world = World("idleness")
    for agent, active_us in (("idle", 1_000), ("half", 500_000), ("busy", 900_000)):
        began_us = world.now_us
        world.begin(agent)
        world.wait(active_us)
        world.end(agent, labels=[agent])
        world.wait(SECOND_US - (world.now_us - began_us))
    world.wait(SECOND_US)
    assert order(world) == ["idle", "half", "busy"]


def test_idleness_counts_the_present_rest_and_the_present_work() -> None:
    world = World("idleness")
    for agent, busy_s in (("a", 9), ("b", 2)):
        world.begin(agent)
        world.wait(busy_s * SECOND_US)
        world.end(agent, labels=[agent])
    world.wait(2 * SECOND_US)
    assert order(world) == ["b", "a"], "b has rested for 2 of 4 seconds, a for 4 of 13"
    world.begin("b")
    world.wait(100 * SECOND_US)
    assert order(world) == ["a", "b"], "b has worked ever since, a has waited"


def test_a_shared_block_goes_with_the_agent_that_is_needed_most() -> None:
    for eviction in ("steps", "ttl"):
        world = World(eviction)
        turn(world, "gone", "shared", "of the gone", hint=Hint(Wait.DONE))
        turn(world, "here", "shared", "of the here", hint=Hint(Wait.TOOL))
        turn(world, "other", hint=Hint(Wait.DONE))
        world.begin("here")
        assert order(world)[-1] == "shared", eviction
        world.forget("gone")
        world.end("here", labels=["shared", "of the here"])
        world.forget("here")
        assert sorted(world.victims(DEVICE)) == world.on(DEVICE)


def test_blocks_of_a_forgotten_agent_go_first() -> None:
    for eviction in ("idleness", "steps", "ttl"):
        world = World(eviction)
        turn(world, "old")
        turn(world, "new")
        blocks = world.victims(DEVICE)
        world.forget("new")
        assert world.victims(DEVICE) == blocks[::-1], eviction


def test_the_oracle_takes_the_farthest_next_use_and_leaves_before_roots() -> None:
    world = World("oracle")
    start_us = world.now_us
    turn(world, "soon", due_us=start_us + SECOND_US)
    turn(world, "late", "late", "late-leaf", due_us=start_us + 9 * SECOND_US)
    turn(world, "never", due_us=None)
    turn(world, "later", due_us=start_us + 5 * SECOND_US)
    assert order(world) == ["never", "late", "later", "soon"]
    leaf, root = name_of(["late", "late-leaf"]), name_of(["late"])
    assert world.victims(DEVICE).index(leaf) == world.victims(DEVICE).index(root) - 1


def test_the_oracle_asks_again_when_a_use_did_not_come() -> None:
    world = World("oracle")
    turn(world, "cancelled", due_us=world.now_us + SECOND_US)
    turn(world, "late", due_us=world.now_us + 60 * SECOND_US)
    assert order(world) == ["late", "cancelled"]
    world.wait(2 * SECOND_US)
    assert order(world) == ["cancelled", "late"], "its use has passed and there is no other"


def test_the_oracle_writes_and_promotes_only_what_is_used_in_time() -> None:
    world = World("oracle", config_of("oracle", device=8, host=2, disk=8))
    start_us = world.now_us
    for agent, due in (("soon", 10), ("late", 90), ("never", None), ("middle", 50)):
        turn(world, agent, due_us=None if due is None else start_us + due * SECOND_US)
    block = {agent: world.blocks[name_of([agent])] for agent in ("soon", "late", "never", "middle")}
    assert not world.eviction.wants_disk(block["never"])
    assert world.eviction.wants_disk(block["late"])
    for agent in block:
        world.put(block[agent], DISK)
        world.drop(block[agent], DEVICE)
    assert list(world.eviction.promotable()) == [block["soon"], block["middle"], block["late"]]
    world.put(block["soon"], HOST)
    assert list(world.eviction.promotable()) == [block["middle"], block["late"]]
    assert world.eviction.outranks(block["soon"], block["middle"], HOST, margin=4)
    assert not world.eviction.outranks(block["middle"], block["late"], HOST, margin=4)
    assert world.eviction.outranks(block["late"], block["never"], HOST, margin=4)
