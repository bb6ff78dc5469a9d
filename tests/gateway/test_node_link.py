"""Links to nodes: answers cut anywhere, connections that end, what is used again and what is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.gateway.node_link import MOST_UNREAD_BYTES, LinkLost, NodeLinks, NodeResponse, _Socket
from stepwell.gateway.upstream import NodeLost, Upstream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces if one) + b"0\r\n\r\n"


STREAM = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(b"data: a\n\n", b"data: b\n\n")
WHOLE = HEAD + b"content-length: 5\r\n\r\nhello"


@dataclass
class RawNode:
    """Answers each request with the next bytes that it was given; ``ends`` with the connection after them."""

    answers: list[list[bytes]]
    ends: bool = False
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line[16:] for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        self.requests.append(head + await reader.readexactly(int(lengths[0])))
        for part in self.answers.pop(0):
            writer.write(part)
            await asyncio.sleep(0)
        if self.ends:
            raise ConnectionError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def play(node: RawNode, acts: Callable[[NodeLinks], Awaitable[None]]) -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
        node.port = server.sockets[0].getsockname()[1]
        links = NodeLinks(2.0)
        async with asyncio.timeout(60):
            await acts(links)
        links.close()
        server.close()
        for _ in range(4):  # sockets are closed by the loop
            await asyncio.sleep(0)

    asyncio.run(scenario())


async def asked(links: NodeLinks, node: RawNode, timeout_s: float = 30.0) -> NodeResponse:
    headers = [(b"content-type", b"application/json")]
    return await links.request(node.url, "POST", "/v1/x?y=1", headers, b"{}", timeout_s)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=6))
def test_an_answer_may_be_cut_anywhere(cuts: list[int]) -> None:
    at = [0, *sorted(set(cuts)), len(STREAM)]
    node = RawNode([[STREAM[a:b] for a, b in pairwise(at)], [WHOLE]])

    async def acts(links: NodeLinks) -> None:
        response = await asked(links, node)
        assert response.headers["content-type"] == "text/event-stream"
        assert await response.aread() == b"data: a\n\ndata: b\n\n"
        await response.aclose()
        again = await asked(links, node)
        assert await again.aread() == b"hello"
        await again.aclose()

    play(node, acts)
    assert node.connections == 1
    assert node.requests[0].endswith(b"content-length: 2\r\n\r\n{}")
    assert node.requests[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")


def test_what_has_come_together_is_one_piece() -> None:
    node = RawNode([[STREAM]])

    async def acts(links: NodeLinks) -> None:
        response = await asked(links, node)
        assert [piece async for piece in response.aiter_raw()] == [b"data: a\n\ndata: b\n\n"]

    play(node, acts)


@pytest.mark.parametrize(
    "answer",
    [b"", HEAD[:9], HEAD + b"content-length: 9\r\n\r\nhello", STREAM[:-5], b"no HTTP at all\r\n\r\n"],
)
def test_a_connection_that_ends_too_early_is_a_lost_node(answer: bytes) -> None:
    node = RawNode([[answer]], ends=True)

    async def acts(links: NodeLinks) -> None:
        with pytest.raises(LinkLost) as caught:
            await (await asked(links, node)).aread()
        assert caught.value.connected

    play(node, acts)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    node = RawNode([[b"HTTP/1.0 200 OK\r\n\r\nall ", b"of it"]], ends=True)

    async def acts(links: NodeLinks) -> None:
        assert await (await asked(links, node)).aread() == b"all of it"

    play(node, acts)


def test_silence_is_a_lost_node() -> None:
    node = RawNode([[STREAM[:-5]], []])

    async def acts(links: NodeLinks) -> None:
        response = await asked(links, node, timeout_s=0.01)
        with pytest.raises(LinkLost, match="ReadTimeout"):
            await response.aread()

    play(node, acts)


@pytest.mark.parametrize(
    "answer", [STREAM + b"HTTP/1.1 200 OK\r\n", WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")]
)
def test_a_connection_that_says_more_or_that_it_ends_is_not_used_again(answer: bytes) -> None:
    node = RawNode([[answer], [WHOLE]])

    async def acts(links: NodeLinks) -> None:
        for _ in range(2):
            response = await asked(links, node)
            assert await response.aread() in (b"hello", b"data: a\n\ndata: b\n\n")
            await response.aclose()

    play(node, acts)
    assert node.connections == 2


def test_who_leaves_half_way_ends_the_connection() -> None:
    node = RawNode([[STREAM[:-5]], [WHOLE]])

    async def acts(links: NodeLinks) -> None:
        response = await asked(links, node)
        async for _ in response.aiter_raw():
            break
        await response.aclose()
        again = await asked(links, node)
        assert await again.aread() == b"hello"

    play(node, acts)
    assert node.connections == 2


def test_a_node_far_ahead_of_its_client_waits_and_nothing_is_lost() -> None:
    much = b"x" * (3 * MOST_UNREAD_BYTES)
    node = RawNode([[HEAD + b"content-length: %d\r\n\r\n" % len(much), much]])

    async def acts(links: NodeLinks) -> None:
        response = await asked(links, node)
        sizes = []
        async for piece in response.aiter_raw():
            sizes.append(len(piece))
            assert response._link.socket.unread_bytes <= 2 * MOST_UNREAD_BYTES
        assert sum(sizes) == len(much)

    play(node, acts)


def test_a_closed_port_never_had_the_request() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        closed = RawNode([], port=one.getsockname()[1])

        async def acts() -> None:
            with pytest.raises(LinkLost) as caught:
                await asked(NodeLinks(2.0), closed)
            assert not caught.value.connected

        asyncio.run(acts())


@pytest.mark.parametrize(
    ("url", "target", "ours"),
    [
        ("http://a:1", "/v1/x?y=%20", True),
        ("https://a:1", "/v1/x", False),
        ("http://a:1", "/v1/\xe9", False),
        ("http://a:1", "/v1/x y", False),
        ("http://a:1", "/v1/x\r\nhost: b", False),
    ],
)
def test_which_requests_go_this_way(url: str, target: str, ours: bool) -> None:
    assert NodeLinks.takes(url, target) is ours


def test_headers_that_no_request_may_have_are_a_lost_node_and_not_a_smuggled_one() -> None:
    node = RawNode([[WHOLE]])

    async def acts(links: NodeLinks) -> None:
        upstream = Upstream(30.0)
        upstream.urls["n"] = node.url
        with pytest.raises(NodeLost):
            async with upstream.open("n", "POST", "/", [("x", "a\r\nhost: b")], b"{}"):
                pass
        await upstream.close()

    play(node, acts)
    assert node.requests == []


class ForeignTransport:
    """As of an event loop that has classes of its own (uvloop, in environments of vLLM and Ray)."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_another_librarys_event_loop_will_do() -> None:
    foreign, one = ForeignTransport(), _Socket()
    one.connection_made(cast("asyncio.BaseTransport", foreign))
    one.close()
    assert foreign.aborted
