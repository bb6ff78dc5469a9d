"""An object store that is away, slow, full of holes or wrong costs computing, and never a byte."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.tiers.objects.client import ObjectsAway, open_objects
from stepwell.tiers.objects.names import ObjectEntry, parse_object_name, short_digest
from stepwell.tiers.objects.probe import measure_objects
from stepwell.tiers.objects.store import ColdLimits
from stepwell.tiers.pages import Pages
from stepwell.tiers.shared.store import ToWrite
from tests.tiers.harness import name_of
from tests.tiers.objects_harness import BLOCK, OBJECT, FaultyClient, Node, cold_node, content, folder_bytes

obstore_store = pytest.importorskip("obstore.store")


@pytest.fixture
def client() -> FaultyClient:
    return FaultyClient(obstore_store.MemoryStore())


def counters(node: Node) -> dict[str, int]:
    return {**node.tier.counters, **node.store.counters}


def test_a_store_that_is_away_is_left_alone_and_comes_back(client: FaultyClient) -> None:
    node = cold_node(client)
    client.away = "it cannot be reached or fails"
    for number in range(40):
        node.put(number)
        node.tier.ask()
        node.settle()
        assert not node.offers(number)
    assert client.calls < 20, "forty turns make no forty tries"
    assert counters(node)["dropped"] >= 38
    client.away = ""
    node.pass_s(120)
    node.put(50)
    node.look()
    assert node.get(50).ok


def test_a_node_starts_while_the_store_is_away_and_finds_it_later(client: FaultyClient) -> None:
    cold_node(client).put(1, 2)
    client.away = "it refuses these credentials"
    node = cold_node(client)
    node.look()
    assert not node.offers(1)
    client.away = ""
    node.pass_s(120)
    node.look()
    node.look()
    assert node.get(1, 2).ok


def test_the_log_has_a_line_a_minute_at_most(client: FaultyClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    node = cold_node(client)
    for minute in range(5):
        for number in range(20):
            client.away = ("it cannot be reached or fails", "it is full", "")[number % 3]
            node.put(1000 * minute + number)
            node.tier.ask()
            node.settle()
            node.pass_s(3)
    said = [record.message for record in caplog.records if " fails: " in record.message]
    assert 1 <= len(said) <= 6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: data[:5_000] + bytes([data[5_000] ^ 1]) + data[5_001:],
        lambda data: data[:41] + bytes([data[41] ^ 64]) + data[42:],
        lambda data: b"<html>not here</html>".ljust(len(data)),
    ],
)
def test_wrong_bytes_are_a_miss_and_are_not_asked_for_again(client: FaultyClient, wrong: object) -> None:
    node = cold_node(client)
    node.put(1)
    node.look()
    client.wrong = wrong  # type: ignore[assignment]
    assert node.get(1).done == ()  # which looks at every byte of the engine's memory
    node.look()
    assert not node.offers(1)
    client.wrong = None
    assert counters(node)["damaged"] == 1
    node.put(1)
    node.look()
    assert node.get(1).ok, "what is computed again is written under a name of its own"
    node.store.check()


def test_a_store_that_gives_wrong_bytes_for_everything_is_left_alone(client: FaultyClient) -> None:
    node = cold_node(client)
    node.put(*range(20))
    node.look()
    client.wrong = lambda data: bytes(len(data))
    assert node.get(*range(20)).done == ()
    assert not node.offers(19)
    before = client.calls
    for number in range(20):
        node.tier.lookup(name_of(number))
    assert client.calls == before
    assert len(client.list()) == 20, (
        "nothing is removed: it may be this node's way to the store that is wrong"
    )


def test_another_objects_bytes_under_this_name_are_a_miss(tmp_path: Path) -> None:
    node = cold_node(open_objects(str(tmp_path), 5.0))
    node.put(1, 2)
    one, two = sorted(tmp_path.glob("kv1/*.kv"))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    node.look()
    assert node.get(1, 2).done == ()


def test_another_model_finds_nothing_and_counts_within_the_bound(client: FaultyClient) -> None:
    one, other = cold_node(client), cold_node(client, model="another", limit_bytes=4 << 20)
    one.put(*range(150))
    other.look()
    assert not other.offers(1)
    other.pass_s(700)
    other.put(*range(150, 152))
    other.look()
    other.store.check()
    assert sum(entry.size_bytes for entry in client.list()) <= 4 << 20


def test_a_read_that_is_late_is_told_and_touches_nothing_later(client: FaultyClient) -> None:
    node = cold_node(client)
    node.put(1)
    node.look()

    def meanwhile() -> None:
        node.pass_s(60)
        assert [ended.ok for ended in node.tier.ended()] == [False]
        node.memory[1][:] = b"x" * BLOCK

    client.during = meanwhile
    node.tier.load_blocks(99, node.items([1]))
    assert node.settle() == []
    assert bytes(node.memory[1]) == b"x" * BLOCK


def test_what_the_store_does_not_take_in_time_is_dropped(client: FaultyClient) -> None:
    node = cold_node(client, limits=ColdLimits(uploads=1, buffer_bytes=3 * OBJECT))
    for number in range(8):
        node.memory[number][:] = content(number)
    node.tier.store_blocks(1, node.items(range(8)), "a")
    node.workers["stepwell-write"].run_all()
    assert [ended.ok for ended in node.tier.ended()] == [True], "nobody waits for the store"
    node.memory[0][:] = b"x" * BLOCK
    node.settle()
    assert counters(node)["dropped"] == 5
    node.look()
    node.memory[0][:] = bytes(BLOCK)
    assert node.get(0, 1, 2).ok


def test_what_is_queued_is_written_before_the_end(client: FaultyClient) -> None:
    node = cold_node(client)
    node.memory[1][:] = content(1)
    node.tier.store_blocks(1, node.items([1]), "a")
    node.close()
    later = cold_node(client)
    later.look()
    assert later.get(1).ok


def test_what_is_used_outlives_what_is_not(client: FaultyClient) -> None:
    """What is read long after it was written is renewed; the bytes do not leave the store for it."""
    one = cold_node(client, tenants={"a": 4 * OBJECT})
    one.put(1)
    one.put(2)
    one.pass_s(2 * 3600)
    one.look()
    assert one.get(1).ok
    one.look()
    one.settle()
    one.put(3)
    one.put(4)
    one.put(5)
    one.look()
    assert [one.offers(n) for n in (1, 2, 3, 4, 5)] == [True, False, True, True, True]
    other = cold_node(client)
    other.look()
    assert other.get(1).ok
    one.store.check()


def test_a_node_that_knows_only_the_old_name_finds_what_was_renewed(client: FaultyClient) -> None:
    one, other = cold_node(client), cold_node(client)
    one.put(1)
    other.look()
    one.pass_s(2 * 3600)
    other.pass_s(2 * 3600)
    one.look()
    assert one.get(1).ok
    one.look()
    one.settle()
    assert [entry.written_us for entry in client.list()] > [one.now_us - 3_600_000_000]
    assert other.offers(1)
    assert other.get(1).ok


def test_a_node_whose_clock_is_ahead_does_not_keep_its_objects_for_ever(client: FaultyClient) -> None:
    ahead, node = cold_node(client), cold_node(client, tenants={"a": 3 * OBJECT})
    ahead.pass_s(400 * 86_400)
    ahead.put(1, 2)
    node.pass_s(700)
    node.look()
    node.look()
    for number in range(3, 6):
        node.put(number)
    node.look()
    assert [node.offers(n) for n in range(1, 6)] == [False, False, True, True, True]


def test_names_say_what_bounds_need_and_nobodys_name() -> None:
    entry = ObjectEntry(1_700_000_000_000_000, short_digest("model"), name_of(1), short_digest("acme"), 5)
    assert parse_object_name(entry.name, 5) == entry
    assert "acme" not in entry.name
    earlier = ObjectEntry(999_999_999_999_999, entry.model, name_of(2), entry.tenant, 5)
    assert earlier.name < entry.name
    for foreign in ("kv1/x.kv", "kv1/" + "0" * 14 + ".kv", entry.name + "~", "other/" + entry.name):
        assert parse_object_name(foreign, 5) is None


def test_what_others_keep_in_the_bucket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kv1").mkdir()
    (tmp_path / "kv1" / "notes.txt").write_text("mine")
    (tmp_path / "report.pdf").write_bytes(bytes(9 << 20))
    node = cold_node(open_objects(str(tmp_path), 5.0))
    node.put(*range(300))
    node.store.check()
    assert (tmp_path / "kv1" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "report.pdf").stat().st_size == 9 << 20
    assert folder_bytes(tmp_path / "kv1") <= (6 << 20) + 4


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ftp://x/y", "is no object store"),
        ("https://example.org/kv", "is no object store"),
        ("s3://", "cannot be used"),
        ("/dev/null/kv", "cannot be used"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(address: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        open_objects(address, 5.0)
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_nobody_answers_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    nowhere = open_objects("s3://bucket/kv", 0.2)
    for act in (
        nowhere.list,
        lambda: nowhere.put("x", [memoryview(b"x")]),
        lambda: nowhere.get("x", 1),
        lambda: nowhere.delete(["x"]),
    ):
        with pytest.raises(ObjectsAway, match="cannot be reached") as caught:
            act()
        assert caught.value.detail


def test_an_endpoint_that_takes_a_request_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        with pytest.raises(ObjectsAway, match="does not answer in time"):
            open_objects("s3://bucket/kv", 0.2).get("x", 1)


def test_a_probe_says_how_quick_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    speeds = measure_objects(open_objects(str(tmp_path), 5.0), 100_000)
    assert speeds.size_bytes == 100_000
    assert folder_bytes(tmp_path) == 0


def test_one_block_is_queued_once(client: FaultyClient) -> None:
    node = cold_node(client)
    block = ToWrite(name_of(1), "a", _pages(1), node.now_us)
    node.store.write([block])
    node.store.write([block])
    node.settle()
    assert len(client.list()) == 1


def _pages(number: int) -> Pages:
    return Pages.of(content(number))
