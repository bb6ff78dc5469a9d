"""What a server counts, as its ``/metrics`` has it: ours, llama.cpp's or vLLM's."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from stepwell.errors import StepwellError


def scraped(http: httpx2.Client) -> Iterator[Sample]:
    """Each line with its name, labels and value. Raises ``StepwellError`` where the server shows none."""
    answer = http.get("/metrics")
    if answer.status_code != 200:
        raise StepwellError(f"/metrics answered {answer.status_code}")
    try:
        for family in text_string_to_metric_families(answer.text):
            yield from family.samples
    except ValueError as error:
        raise StepwellError(f"/metrics is not in Prometheus' format: {error}") from error
