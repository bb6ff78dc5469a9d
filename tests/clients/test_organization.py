"""The openai package's own administration calls, against a ledger of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.server.backends.books import Books
from stepwell.server.run import BackgroundServer
from tests.ledger.made_books import START_S, made_books
from tests.server.admin.test_organization import END_S, RING
from tests.server.fakes import FakeDriver, says, serving

openai = pytest.importorskip("openai")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackgroundServer]:
    made = made_books(tmp_path)
    with serving(FakeDriver(says("x")), keys=RING) as running:
        running.service.books = Books(made.store)
        yield running
    made.store.close()


def usage_of(server: BackgroundServer, key: str) -> Any:
    client = openai.OpenAI(
        base_url=server.base_url + "/v1",
        api_key="none",
        admin_api_key=f"sk-{key}",
        max_retries=0,
        _strict_response_validation=True,
    )
    return client.admin.organization.usage


def test_completions(server: BackgroundServer) -> None:
    page = usage_of(server, "operator").completions(
        start_time=START_S,
        end_time=END_S,
        bucket_width="1d",
        group_by=["project_id", "service_tier", "model", "batch", "api_source"],
        models=["tiny"],
        batch=False,
    )
    assert (page.object, page.has_more, len(page.data)) == ("page", False, 3)
    found = {r.project_id: r for bucket in page.data for r in bucket.results}
    assert set(found) == {"acme", "rival", "acme/search"}
    acme = found["acme"]
    assert type(acme).__name__.endswith("UsageCompletionsResult")
    assert (acme.num_model_requests, acme.input_tokens, acme.output_tokens) == (2, 1_400, 350)
    assert (acme.input_cached_tokens, acme.service_tier, acme.model) == (600, "priority", "tiny")
    assert (acme.batch, acme.api_source) == (False, "unlabeled")
    assert (acme.model_extra["visible_tokens"], acme.model_extra["intermediate_tokens"]) == (100, 250)


def test_completions_page_by_page(server: BackgroundServer) -> None:
    usage, requests, pages = usage_of(server, "operator"), 0, 0
    more: dict[str, Any] = {}
    while True:
        page = usage.completions(start_time=START_S, end_time=END_S, bucket_width="1h", limit=20, **more)
        requests += sum(r.num_model_requests for bucket in page.data for r in bucket.results)
        pages += 1
        if not page.has_more:
            break
        more = {"page": page.next_page}
    assert (requests, pages) == (6, 4)


def test_fields_of_ours_go_as_extra_query(server: BackgroundServer) -> None:
    page = usage_of(server, "acme").completions(
        start_time=START_S, end_time=END_S, extra_query={"group_by": ["agent_id"], "session_ids": ["s1"]}
    )
    agents = {r.model_extra["agent_id"]: r.output_tokens for b in page.data for r in b.results}
    assert agents == {"s1": 100, "s1/reader": 250}


def test_costs(server: BackgroundServer) -> None:
    page = usage_of(server, "acme").costs(
        start_time=START_S, end_time=END_S, group_by=["project_id", "line_item"], limit=180
    )
    found = [r for bucket in page.data for r in bucket.results]
    assert {type(r).__name__ for r in found} == {"DataResultOrganizationCostsResult"}
    assert {r.amount.currency for r in found} == {"usd"}
    assert sum(r.amount.value for r in found) == pytest.approx(0.012671)
    assert {r.line_item for r in found} == {"tiny, priority", "tiny, default"}


def test_another_tenant_is_empty_and_bad_input_is_a_bad_request(server: BackgroundServer) -> None:
    page = usage_of(server, "rival").costs(start_time=START_S, end_time=END_S, project_ids=["acme"])
    assert [bucket.results for bucket in page.data] == [[], [], []]
    with pytest.raises(openai.BadRequestError) as refused:
        usage_of(server, "rival").costs(start_time=START_S, end_time=END_S, limit=500)
    assert refused.value.param == "limit"
    with pytest.raises(openai.AuthenticationError):
        usage_of(server, "wrong").costs(start_time=START_S)
