"""``stepwell replay --machine``: a recording once more on a machine of the catalogue, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from stepwell.catalogue.kv import kv_bytes_per_token
from stepwell.catalogue.load import Entry, entry
from stepwell.economics.cases import WEIGHT_BYTES
from stepwell.economics.changes import with_changes
from stepwell.economics.constants import load_constants
from stepwell.economics.roofline import PREFILL_TERMS, TERMS, Serving, kv_room_bytes, terms
from stepwell.errors import BadInput
from stepwell.ledger.pricing.costs import CostBook, load_cost_book, room_bytes
from stepwell.policy.config import PolicyConfig
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.recorded import Recorded
from stepwell.simulate.report import RunReport

SHORT, MIDDLE, LONG = 1_000, 2_000, 4_000
"""Prompt tokens at which the catalogue's roofline is read, to get its linear and its quadratic part."""
BATCH = 16
PCIE_BYTES_PER_S = 50e9
"""Between HBM and DRAM: PCIe 5.0 x16 carries 63 GB/s, of which copies reach about four fifths."""
HEAD = ("machine", "first token p50", "turn p50", "busy", "took", "USD/hour", "USD", "USD/1,000 turns")


@Parameter(name="*")
@dataclass(frozen=True)
class ReplayMachine:
    """The machine that a recording is played on."""

    machine: Annotated[
        str | None,
        Parameter(help="Play it on this part of 'stepwell catalogue hardware' too."),
    ] = None
    machine_model: Annotated[
        str, Parameter(help="With --machine: the model, of 'stepwell catalogue models'.")
    ] = "qwen3-8b"
    chips: Annotated[int, Parameter(help="With --machine: parts in tensor parallel.")] = 1
    weights: Annotated[
        Literal["bf16", "fp8", "fp4"], Parameter(help="With --machine: precision of the weights.")
    ] = "fp8"
    cost_book: Annotated[
        str | None,
        Parameter(
            help="With --machine: what a machine costs, for both. [the catalogue's rent for the machine]",
        ),
    ] = None
    what_if: Annotated[
        list[str],
        Parameter(
            consume_multiple=True,
            help="With --machine: figures of the part to set, as KEY=VALUE. With --policy: costs that were"
            " measured, as copy_us_per_block=x2.",
        ),
    ] = field(default_factory=list)


def machine_of(wanted: ReplayMachine, found: Recorded) -> tuple[MachineModel, PolicyConfig, Entry]:
    """The part's times by the catalogue's roofline, and the recording's settings with its room for KV.

    Host and disk keep the room that the recording had, counted in tokens. Raises ``BadInput``.
    """
    if not 1 <= wanted.chips <= 1024:
        raise BadInput(f"--chips {wanted.chips}: give 1 to 1024")
    part = with_changes({"part": entry("parts", str(wanted.machine))}, wanted.what_if)["part"]
    model = entry("models", wanted.machine_model)
    serving = Serving(model, part, wanted.chips, WEIGHT_BYTES[wanted.weights], 2.0, 1, MIDDLE, 100)
    room = kv_room_bytes(serving)
    token_bytes = round(kv_bytes_per_token(model, 2.0))
    config = found.config
    blocks = int(room // (token_bytes * config.block_tokens))
    if blocks < config.blocks_for(max(turn.total for turn in found.turns.values())):
        raise BadInput(
            f"{wanted.chips} x {wanted.machine} with {wanted.machine_model} in {wanted.weights} has no room "
            "for the longest turn of the recording: give more --chips or smaller --weights"
        )
    scale = Fraction(token_bytes, config.token_bytes)
    grown = replace(
        config,
        device_blocks=blocks,
        token_bytes=token_bytes,
        block_bytes=token_bytes * config.block_tokens,
        host_bytes=round(config.host_bytes * scale),
        disk_bytes=round(config.disk_bytes * scale),
    )
    return _times(serving, found, token_bytes * config.block_tokens), grown, part


def _times(serving: Serving, found: Recorded, block_bytes: int) -> MachineModel:
    constants = load_constants("all", None)
    computed = sum(step.prefill_tokens for step in found.steps)
    per_turn = max(1.0, computed / len(found.turns))

    def step_ms(batch: int) -> float:
        parts = zip(TERMS, terms(replace(serving, batch=batch)), constants, strict=True)
        return sum(term * constant for name, term, constant in parts if name not in PREFILL_TERMS)

    def prompt_ms(tokens: int) -> float:
        asked = replace(serving, input_tokens=tokens)
        parts = zip(TERMS, terms(asked), constants, strict=True)
        ms = sum(term * constant for name, term, constant in parts if name in PREFILL_TERMS)
        return ms * asked.output_tokens

    first, second, third = (prompt_ms(tokens) for tokens in (SHORT, MIDDLE, LONG))
    quadratic = ((third - second) / (LONG - MIDDLE) - (second - first) / (MIDDLE - SHORT)) / (LONG - SHORT)
    linear = (second - first) / (MIDDLE - SHORT) - quadratic * (SHORT + MIDDLE)
    fixed = max(0.0, first - linear * SHORT - quadratic * SHORT * SHORT)
    sequence = (step_ms(BATCH + 1) - step_ms(1)) / BATCH
    return replace(
        MachineModel(),
        prefill_us_per_token=max(1, round((linear + fixed / per_turn) * 1e3)),
        depth_ns_per_token=max(0, round(2 * quadratic * 1e6)),
        decode_us_per_step=max(1, round((step_ms(1) - sequence) * 1e3)),
        decode_us_per_sequence=max(1, round(sequence * 1e3)),
        copy_us_per_block=max(1, round(block_bytes / (PCIE_BYTES_PER_S * serving.chips) * 1e6)),
        token_bytes=block_bytes // found.config.block_tokens,
    )


@dataclass(frozen=True, slots=True)
class PricedRun:
    """A run and what its machine costs."""

    name: str
    run: RunReport
    hourly_usd: Fraction | None
    """None: not said."""

    @property
    def usd(self) -> float | None:
        """For as long as the run took: a machine that waits is paid for, too."""
        return None if self.hourly_usd is None else float(self.hourly_usd) * self.run.elapsed_s / 3600

    def row(self) -> list[str]:
        served = [tier for tier in self.run.tiers if tier.turns]
        most = max(served, key=lambda tier: tier.turns)
        usd, hourly = self.usd, self.hourly_usd
        return [
            self.name,
            f"{most.ttft.p50_s:.2f} s",
            f"{most.turn.p50_s:.2f} s",
            f"{100 * self.run.busy_s / max(self.run.elapsed_s, 1e-9):.1f} %",
            f"{self.run.elapsed_s:,.1f} s",
            "not said" if hourly is None else f"{float(hourly):.3f}",
            "not said" if usd is None else f"{usd:.6f}",
            "not said" if usd is None else f"{1000 * usd / self.run.turns:.4f}",
        ]

    def as_json(self) -> dict[str, Any]:
        hourly = None if self.hourly_usd is None else float(self.hourly_usd)
        return {"machine": self.name, "usd_hour": hourly, "usd": self.usd, "run": self.run.as_json()}


def hourly(wanted: ReplayMachine, config: PolicyConfig, part: Entry | None) -> Fraction | None:
    """By the cost book where one is named, else the catalogue's rent of the part."""
    if wanted.cost_book is not None:
        book: CostBook = load_cost_book(wanted.cost_book)
        return book.hourly_usd(room_bytes(config))
    if part is None:
        return None
    usd: Decimal | None = part.find("usd_hour_rent") or part.find("usd_hour_tco")
    return None if usd is None else Fraction(usd) * wanted.chips


def priced_table(title: str, rows: Sequence[PricedRun]) -> Table:
    shown = Table(*HEAD, title=title, title_justify="left")
    for one in rows:
        shown.add_row(*one.row())
    return shown


def closing(here: PricedRun, there: PricedRun) -> str:
    faster = here.run.busy_s / max(there.run.busy_s, 1e-9)
    cost = "its cost is not known" if there.usd is None else f"{there.usd:.6f} USD"
    before = "" if here.usd is None else f" against {here.usd:.6f} USD"
    return (
        f"replay: on {there.name} the same turns cost {cost}{before}; its computing takes "
        f"{there.run.busy_s:,.2f} s instead of {here.run.busy_s:,.2f} s ({faster:,.1f} times less) "
        f"of {there.run.elapsed_s:,.1f} s."
    )
