"""What servers count, read from text as they write it."""

from __future__ import annotations

import httpx2
import pytest

from stepwell.bench.scraped import scraped
from stepwell.bench.vllm import ahead
from stepwell.errors import StepwellError

VLLM = """\
# HELP vllm:num_preemptions_total Cumulative number of preemptions.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="a}b \\"c\\""} 3.0
vllm:num_preemptions_total{engine="1",model_name="a}b \\"c\\""} 4.0
# TYPE vllm:prompt_tokens_cached_by_source_total counter
vllm:prompt_tokens_cached_by_source_total{engine="0",source="disk"} 1.2e+06
vllm:prompt_tokens_cached_by_source_total{engine="0",source="device"} 9.0
# TYPE vllm:kv_offload_ahead_used_blocks_total counter
vllm:kv_offload_ahead_used_blocks_total{tier="disk"} 5.0
vllm:kv_offload_ahead_used_blocks_total{tier="objects"} 6.0
# TYPE vllm:kv_offload_ahead_used_blocks_created gauge
vllm:kv_offload_ahead_used_blocks_created{tier="disk"} 1.7e+09
"""


def answering(text: str, status: int = 200) -> httpx2.Client:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(status, text=text))
    return httpx2.Client(base_url="http://x", transport=transport)


def test_a_label_may_hold_anything() -> None:
    with answering(VLLM) as http:
        found = [one for one in scraped(http) if one.name == "vllm:num_preemptions_total"]
    assert [one.value for one in found] == [3.0, 4.0]
    assert found[0].labels == {"engine": "0", "model_name": 'a}b "c"'}


def test_what_was_fetched_ahead_is_summed_over_tiers() -> None:
    with answering(VLLM) as http:
        assert ahead._counted(http) == {"from_disk": 1_200_000, "used": 11}


@pytest.mark.parametrize(("text", "status"), [("not a metric at all {", 200), ("gone", 404)])
def test_a_server_without_metrics_is_one_sentence(text: str, status: int) -> None:
    with answering(text, status) as http, pytest.raises(StepwellError, match="/metrics"):
        list(scraped(http))
