"""A record says everything about itself, and one wrong bit anywhere in its header is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.types import BlockMeta
from stepwell.tiers import record
from tests.tiers.harness import block, content

hashes = st.binary(min_size=16, max_size=16)
metas = st.builds(
    BlockMeta,
    id=hashes,
    parent=hashes,
    depth=st.integers(1, 10_000),
    n_tokens=st.integers(1, 4096),
    units=st.lists(hashes, max_size=300).map(tuple),
    tenant=st.text(max_size=255),
    size_bytes=st.integers(64, 2**40),
)


def encoded(meta: BlockMeta, payload: bytes = b"kv") -> bytes:
    return record.encode(record.make_header(meta, memoryview(payload), "fingerprint", 7))


@given(metas.filter(lambda meta: meta.id not in meta.units[:-1]), st.binary(max_size=64))
def test_what_goes_in_comes_out(meta: BlockMeta, payload: bytes) -> None:
    data = encoded(meta, payload)
    header = record.decode(data)
    assert len(data) % record.PAGE_BYTES == 0
    assert record.header_size(data) == len(data)
    assert (header.meta(), header.fingerprint, header.sequence) == (meta, "fingerprint", 7)
    record.verify_payload(header, memoryview(payload))


def test_every_single_bit_flip_in_the_header_is_noticed() -> None:
    """Padding behind the body says nothing and may rot."""
    good = encoded(block(1))
    used = len(good.rstrip(b"\0"))
    for bit in range(used * 8):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(record.Damaged):
            record.decode(bytes(data))


@given(st.integers(0, 4095))
def test_a_header_cut_anywhere_is_noticed(length: int) -> None:
    with pytest.raises(record.Damaged):
        record.decode(encoded(block(1))[:length])


@given(st.binary(max_size=8192))
def test_noise_is_not_a_header(data: bytes) -> None:
    with pytest.raises(record.Damaged):
        record.decode(data)


def test_a_changed_payload_is_noticed() -> None:
    data = bytearray(content(block(1)))
    header = record.make_header(block(1), memoryview(data), "fingerprint", 1)
    data[5_000] ^= 1
    with pytest.raises(record.Damaged):
        record.verify_payload(header, memoryview(data))
    with pytest.raises(record.Damaged):
        record.verify_payload(header, memoryview(content(block(1))[:-1]))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(block(1), parent=b"p" * 16),  # a root with a parent
        replace(block(1), depth=3),  # an orphan by birth
        replace(block(1), units=(block(1).id, b"u" * 16)),  # the chain goes on behind the block
        replace(block(1), size_bytes=1),  # smaller than its payload
    ],
)
def test_a_header_that_contradicts_itself_is_damaged(wrong: BlockMeta) -> None:
    with pytest.raises(record.Damaged):
        record.decode(encoded(wrong))


def test_a_valid_checksum_over_nonsense_is_damaged() -> None:
    """Another version may have other fields; whatever it is, it is not served."""
    good = encoded(block(1))
    body = b'{"sequence": "seven"}'
    prefix = record._PREFIX.pack(record.MAGIC, record.VERSION, 0, 4096, len(body), 0)
    data = (prefix + record.digest(prefix + body) + body).ljust(len(good), b"\0")
    with pytest.raises(record.Damaged, match="does not say"):
        record.decode(data)
