"""The cost book: what the machine costs, and from it what one unit of each resource costs.

::

    [accelerator]                  # what computes, and the memory of the KV tier "device"
    hourly_usd = 2.35              # its price by the hour; or, when it was bought:
    purchase_usd = 30000
    years = 5
    residual_usd = 5000            # what it is worth after them; default 0
    power_kw = 1.73                # drawn all the time; with usd_per_kwh, on top of either; default 0
    pue = 1.2                      # of the building; default 1
    usd_per_kwh = 0.08
    count = 4                      # accelerators of this machine; default 1
    memory_share = 0.3             # of that price for its memory, the rest is for its compute; default 0.3

    [host_memory]                  # the KV tier "host"
    usd_per_gb = 13                # 10^9 bytes
    years = 5
    included = false               # true: the hourly price of the accelerator has paid for it already

    [disk]                         # the KV tier "disk"
    usd_per_gb = 0.36
    years = 5
    drive_writes_per_day = 1       # rated endurance over those years
    capacity_share = 0.5           # of the price for room, the rest for wear by bytes written; default 0.5
    included = false

    [machine]
    other_hourly_usd = 0.4         # chassis, network, staff; default 0
    utilisation = 1.0              # for loaded rates alone; default 1

Every cost is charged once. The accelerator's time pays ``1 - memory_share`` of its price and
``other_hourly_usd``; the bytes of its memory pay the rest by the time they are held. There is no right share:
it says whether room or time is what the machine is short of, and an operator who is short of memory sets it
higher. A disk's price is split likewise: room over its years, and wear, which is
``(1 - capacity_share) * usd_per_gb`` over all the bytes it may take in its life. A disk that is written at
its rated pace pays exactly its price. Bytes copied between device and host, and bytes read from disk, cost
the compute time they take and nothing else.

So one hour of compute and of every byte of all three KV tiers, used or idle, is the hourly price of the
machine; idle time is an account of its own. ``utilisation`` answers what to charge: ``loaded``
rates are what a used hour must bring for the idle ones beside it. They are not to be added to the idle
account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.money import MICROUSD, apportion
from stepwell.ledger.pricing.books import ABOUT, NumberLimits, TomlTable, read_book
from stepwell.ledger.types import MACHINE_RESOURCES, Resource
from stepwell.policy.config import PolicyConfig

HOUR_US = 3_600_000_000
HOURS_PER_YEAR = 8_760
DAYS_PER_YEAR = 365
GB = 10**9

USD = NumberLimits(most=1_000_000_000)
YEARS = NumberLimits(most=100, positive=True)
FACTOR = NumberLimits(most=1_000_000)
PUE = NumberLimits(most=10, positive=True)
SHARE = NumberLimits(most=1)
UTILISATION = NumberLimits(most=1, positive=True)
ENDURANCE = NumberLimits(most=10_000, positive=True)
COUNT = NumberLimits(most=1_000_000, digits=0, positive=True)

HOURLY_KEYS = ("hourly_usd",)
BOUGHT_KEYS = ("purchase_usd", "years", "residual_usd")
POWER_KEYS = ("power_kw", "pue", "usd_per_kwh")
TIMED = (Resource.COMPUTE, Resource.DEVICE, Resource.HOST, Resource.DISK)
"""What is paid by the hour, whether it is used or not."""


Capacities = PerTier[int]
"""What the machine has for KV, in bytes. Memory that holds weights is not in it: KV pays for that too."""


def room_bytes(config: PolicyConfig) -> Capacities:
    """What the policy was given."""
    return PerTier(config.device_blocks * config.block_bytes, config.host_bytes, config.disk_bytes)


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-dollars per unit of each resource of the machine, exactly.

    ``Resource.DISPLACED`` is time, at the rate of compute: between agents it is a transfer and sums to zero.
    """

    microusd: Mapping[Resource, Fraction]
    utilisation: Fraction = Fraction(1)

    def cost(self, amounts: Mapping[Resource, int]) -> Fraction:
        """Micro-dollars, not rounded. Money among the amounts is no cost of the machine: ``KeyError``."""
        return sum((self.microusd[resource] * amount for resource, amount in amounts.items()), Fraction(0))

    def cost_microusd(self, amounts: Mapping[Resource, int]) -> dict[Resource, int]:
        """Whole micro-dollars by resource, which sum to the rounded whole. Amounts may be negative."""
        return apportion({resource: self.microusd[resource] * amount for resource, amount in amounts.items()})

    def loaded(self) -> Rates:
        """What a used hour must bring to pay for the idle ones too. Wear is there only when it is used."""
        by_time = (*TIMED, Resource.DISPLACED)
        return Rates(
            {r: rate / self.utilisation if r in by_time else rate for r, rate in self.microusd.items()},
            Fraction(1),
        )


@dataclass(frozen=True, slots=True)
class MemoryPrice:
    """What a byte of host memory or of a disk costs."""

    usd_per_gb: Fraction = Fraction(0)
    """Of room; what is charged as wear is not in it."""
    years: Fraction = Fraction(1)
    wear_usd_per_gb: Fraction = Fraction(0)
    """Per 10^9 bytes written."""
    included: bool = False
    """The accelerator's hourly price has paid for the room."""

    @property
    def microusd_per_byte_us(self) -> Fraction:
        return self.usd_per_gb * MICROUSD / (GB * self.years * HOURS_PER_YEAR * HOUR_US)

    def hourly_usd(self, size_bytes: int) -> Fraction:
        """What so much room costs an hour."""
        return self.usd_per_gb * size_bytes / (GB * self.years * HOURS_PER_YEAR)


@dataclass(frozen=True, slots=True)
class CostBook:
    """What the machine costs. Made by ``load_cost_book``."""

    accelerator_hourly_usd: Fraction
    """All of them, with power."""
    memory_share: Fraction
    host: MemoryPrice
    disk: MemoryPrice
    other_hourly_usd: Fraction = Fraction(0)
    utilisation: Fraction = Fraction(1)
    source: str = ""
    as_of: str = ""
    text: str = ""
    """The TOML, as it was read."""

    def hourly_usd(self, capacities: Capacities) -> Fraction:
        """What the machine costs an hour, without wear."""
        host = self.host.hourly_usd(capacities.host)
        disk = self.disk.hourly_usd(capacities.disk)
        rooms = host * (not self.host.included) + disk * (not self.disk.included)
        return self.accelerator_hourly_usd + self.other_hourly_usd + rooms

    def rates(self, capacities: Capacities) -> Rates:
        """What a unit of each resource costs on a machine with so much room for KV.

        Without any device room the memory's share falls to compute. Rooms that are included are taken out of
        the accelerator's price; where they are worth more than it, they cost their part of it.
        """
        accelerator_usd, scale = self._without_included(capacities)
        memory = accelerator_usd * self.memory_share if capacities.device else Fraction(0)
        compute = accelerator_usd - memory + self.other_hourly_usd
        per_us = Fraction(MICROUSD, HOUR_US)
        wear = self.disk.wear_usd_per_gb * MICROUSD / GB
        rates = dict.fromkeys(MACHINE_RESOURCES, Fraction(0)) | {
            Resource.COMPUTE: compute * per_us,
            Resource.DISPLACED: compute * per_us,
            Resource.DEVICE: memory * per_us / (capacities.device or 1),
            Resource.HOST: self.host.microusd_per_byte_us * (scale if self.host.included else 1),
            Resource.DISK: self.disk.microusd_per_byte_us * (scale if self.disk.included else 1),
            Resource.WRITTEN: wear,
        }
        return Rates(rates, self.utilisation)

    def _without_included(self, capacities: Capacities) -> tuple[Fraction, Fraction]:
        """The accelerator's price without the rooms in it, and the part of their worth that they cost."""
        rooms = self.host.hourly_usd(capacities.host) * self.host.included
        rooms += self.disk.hourly_usd(capacities.disk) * self.disk.included
        if rooms <= self.accelerator_hourly_usd:
            return self.accelerator_hourly_usd - rooms, Fraction(1)
        return Fraction(0), self.accelerator_hourly_usd / rooms


def load_cost_book(name_or_path: str | Path) -> CostBook:
    """Read a preset or a file. Raises ``BadInput``: one sentence that names the file and the key."""
    return parse_cost_book(*read_book("cost", name_or_path))


def parse_cost_book(text: str, source: str) -> CostBook:
    """The book in a text, such as the one kept with a run; ``source`` is what errors call it."""
    book = TomlTable.parse(text, source)
    book.only(*ABOUT, "accelerator", "host_memory", "disk", "machine")
    book.needs("accelerator")
    about, as_of = book.about()
    accelerator, machine = book.table("accelerator"), book.table("machine")
    accelerator.only(*HOURLY_KEYS, *BOUGHT_KEYS, *POWER_KEYS, "count", "memory_share")
    machine.only("other_hourly_usd", "utilisation")
    count = accelerator.number("count", COUNT, 1)
    return CostBook(
        accelerator_hourly_usd=count * (_hourly_usd(accelerator) + _power_usd(accelerator)),
        memory_share=accelerator.number("memory_share", SHARE, Fraction(3, 10)),
        host=_host(book.table("host_memory")) if "host_memory" in book else MemoryPrice(),
        disk=_disk(book.table("disk")) if "disk" in book else MemoryPrice(),
        other_hourly_usd=machine.number("other_hourly_usd", USD, 0),
        utilisation=machine.number("utilisation", UTILISATION, 1),
        source=about,
        as_of=as_of,
        text=text,
    )


def _hourly_usd(accelerator: TomlTable) -> Fraction:
    """By the hour, or bought and written off in a straight line; without power."""
    bought = [key for key in BOUGHT_KEYS if key in accelerator]
    if "hourly_usd" in accelerator:
        if bought:
            raise accelerator.wrong(bought[0], "give either hourly_usd or purchase_usd and years, not both")
        return accelerator.number("hourly_usd", USD)
    if not bought:
        raise accelerator.wrong("hourly_usd", "is missing: give it, or purchase_usd and years")
    purchase_usd = accelerator.number("purchase_usd", USD)
    residual_usd = accelerator.number("residual_usd", USD, 0)
    if residual_usd > purchase_usd:
        raise accelerator.wrong("residual_usd", "is more than purchase_usd")
    return (purchase_usd - residual_usd) / (accelerator.number("years", YEARS) * HOURS_PER_YEAR)


def _power_usd(accelerator: TomlTable) -> Fraction:
    """An hour's power. One of its keys without the others is a price that would silently not be charged."""
    if not any(key in accelerator for key in POWER_KEYS):
        return Fraction(0)
    drawn_kw = accelerator.number("power_kw", FACTOR) * accelerator.number("pue", PUE, 1)
    return drawn_kw * accelerator.number("usd_per_kwh", USD)


def _host(table: TomlTable) -> MemoryPrice:
    table.only("usd_per_gb", "years", "included")
    usd_per_gb, years = table.number("usd_per_gb", USD), table.number("years", YEARS)
    return MemoryPrice(usd_per_gb, years, included=table.flag("included"))


def _disk(table: TomlTable) -> MemoryPrice:
    table.only("usd_per_gb", "years", "drive_writes_per_day", "capacity_share", "included")
    usd_per_gb, years = table.number("usd_per_gb", USD), table.number("years", YEARS)
    share = table.number("capacity_share", SHARE, Fraction(1, 2))
    writes_per_day = table.number("drive_writes_per_day", ENDURANCE)
    wear = (1 - share) * usd_per_gb / (writes_per_day * DAYS_PER_YEAR * years)
    return MemoryPrice(share * usd_per_gb, years, wear, table.flag("included"))
