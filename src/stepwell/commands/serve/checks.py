"""``--check``: everything that could stop a start is looked at, and all that is wrong is said at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from stepwell.console.options import Flag
from stepwell.errors import MissingExtra, StepwellError
from stepwell.telemetry.redaction import redacted

CheckAsJson = Annotated[Flag, Parameter(name="--json", help="With --check: as JSON.")]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: what it found, or what is wrong."""

    name: str
    ok: bool
    says: str


def checked(name: str, look: Callable[[], str]) -> CheckResult:
    """``look`` says what it found, or raises ``StepwellError`` or ``ValueError`` with one sentence."""
    try:
        return CheckResult(name, True, redacted(look()))
    except OSError as error:
        says = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return CheckResult(name, False, redacted(says))
    except ImportError as error:
        return CheckResult(name, False, str(MissingExtra(f"this ledger ({error.name})", "postgres")))
    except (StepwellError, ValueError) as error:
        return CheckResult(name, False, redacted(str(error)))


def report(results: Sequence[CheckResult], passed: str, failed: str, *, as_json: bool) -> int:
    """Print them, and a last line that says what they mean; the exit code."""
    wrong = [one for one in results if not one.ok]
    if as_json:
        print(json.dumps({"ok": not wrong, "checks": [asdict(one) for one in results]}, indent=2))
        return 2 if wrong else 0
    for one in results:
        print(f"{'ok' if one.ok else 'FAILED':<7} {one.name:<16} {one.says}")
    if wrong:
        print(f"{len(wrong)} of {len(results)} checks failed: {failed}")
    else:
        print(f"all {len(results)} checks passed: {passed}")
    return 2 if wrong else 0
