"""The book of vLLM's host memory: what vLLM relies on, whatever is stored, used and freed in which order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stepwell.policy.types import NO_HINT, Caller, Hint, Wait
from stepwell.vllm.host_book import COLD_FACTOR, HostBook
from stepwell.vllm.owner import caller_of, hint_of, params_of

CHUNKS = 12
SECOND = 1_000_000


def key_of(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(4)


class BookMachine(RuleBasedStateMachine):
    """vLLM as the book sees it: requests store and load chunks; transfers pin them for a while."""

    @initialize(eviction=st.sampled_from(("stepwell", "lru", "arc")), disk=st.booleans())
    def begin(self, eviction: str, disk: bool) -> None:
        self.book = HostBook(CHUNKS, eviction=eviction, disk=disk)
        self.now_us = 0
        self.requests: dict[str, list[bytes]] = {}
        self.count = 0
        self.there: set[bytes] = set()
        self.disk: set[bytes] = set()
        self.busy: set[bytes] = set()

    @rule(agent=st.sampled_from(("", "a", "b", "c")), tier=st.sampled_from(("priority", "default", "flex")))
    def request(self, agent: str, tier: str) -> None:
        self.count += 1
        name = f"r{self.count}"
        caller = Caller("acme", tier, "s", agent)
        self.book.begin(name, caller, NO_HINT, self.now_us)
        self.requests[name] = []

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), count=st.integers(1, 5), start=st.integers(0, 25))
    def store(self, data: st.DataObject, count: int, start: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        keys = [key_of(start + n) for n in range(count)]
        new = [key for key in keys if key not in self.there]
        self.book.used(name, [(key, (32 * (n + 1), 0)) for n, key in enumerate(keys)], self.now_us)
        missing = len(self.there) + len(new) - CHUNKS
        if missing > 0 and not self.evict(missing, set(keys)):
            return
        for key in new:
            self.book.insert(key, name, self.now_us)
            self.there.add(key)
            self.busy.add(key)

    def evict(self, count: int, protected: set[bytes]) -> bool:
        could = len(self.there - self.busy - protected) >= count
        victims = self.book.evict(count, protected, "default", self.now_us)
        assert (victims is not None) == could, "what can go goes, and nothing else does"
        if victims is None:
            return False
        assert len(victims) == len(set(victims)) == count
        assert set(victims) <= self.there - self.busy - protected
        self.there -= set(victims)
        return True

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def transfer_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.busy)))
        self.busy.remove(key)
        self.book.free(key, self.now_us)

    @precondition(lambda self: self.there - self.busy)
    @rule(data=st.data())
    def transfer_begins(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.there - self.busy)))
        self.busy.add(key)
        self.book.busy(key)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def store_fails(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.busy)))
        self.busy.remove(key)
        self.there.remove(key)
        self.book.remove(key)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        del self.requests[name]
        self.book.finish(name, self.now_us)
        self.book.finish(name, self.now_us)  # once more changes nothing

    @rule(number=st.integers(0, 30), held=st.booleans())
    def a_cold_tier_tells(self, number: int, held: bool) -> None:
        key = key_of(number)
        if self.book.knows(key):
            self.book.cold(key, held=held, now_us=self.now_us)
            (self.disk.add if held else self.disk.discard)(key)

    @rule(most=st.integers(1, 4))
    def fetch_ahead(self, most: int) -> None:
        """As the tier does it: room is made for one after the other, and what leaves is on disk too."""
        for fetch in self.book.worth_fetching(most, self.now_us):
            assert fetch.key not in self.there
            assert fetch.key in self.disk
            if len(self.there) == CHUNKS:
                before = set(self.there)
                assert self.evict(1, {fetch.key})
                (left,) = before - self.there
                assert left in self.disk, "nothing is lost for a promotion"
            self.book.insert(fetch.key, "", self.now_us)
            self.there.add(fetch.key)
            self.busy.add(fetch.key)

    @rule(agent=st.sampled_from("abc"), ms=st.sampled_from((0, 1_000, 900_000)))
    def hint_between_turns(self, agent: str, ms: int) -> None:
        self.book.hinted("acme", agent, Hint(Wait.TOOL, ms * 1_000), self.now_us)

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.now_us += seconds * SECOND

    @invariant()
    def the_book_is_right(self) -> None:
        if hasattr(self, "book"):
            assert {key_of(n) for n in range(40) if key_of(n) in self.book} == self.there
            assert len(self.book) == len(self.there)
            self.book.check()


BookMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBook = BookMachine.TestCase


def context(book: HostBook, agent: str, first: int, hint: Hint, now_us: int, tier: str = "default") -> None:
    """A turn of an agent that leaves four chunks."""
    book.begin(agent, Caller("acme", tier, "s", agent), hint, now_us)
    keys = [key_of(first + n) for n in range(4)]
    book.used(agent, [(key, (32 * (n + 1), 0)) for n, key in enumerate(keys)], now_us)
    for key in keys:
        book.insert(key, agent, now_us)
        book.free(key, now_us)
    book.finish(agent, now_us)


def test_an_agent_that_says_it_is_done_goes_before_one_that_waits_for_a_tool() -> None:
    """LRU would give up the older one; the hint says that the younger one never comes back."""
    book = HostBook(CHUNKS)
    context(book, "waits", 0, Hint(Wait.TOOL, 2 * SECOND), SECOND)
    context(book, "done", 10, Hint(Wait.DONE), 2 * SECOND)
    assert book.evict(4, (), "default", 3 * SECOND) is not None
    assert all(key_of(n) in book for n in range(4))
    assert not any(key_of(n) in book for n in range(10, 14))


def test_of_one_context_the_end_goes_before_the_beginning() -> None:
    book = HostBook(CHUNKS)
    context(book, "one", 0, NO_HINT, SECOND)
    assert book.evict(2, (), "default", 2 * SECOND) == [key_of(3), key_of(2)]


def test_what_an_open_turn_uses_goes_last() -> None:
    book = HostBook(CHUNKS)
    context(book, "open", 0, NO_HINT, SECOND)
    context(book, "idle", 10, Hint(Wait.TOOL, SECOND), 2 * SECOND)
    book.begin("again", Caller("acme", "default", "s", "open"), NO_HINT, 3 * SECOND)
    victims = book.evict(4, (), "default", 4 * SECOND)
    assert victims is not None
    assert set(victims) == {key_of(n) for n in range(10, 14)}


def test_thousands_of_agents_without_a_name_leave_nothing_behind() -> None:
    book = HostBook(CHUNKS)
    for number in range(300):
        book.begin(f"r{number}", Caller("acme"), NO_HINT, number)
        book.finish(f"r{number}", number)
    assert not book._records
    assert not book._open


def test_an_owner_is_read_as_it_was_written_and_rubbish_says_nothing() -> None:
    caller = Caller("acme", "flex", "s1", "writer", "boss", "writer")
    hint = Hint(Wait.TOOL, 3 * SECOND, None, 60 * SECOND, "crawl")
    params = params_of(caller, hint)
    assert (caller_of(params), hint_of(params)) == (caller, hint)
    rubbish = {"tenant": 7, "agent": ["x"], "wait": "for godot", "expected_ms": -1, "retain_ms": True}
    assert caller_of(rubbish) == Caller("")
    assert hint_of(rubbish) == NO_HINT
    assert caller_of(None) == Caller("")


def told(book: HostBook, first: int, now_us: int) -> None:
    """A cold tier has the four chunks of a context."""
    for n in range(4):
        book.cold(key_of(first + n), held=True, now_us=now_us)


def test_who_is_expected_is_fetched_and_nobody_else() -> None:
    """Room for two contexts: two agents that are expected in a minute have pushed a third one out."""
    book = HostBook(8)
    context(book, "away", 0, Hint(Wait.PERSON, 3_600 * SECOND), 0)
    context(book, "one", 10, Hint(Wait.TOOL, 60 * SECOND), SECOND)
    for first in (0, 10):
        told(book, first, SECOND)
    assert book.evict(4, (), "default", SECOND) == [key_of(n) for n in (3, 2, 1, 0)]
    context(book, "two", 20, Hint(Wait.TOOL, 60 * SECOND), SECOND)
    told(book, 20, SECOND)
    assert book.worth_fetching(4, 2 * SECOND) == []
    assert book.expects(2 * SECOND)
    book.hinted("acme", "away", Hint(Wait.TOOL, SECOND), 2 * SECOND)
    found = book.worth_fetching(4, 2 * SECOND)
    assert [fetch.key for fetch in found] == [key_of(n) for n in range(4)]
    assert {fetch.caller.agent for fetch in found} == {"away"}
    book.shun(key_of(0), 2 * SECOND)
    assert [fetch.key for fetch in book.worth_fetching(4, 2 * SECOND)] == [key_of(n) for n in (1, 2, 3)]
    book.check()


def test_what_a_cold_tier_tells_late_is_fetched_too() -> None:
    """A write ends, the chunk leaves the host in the same step, and only then is the write heard of."""
    book = HostBook(4)
    context(book, "away", 0, Hint(Wait.PERSON, 3_600 * SECOND), 0)
    assert book.evict(4, (), "default", SECOND) == [key_of(n) for n in (3, 2, 1, 0)]
    assert book.worth_fetching(4, SECOND) == []
    told(book, 0, 2 * SECOND)
    book.check()
    book.hinted("acme", "away", Hint(Wait.TOOL, SECOND), 2 * SECOND)
    assert [fetch.key for fetch in book.worth_fetching(4, 2 * SECOND)] == [key_of(n) for n in range(4)]
    book.cold(key_of(0), held=False, now_us=3 * SECOND)
    assert not book.knows(key_of(0))


def test_what_no_cold_tier_ever_tells_is_bounded() -> None:
    book = HostBook(4)
    for number in range(100):
        context(book, f"a{number}", 10 * number, Hint(Wait.PERSON, 900 * SECOND), number)
        book.evict(4, (), "default", number)
        book.check()
    assert [n for n in range(1_000) if book.knows(key_of(n))] == [990, 991, 992, 993]


def test_what_lies_nowhere_else_leaves_for_no_promotion() -> None:
    book = HostBook(4)
    context(book, "away", 0, Hint(Wait.TOOL, SECOND), 0)
    told(book, 0, 0)
    book.evict(4, (), "default", 0)
    context(book, "here", 10, Hint(Wait.TOOL, 900 * SECOND), 0)
    assert book.worth_fetching(4, SECOND // 2) == []
    told(book, 10, SECOND // 2)
    assert len(book.worth_fetching(4, SECOND // 2)) == 4


def test_what_is_only_cold_is_bounded() -> None:
    book = HostBook(4)
    for number in range(100):
        context(book, f"a{number}", 10 * number, Hint(Wait.PERSON, 900 * SECOND), number)
        told(book, 10 * number, number)
        book.evict(4, (), "default", number)
        book.check()
    known = [n for n in range(1_000) if book.knows(key_of(n))]
    assert len(known) == 4 * COLD_FACTOR
    assert min(known) == 840
