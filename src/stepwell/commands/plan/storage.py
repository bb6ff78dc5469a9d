"""``stepwell plan storage``: how many disks a product with so many users needs, and how long they last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.catalogue.kv import kv_bytes
from stepwell.catalogue.load import entry
from stepwell.commands.plan.output import write_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.changes import decimals
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

HEAD = ("kind", "TB a day", "kept days", "TB kept", "drives for size", "drives for wear")
FIGURES = {
    "sessions": 2.0,  # of a user, a day
    "kv_tokens": 20_000.0,  # spilled by a session
    "kv_days": 1.0,
    "library_mb": 5.0,  # of documents that a user adds a day
    "library_days": 1825.0,
    "import_gb": 10.0,  # warehouse tables, of all users together, a day
    "import_days": 30.0,
    "images": 1.0,  # of a user, a day
    "image_mb": 2.0,
    "image_days": 365.0,
    "video_minutes": 0.05,  # of a user, a day
    "video_mbit_s": 45.0,  # 4K
    "video_days": 90.0,
}


def storage(
    users: int = 1_000_000,
    *,
    model: str = "llama-3.1-70b",
    ssd: str = "ssd-1dwpd",
    copies: int = 2,
    what_if: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """Disks for a product: KV of sessions, document libraries, warehouse imports, images and 4K video.

    What binds is said for each kind: size, or wear (bytes written a day against the drive's writes a day).
    The figures of use are assumptions, to be set: ``--what-if video_minutes=1 kv_tokens=100000``

    Example: ``stepwell plan storage 1000000 --model deepseek-v3``

    Parameters
    ----------
    users
        People who use the product in a day.
    model
        The model whose KV is spilled, of 'stepwell catalogue models'.
    ssd
        The disks: a memory of 'stepwell catalogue hardware'.
    copies
        Copies of what cannot be computed again (all but KV).
    what_if
        Figures of use to set, as KEY=VALUE (x1.2 multiplies, +6 adds).
    """
    if users < 1 or not 1 <= copies <= 10:
        raise BadInput("users must be above zero, --copies 1 to 10")
    known = {key: Decimal(str(value)) for key, value in FIGURES.items()}
    use = FIGURES | {key: float(value) for key, value in decimals(what_if or [], known).items()}
    needed = needed_disks(_kinds(use, users, model, copies), ssd)
    answer = f"{users:,} users need {needed.sentence}"
    console = console_for(json_file)
    table = Table(*HEAD)
    for row in needed.rows:
        table.add_row(*row)
    console.print(fitted(console, table))
    if html is not None:
        page = Page("Storage", answer)
        drives = needed.drives
        page.chart(charts.bars("Drives", "drives", list(drives), {"drives": list(drives.values())}))
        page.table(HEAD, needed.rows)
        page.inputs({"users": users, "model": model, "ssd": ssd, "copies": copies, **use})
        write_page(page, html, console)
    write_json(json_file, needed.as_json() | {"inputs": use, "answer": answer})
    console.print(f"storage: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


@dataclass(frozen=True, slots=True)
class NeededDisks:
    """Drives of one size for all kinds of data."""

    drive_tb: float
    rows: list[list[str]]
    """The cells of ``HEAD``, a kind a row."""
    drives: dict[str, int]
    """By kind, for size or for wear, whichever takes more."""
    usd: Decimal
    years_of_wear: float

    @property
    def sentence(self) -> str:
        most = max(self.drives, key=self.drives.__getitem__)
        return (
            f"{sum(self.drives.values()):,} drives of {self.drive_tb:g} TB, ${float(self.usd) / 1e6:,.1f} m,"
            f" mostly for {most};"
            f" at this rate of writing they would wear out in {self.years_of_wear:,.0f} years."
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": [dict(zip(HEAD, row, strict=True)) for row in self.rows],
            "drives": sum(self.drives.values()),
            "usd": self.usd,
            "years_of_wear": self.years_of_wear,
        }


def needed_disks(kinds: dict[str, tuple[float, float]], ssd: str) -> NeededDisks:
    """``kinds``: terabytes written a day, and days that they are kept. Raises ``BadInput``."""
    disk = entry("memory", ssd)
    drive_tb, dwpd = disk.number("drive_tb"), disk.number("dwpd")
    if not drive_tb or not dwpd:
        raise BadInput(f"--ssd {ssd}: the catalogue has no size and writes a day for it")
    rows, drives = [], {}
    for kind, (tb_day, days) in kinds.items():
        size, wear = math.ceil(tb_day * days / drive_tb), math.ceil(tb_day / (drive_tb * dwpd))
        drives[kind] = max(size, wear)
        rows.append(
            [kind, f"{tb_day:,.1f}", f"{days:,.0f}", f"{tb_day * days:,.0f}", f"{size:,}", f"{wear:,}"]
        )
    total, written = sum(drives.values()), sum(tb for tb, _ in kinds.values())
    years = disk.number("life_years") * min(total * drive_tb * dwpd / max(written, 1e-12), 1000)
    usd = disk.get("usd_gb") * int(total * drive_tb * 1000)
    return NeededDisks(drive_tb, rows, drives, usd, years)


def _kinds(use: dict[str, float], users: int, model: str, copies: int) -> dict[str, tuple[float, float]]:
    """Terabytes written a day, and days that they are kept."""
    kv = kv_bytes(entry("models", model), use["kv_tokens"], 2)
    return {
        "KV": (users * use["sessions"] * kv / 1e12, use["kv_days"]),
        "library": (users * use["library_mb"] * copies / 1e6, use["library_days"]),
        "warehouse": (use["import_gb"] * copies / 1e3, use["import_days"]),
        "images": (users * use["images"] * use["image_mb"] * copies / 1e6, use["image_days"]),
        "4K video": (
            users * use["video_minutes"] * 60 * use["video_mbit_s"] / 8 * copies / 1e6,
            use["video_days"],
        ),
    }
