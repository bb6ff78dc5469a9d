"""What every store that engines share must do: a directory, and object stores of each kind that is here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepwell.tiers.objects.client import ObjectClient, open_objects
from stepwell.tiers.shared.store import Bounds, SharedStore
from tests.tiers.objects_harness import BLOCK, LIMIT, Node, cold_node

obstore_store = pytest.importorskip("obstore.store")
Make = Callable[..., Node]


def directory(tmp_path: Path) -> Make:
    def make(tenants: dict[str, int] | None = None) -> Node:
        return Node(
            lambda node: SharedStore(
                tmp_path, Bounds(LIMIT, tenants=tenants or {}), "model", clock_us=node.clock_us
            )
        )

    return make


def memory(tmp_path: Path) -> Make:
    client = ObjectClient(obstore_store.MemoryStore())
    return lambda tenants=None: cold_node(client, tenants=tenants)


def folder(tmp_path: Path) -> Make:
    return lambda tenants=None: cold_node(open_objects(str(tmp_path / "shared"), 5.0), tenants=tenants)


def folder_by_address(tmp_path: Path) -> Make:
    return lambda tenants=None: cold_node(open_objects(f"file://{tmp_path}/there", 5.0), tenants=tenants)


@pytest.fixture(params=[directory, memory, folder, folder_by_address, "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes nodes on one store."""
    if request.param == "s3":
        address = request.getfixturevalue("bucket")
        here = f"{address}/{tmp_path.name}"
        opened = lambda tenants=None: cold_node(open_objects(here, 5.0), tenants=tenants)  # noqa: E731
    else:
        opened = request.param(tmp_path)
    nodes: list[Node] = []

    def remembered(**settings: dict[str, int]) -> Node:
        nodes.append(opened(**settings))
        return nodes[-1]

    yield remembered
    for node in nodes:
        node.close()


def test_a_block_goes_down_and_comes_back(make: Make) -> None:
    node = make()
    node.put(1, 2, 3)
    node.look()
    assert node.get(1, 2, 3).ok
    node.store.check()


def test_another_node_finds_and_reads_what_one_has_written(make: Make) -> None:
    one, other = make(), make()
    assert not other.offers(1)
    one.put(1, 2)
    other.look()
    assert other.offers(1)
    assert other.get(1, 2).ok


def test_a_node_that_starts_later_finds_what_is_there(make: Make) -> None:
    one = make()
    one.put(1, 2)
    one.close()
    later = make()
    later.look()
    assert later.get(1, 2).ok


def test_a_block_is_written_once(make: Make) -> None:
    one, other = make(), make()
    one.put(1)
    other.look()
    other.put(1)
    used = [sum(blocks for _, blocks in node.store.usage().values()) for node in (one, other)]
    assert used == [1, 1]


def test_the_bound_holds_over_everything_that_is_ever_written(make: Make) -> None:
    node = make()
    for start in range(0, 288, 16):
        node.put(*range(start, start + 16))
        assert sum(size for size, _ in node.store.usage().values()) <= LIMIT
        node.store.check()
    evicted = node.tier.counters["evicted"] + getattr(node.store, "counters", {}).get("evicted", 0)
    assert evicted >= 288 - LIMIT // BLOCK
    node.look()
    assert node.offers(287)
    assert not node.offers(0)


def test_of_one_prefix_the_deepest_block_goes_first(make: Make) -> None:
    node = make(tenants={"a": 3 * 24_576})
    node.put(1, 2, 3)
    node.put(9)
    node.look()
    assert [node.offers(n) for n in (1, 2, 3, 9)] == [True, True, False, True]


def test_a_tenant_over_its_bound_displaces_only_itself(make: Make) -> None:
    node = make(tenants={"small": 3 * 24_576})
    node.put(1, 2, tenant="large")
    for number in range(10, 15):
        node.put(number, tenant="small")
    node.look()
    assert sorted(blocks for _, blocks in node.store.usage().values()) == [2, 3]
    assert node.offers(1)
    assert node.offers(2)


def test_what_one_node_has_removed_is_a_miss_for_the_other(make: Make) -> None:
    one, other = make(tenants={"a": 24_576}), make()
    one.put(1)
    other.look()
    assert other.offers(1)
    one.look()
    one.put(2)
    ended = other.get(1)
    assert ended.done == ()
    assert not other.offers(1)


# --- S3: what speaks it here, on loopback ----------------------------------------------------------------

_SERVER = "from moto.server import main; import sys; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on an S3 endpoint of this machine."""
    pytest.importorskip("moto.server", reason="no S3 endpoint: make test-objects")
    import boto3
    import httpx2

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    patch = pytest.MonkeyPatch()
    for name, value in {**names, "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"}.items():
        patch.setenv(name, value)
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=20), trust_env=False) as client:
            client.get(url, timeout=60.0)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="kv-of-all")
        yield "s3://kv-of-all"
    finally:
        server.terminate()
        server.wait(30)
        patch.undo()
