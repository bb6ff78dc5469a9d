"""Whether the books are right: every sum again from the postings, and every difference by its name.

A posting moves an amount from one account to another, so nothing can be created in the books; what can be
wrong is what they were told, and what was done to them afterwards. So sums are compared across what was
entered independently: postings with the machine's own totals, charges with the money that was moved for
them, and, where a run was recorded, balances with those that its events give again.

Numbers of batches may have gaps: what waited for a store that was away is written as one batch with the last
number. That nothing is missing follows from the totals. What displacement cost is in no total: only a
recording can tell.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from stepwell.ledger.base import LedgerError, Store
from stepwell.ledger.reading.margin import STORAGE
from stepwell.ledger.reading.queries import (
    AccountId,
    Accounts,
    PostingSum,
    RunRow,
    join_sum,
    moves,
    runs,
    split_sum,
)
from stepwell.ledger.types import MACHINE_RESOURCES, Account, Cause, Kind, Resource

_STORAGE = {resource.value for resource in STORAGE}
MOST_DIFFERENCES = 1_000
"""Kept of one check of one run; more of the same kind say nothing new."""

Progress = Callable[[int, int], None]
"""Told how many runs are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    where: str
    books: str
    should: str

    @property
    def sentence(self) -> str:
        return f"{self.where}: the books say {self.books}, and it should be {self.should}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a recording gives again: the machine's totals by resource, and the balance of every account."""

    totals: Mapping[str, int]
    balances: Mapping[Account, Mapping[Resource, int]]


Replay = Callable[[RunRow], Replayed | None]
"""Plays the recording of a run up to its ``last_batch``; None when there is none of that run."""


@dataclass(slots=True)
class Verified:
    """What was looked at, and what was found."""

    postings: int = 0
    balances: int = 0
    """Daily ones, of postings that were added up."""
    accounts: int = 0
    runs: int = 0
    replayed: int = 0
    """Runs that were compared with a recording."""
    differences: list[Difference] = field(default_factory=list)


def verify(store: Store, replay: Replay | None = None, progress: Progress | None = None) -> Verified:
    """Every run up to the batch it had when this began, so a server may go on writing meanwhile."""
    all_runs = runs(store)
    known = Accounts(store)
    found = Verified(accounts=len(known), runs=len(all_runs))
    found.differences += islice(_strangers(store), MOST_DIFFERENCES)
    for done, run in enumerate(all_runs):
        if progress is not None:
            progress(done, len(all_runs))
        _verify_run(_Run(store, run, known), replay, found)
    return found


def _verify_run(run: _Run, replay: Replay | None, found: Verified) -> None:
    found.postings += run.count("postings")
    found.balances += run.count("daily")
    moved = moves(run.store, *run.part("p"))
    checks = [
        _entries(run, "postings"),
        _entries(run, "usage"),
        _compacted(run),
        _clock(run),
        _amounts(run),
        _unknown_accounts(run, moved),
        _zero_sums(run, moved),
        _totals(run, moved),
        _charges(run, moved),
        _holds(run) if run.row.ended_at_us is not None else iter(()),
    ]
    for check in checks:
        found.differences += islice(check, MOST_DIFFERENCES)
    if replay is not None:
        _verify_recorded(run, moved, replay, found)


def _verify_recorded(run: _Run, moved: Sequence[PostingSum], replay: Replay, found: Verified) -> None:
    """What the run itself has entered, against its recording. Recovery's entries are beside that: they make
    up what the run had not come to post, from its last positions."""
    recovered = _recovery_batch(run)
    if recovered is not None:
        where, values = run.part("p")
        moved = moves(run.store, f"{where} AND p.batch < ?", [*values, recovered])
    own_last = run.row.last_batch if recovered is None else recovered - 1
    replayed = replay(run.row._replace(last_batch=own_last))
    if replayed is None:
        return
    found.replayed += 1
    checks = [_given(run, replayed), _balances(run, moved, replayed)]
    for check in checks:
        found.differences += islice(check, MOST_DIFFERENCES)


def _recovery_batch(run: _Run) -> int | None:
    """The batch that was entered for a run after it had been cut off."""
    where, values = run.part("p")
    rows = run.store.rows(
        f"SELECT MIN(p.batch) FROM entries p WHERE {where} AND p.cause = ?", [*values, Cause.RECOVERY.value]
    )
    return None if rows[0][0] is None else int(rows[0][0])


def _given(run: _Run, replayed: Replayed) -> Iterator[Difference]:
    """What the machine gave, as the run has noted it."""
    noted = _read_totals(run)
    for resource in dict.fromkeys([*noted, *replayed.totals]):
        books, should = noted.get(resource, 0), replayed.totals.get(resource, 0)
        if books != should:
            yield Difference(
                f"{run}: {resource} of the machine", f"{books:,}", f"{should:,} by the recording"
            )


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, and how to read its part of the books."""

    store: Store
    row: RunRow
    accounts: Mapping[AccountId, Account]

    def part(self, table: str) -> tuple[str, list[int]]:
        """SQL for the rows of this run; of a run that goes on those that were there at the beginning."""
        if self.row.ended_at_us is not None:
            return f"{table}.run = ?", [self.row.id]
        return f"{table}.run = ? AND {table}.batch <= ?", [self.row.id, self.row.last_batch]

    def count(self, table: str) -> int:
        where, values = self.part("t")
        return int(self.store.rows(f"SELECT COUNT(*) FROM {table} t WHERE {where}", values)[0][0])

    def is_a(self, kind: Kind, account: AccountId) -> bool:
        known = self.accounts.get(account)
        return known is not None and known.kind is kind

    def named(self, account: AccountId) -> str:
        if account not in self.accounts:
            return f"account {account}"
        return describe(self.accounts[account])

    def __str__(self) -> str:
        return f"run {self.row.id} ({self.row.node})"


def describe(account: Account) -> str:
    """An account in a few words: ``agent acme / s1 / s1/reader (key_1f, flex)``."""
    if account.kind is not Kind.AGENT:
        return f"{account.kind.value} {account.tenant}".strip()
    path = " / ".join(part or "-" for part in (account.tenant, account.session, account.agent))
    return f"agent {path} ({account.key or '-'}, {account.service_tier or '-'})"


def _strangers(store: Store) -> Iterator[Difference]:
    for table in ("postings", "usage", "daily"):
        rows = store.rows(
            f"SELECT t.run, COUNT(*) FROM {table} t LEFT JOIN runs r ON r.id = t.run "
            "WHERE r.id IS NULL GROUP BY t.run ORDER BY t.run"
        )
        for run, count in rows:
            yield Difference(f"run {run}", f"{count} rows of {table}", "none: there is no such run")


def _entries(run: _Run, table: str) -> Iterator[Difference]:
    """Rows of a batch are numbered from 0; a number that is missing is a row that was taken out."""
    where, values = run.part("t")
    rows = run.store.rows(
        f"SELECT t.batch, COUNT(*), MAX(t.n) FROM {table} t WHERE {where} GROUP BY t.batch "
        f"HAVING COUNT(*) <> MAX(t.n) + 1 ORDER BY t.batch LIMIT {MOST_DIFFERENCES}",
        values,
    )
    for batch, count, last in rows:
        yield Difference(
            f"{run}, batch {batch}: rows of {table}", str(count), f"{last + 1} (numbers 0 to {last})"
        )
    beyond = run.store.rows(
        f"SELECT MAX(t.batch) FROM {table} t WHERE {where} HAVING MAX(t.batch) > ?",
        [*values, run.row.last_batch],
    )
    for (batch,) in beyond:
        yield Difference(f"{run}: last batch of {table}", str(batch), f"at most {run.row.last_batch}")


def _compacted(run: _Run) -> Iterator[Difference]:
    """What was added up is in the daily balances alone, and nothing else is."""
    for table, beyond, should in (("postings", "<=", "none of them"), ("daily", ">", "at most that batch")):
        ((count,),) = run.store.rows(
            f"SELECT COUNT(*) FROM {table} t WHERE t.run = ? AND t.batch {beyond} ?",
            [run.row.id, run.row.compacted_batch],
        )
        if count:
            what = f"{run}, added up to batch {run.row.compacted_batch}: rows of {table}"
            yield Difference(what, str(count), should)


def _clock(run: _Run) -> Iterator[Difference]:
    """A batch has one time. The next may have an earlier one: the clock on the wall was set back."""
    where, values = run.part("p")
    rows = run.store.rows(
        f"""
        SELECT p.batch, MIN(p.at_us), MAX(p.at_us) FROM postings p WHERE {where}
        GROUP BY p.batch HAVING MIN(p.at_us) <> MAX(p.at_us) ORDER BY p.batch LIMIT {MOST_DIFFERENCES}
        """,
        values,
    )
    for batch, began_us, ended_us in rows:
        yield Difference(f"{run}, batch {batch}: time", f"{began_us} to {ended_us}", "one moment")


def _amounts(run: _Run) -> Iterator[Difference]:
    where, values = run.part("p")
    rows = run.store.rows(
        f"SELECT p.batch, p.n, p.resource, p.amount, p.debit, p.credit FROM postings p "
        f"WHERE {where} AND (p.amount <= 0 OR p.debit = p.credit) "
        f"ORDER BY p.batch, p.n LIMIT {MOST_DIFFERENCES}",
        values,
    )
    for batch, n, resource, amount, debit, credit in rows:
        what = f"{run}, batch {batch}, posting {n}: {resource}"
        if amount <= 0:
            yield Difference(what, str(amount), "more than 0")
        else:
            yield Difference(what, f"from {run.named(debit)} to {run.named(credit)}", "between two accounts")


def _unknown_accounts(run: _Run, moved: Iterable[PostingSum]) -> Iterator[Difference]:
    where, values = run.part("u")
    users = run.store.rows(f"SELECT DISTINCT u.account FROM usage u WHERE {where}", values)
    used = {account for (account,) in users} | {one for move in moved for one in (move.debit, move.credit)}
    for account in sorted(used - run.accounts.keys()):
        yield Difference(
            f"{run}: entries of account {account}", "there are some", "of an account that exists"
        )
    for resource in sorted({move.resource for move in moved} - {known.value for known in Resource}):
        yield Difference(f"{run}: postings of {resource!r}", "there are some", "of a resource that is known")


def _zero_sums(run: _Run, moved: Iterable[PostingSum]) -> Iterator[Difference]:
    sums: dict[str, int] = defaultdict(int)
    for move in moved:
        sums[move.resource] += move.amount * ((move.credit in run.accounts) - (move.debit in run.accounts))
    for resource, amount in sums.items():
        if amount:
            yield Difference(f"{run}: {resource} over all accounts", f"{amount:,}", "0")


def _totals(run: _Run, moved: Iterable[PostingSum]) -> Iterator[Difference]:
    """What went out of the machine is what it gave; of room, what a run that goes on has posted so far."""
    given: dict[str, int] = defaultdict(int)
    for move in moved:
        given[move.resource] += move.amount * (
            run.is_a(Kind.MACHINE, move.debit) - run.is_a(Kind.MACHINE, move.credit)
        )
    expected = _read_totals(run)
    for resource in dict.fromkeys([*(r.value for r in MACHINE_RESOURCES), *given, *expected]):
        books, should = given.get(resource, 0), expected.get(resource, 0)
        posted_later = run.row.ended_at_us is None and resource in _STORAGE and books < should
        if books != should and not posted_later:
            yield Difference(
                f"{run}: {resource} of the machine", f"{books:,}", f"{should:,} by the machine's totals"
            )


def _read_totals(run: _Run) -> dict[str, int]:
    try:
        return {str(name): int(amount) for name, amount in json.loads(run.row.totals).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise LedgerError(f"{run}: its totals cannot be read") from error


def _charges(run: _Run, moved: Iterable[PostingSum]) -> Iterator[Difference]:
    """What customers were charged is what went to revenue for them."""
    where, values = run.part("u")
    rows = run.store.rows(
        f"SELECT u.account, {split_sum('u.charge_microusd')} FROM usage u WHERE {where} GROUP BY u.account",
        values,
    )
    charged: dict[str, int] = defaultdict(int)
    for account, high, low in rows:
        charged[_tenant(run, account)] += join_sum(high, low)
    revenue = _revenue(run, moved)
    for tenant in sorted(charged.keys() | revenue.keys()):
        if charged.get(tenant, 0) != revenue.get(tenant, 0):
            what = f"{run}, tenant {tenant or '-'}: micro-dollars that went to revenue"
            should = f"{charged.get(tenant, 0):,} by the charges of the spend log"
            yield Difference(what, f"{revenue.get(tenant, 0):,}", should)


def _revenue(run: _Run, moved: Iterable[PostingSum]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for move in moved:
        if move.resource != Resource.MONEY.value:
            continue
        if run.is_a(Kind.REVENUE, move.credit):
            found[_tenant(run, move.debit)] += move.amount
        if run.is_a(Kind.REVENUE, move.debit):
            found[_tenant(run, move.credit)] -= move.amount
    return found


def _tenant(run: _Run, account: AccountId) -> str:
    known = run.accounts.get(account)
    return known.tenant if known is not None else f"of account {account}"


def _holds(run: _Run) -> Iterator[Difference]:
    """A run that has ended holds no customer's money any more."""
    where, values = run.part("p")
    sides = " UNION ALL ".join(
        f"SELECT p.{side} AS account, p.request AS request, {sign}p.high AS high, "
        f"{sign}p.low AS low FROM entries p JOIN accounts a ON a.id = p.{side} "
        f"WHERE {where} AND p.resource = ? AND a.kind = ?"
        for side, sign in (("credit", ""), ("debit", "-"))
    )
    rows = run.store.rows(
        f"SELECT t.account, t.request, SUM(t.high), SUM(t.low) FROM ({sides}) t "
        "GROUP BY t.account, t.request HAVING SUM(t.high) * 4294967296 + SUM(t.low) <> 0 "
        f"ORDER BY t.account, t.request LIMIT {MOST_DIFFERENCES}",
        [*values, Resource.MONEY.value, Kind.HELD.value] * 2,
    )
    for account, request, high, low in rows:
        what = f"{run}, request {request}: micro-dollars held of {_tenant(run, account) or '-'}"
        yield Difference(what, f"{join_sum(high, low):,}", "0, for the run has ended")


def _balances(run: _Run, moved: Iterable[PostingSum], replayed: Replayed) -> Iterator[Difference]:
    books: dict[tuple[Account, str], int] = defaultdict(int)
    for move in moved:
        for number, amount in ((move.credit, move.amount), (move.debit, -move.amount)):
            if number in run.accounts:
                books[run.accounts[number], move.resource] += amount
    should = {
        (account, resource.value): amount
        for account, balances in replayed.balances.items()
        for resource, amount in balances.items()
    }
    for account, resource in sorted(books.keys() | should.keys()):
        found, expected = books.get((account, resource), 0), should.get((account, resource), 0)
        if found != expected:
            what = f"{run}, {describe(account)}: {resource}"
            yield Difference(what, f"{found:,}", f"{expected:,} by the recording")
