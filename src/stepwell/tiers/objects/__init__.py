"""KV records in an object store that the nodes of a fleet share: a bucket, or a folder that all mount.

    names.py    what an object is called: when it was written, of which model, which block, whose
    book.py     what lies there, from its listing: bytes by tenant, the oldest, which blocks can be had
    client.py   the few calls that are made to the store, each with a deadline, and what their failures mean
    probe.py    whether a store can be used from here, and how quick it is
    store.py    ``ColdStore``: written behind, read verified, bounded; behind ``tiers/shared/tier.py``

An object is a record of ``tiers/record.py``, header and payload. The listing is the only index: nothing in
the store could be stale, and nodes share nothing else (docs/adr/0035-object-store.md).
"""
