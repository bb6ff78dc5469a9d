"""What one KV block looks like on disk: a header that says everything, then the bytes.

    offset  bytes
    0       8       magic ``STEPWLKV``
    8       2       format version, little endian
    10      2       zero
    12      4       header bytes, a multiple of 4096
    16      4       body bytes
    20      4       zero
    24      16      XXH3-128 of everything else in the header's first 24 + body bytes
    40      body    JSON: fingerprint, block, lengths, payload checksum
    header  payload padded with zeros to a multiple of 4096

The header alone decides whether a record is ours, whole and worth offering after a restart; the
payload is verified when it is read. Nothing outside the record (no index file) is ever trusted, so
nothing outside it can be stale.

The checksums guard against rot, torn writes and mix-ups. They are not signatures: what may write to
the directory may forge a record, which is why the directory belongs to its owner alone (0700).
XXH3-128 and not CRC-32, because 2^-32 is a real number of wrong answers at a million blocks a day,
and because it costs nothing: see docs/adr/0003-disk-layout.md for the measurement.
"""

from __future__ import annotations

import struct

import msgspec
import xxhash

from stepwell.policy.types import BlockMeta

PAGE_BYTES = 4096
"""Direct I/O wants offsets, lengths and memory aligned; 4096 satisfies every disk sold."""

MAGIC = b"STEPWLKV"
VERSION = 1
_PREFIX = struct.Struct("<8sHHIII")
_DIGEST_BYTES = 16
_BODY_START = _PREFIX.size + _DIGEST_BYTES
_LARGEST_HEADER_BYTES = 1 << 20


class Damaged(Exception):
    """The bytes are not what was written. The record is worthless and must not be served."""


class RecordHeader(msgspec.Struct, frozen=True):
    """The body of a record's header. Bytes are base64 in the JSON."""

    sequence: int
    """Grows with every record a store writes; of two records for one block the newer one counts."""
    fingerprint: str
    id: bytes
    parent: bytes | None
    depth: int
    n_tokens: int
    units: tuple[bytes, ...]
    tenant: str
    size_bytes: int
    payload_bytes: int
    """Real length of the bytes; ``size_bytes`` is what the policy counts and never less."""
    payload_digest: bytes

    def meta(self) -> BlockMeta:
        return BlockMeta(
            self.id, self.parent, self.depth, self.n_tokens, self.units, self.tenant, self.size_bytes
        )


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RecordHeader)


def padded(size_bytes: int) -> int:
    """Rounded up to whole pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """16 bytes over ``data``. Releases the GIL on anything larger than a few pages."""
    return xxhash.xxh3_128_digest(data)


def make_header(block: BlockMeta, payload: memoryview, fingerprint: str, sequence: int) -> RecordHeader:
    """The header for these bytes; reads all of them for the checksum."""
    return RecordHeader(
        sequence,
        fingerprint,
        block.id,
        block.parent,
        block.depth,
        block.n_tokens,
        block.units,
        block.tenant,
        block.size_bytes,
        len(payload),
        digest(payload),
    )


def encode(header: RecordHeader) -> bytes:
    """The header as it goes to disk, padded to whole pages."""
    body = _encoder.encode(header)
    header_bytes = padded(_BODY_START + len(body))
    prefix = _PREFIX.pack(MAGIC, VERSION, 0, header_bytes, len(body), 0)
    return (prefix + digest(prefix + body) + body).ljust(header_bytes, b"\0")


def header_size(first_page: bytes | memoryview) -> int:
    """How many bytes the header takes, from its first page. ``Damaged`` if this is no header."""
    if len(first_page) < _BODY_START:
        raise Damaged("the file is shorter than a header")
    magic, version, _, header_bytes, body_bytes, _ = _PREFIX.unpack_from(first_page)
    if magic != MAGIC or version != VERSION:
        raise Damaged("the header does not begin as one of ours")
    if header_bytes != padded(_BODY_START + body_bytes) or header_bytes > _LARGEST_HEADER_BYTES:
        raise Damaged("the header's lengths contradict each other")
    return int(header_bytes)


def decode(data: bytes | memoryview) -> RecordHeader:
    """The header in ``data`` (at least its ``header_size`` bytes). ``Damaged`` if one bit is wrong."""
    if header_size(data) > len(data):
        raise Damaged("the header is cut short")
    view = memoryview(data)
    body_bytes = _PREFIX.unpack_from(view)[4]
    body = view[_BODY_START : _BODY_START + body_bytes]
    if digest(bytes(view[: _PREFIX.size]) + bytes(body)) != view[_PREFIX.size : _BODY_START]:
        raise Damaged("the header's checksum is wrong")
    try:
        header = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Damaged(f"the header does not say what it must: {error}") from error
    _check_chain(header)
    return header


def _check_chain(header: RecordHeader) -> None:
    """What the block claims about itself must hang together."""
    if header.payload_bytes > header.size_bytes or header.payload_bytes < 0:
        raise Damaged("the lengths in the header contradict each other")
    if (header.parent is None) != (header.depth == 0):
        raise Damaged("only the first block of a prefix has no parent")
    if header.id in header.units[:-1]:
        raise Damaged("the token hash chain goes on behind the block's id")


def verify_payload(header: RecordHeader, payload: memoryview) -> None:
    """``Damaged`` unless these are the bytes that were written."""
    if len(payload) != header.payload_bytes or digest(payload) != header.payload_digest:
        raise Damaged("the payload's checksum is wrong")
