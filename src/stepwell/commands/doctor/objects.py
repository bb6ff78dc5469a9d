"""What ``stepwell doctor`` says of an object store: reachable, writable, and in what time a block comes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stepwell.basics.units import format_size
from stepwell.errors import BadInput
from stepwell.settings.file import ObjectSettings
from stepwell.tiers.objects.client import ObjectsAway, open_objects
from stepwell.tiers.objects.probe import ObjectSpeeds, measure_objects

VLLM_BLOCK_BYTES = 1 << 20
"""What is tried for vLLM, whose blocks only a running engine knows the size of."""


@dataclass(frozen=True, slots=True)
class ObjectFindings:
    """One of both is there."""

    speeds: ObjectSpeeds | None
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        return {"problem": self.problem, **({} if self.speeds is None else asdict(self.speeds))}


def examine_objects(wanted: ObjectSettings, block_bytes: int) -> ObjectFindings | None:
    """Lists, and writes, reads and removes one object of a block's size. None: no store is named."""
    if not wanted.url:
        return None
    try:
        client = open_objects(wanted.url, wanted.deadline_ms / 1000)
        return ObjectFindings(measure_objects(client, block_bytes), None)
    except ObjectsAway as error:
        detail = f" ({error.detail})" if error.detail else ""
        return ObjectFindings(None, f"{wanted.url}: {error}{detail}; blocks would be computed again")
    except BadInput as error:
        return ObjectFindings(None, str(error))


def objects_line(wanted: ObjectSettings, found: ObjectFindings) -> str:
    if found.speeds is None:
        return f"Object store: {found.problem}"
    speeds = found.speeds
    return (
        f"Object store: {wanted.url} can be listed, written to and read; a block of "
        f"{format_size(speeds.size_bytes)} goes there in {1000 * speeds.put_s:.0f} ms and comes back in "
        f"{1000 * speeds.get_s:.0f} ms"
    )
