"""Service tiers inside the real vLLM: who gives way, and that it costs no token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.vllm.engine import Engine, engine, offloading

SCHEDULER: dict[str, Any] = {
    "scheduling_policy": "priority",
    "scheduler_cls": "stepwell.vllm.scheduler.StepwellScheduler",
}


def run(
    one: Engine, arrivals: dict[int, list[tuple[str, str, str, int]]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Step the engine; ``arrivals``: at which step which requests come (name, service tier, prompt, tokens).

    Returns the tokens of each, and the order in which they ended.
    """
    from vllm import SamplingParams

    core, answers, order = one.llm.llm_engine, {}, []
    for step in range(2_000):
        for name, tier, prompt, tokens in arrivals.pop(step, ()):
            extra = {"kv_transfer_params": {"tenant": "acme", "agent": name, "service_tier": tier}}
            sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
            core.add_request(name, prompt, sampling)
        for output in core.step():
            if output.finished:
                answers[output.request_id.split("-")[0]] = tuple(output.outputs[0].token_ids)
                order.append(output.request_id.split("-")[0])
        if not arrivals and not core.has_unfinished_requests():
            return answers, order
    raise AssertionError("the engine did not come to an end")


def test_priority_does_not_wait_behind_flex_and_nobody_loses_a_token(
    tiny_model: Path, tmp_path: Path
) -> None:
    flood = [(f"flex{n}", "flex", f"Number {n} of a flood of cheap work. " * 3, 60) for n in range(6)]
    urgent = ("urgent", "priority", "The customer who pays for it is waiting. " * 4, 8)
    with engine(tiny_model, None) as stock:
        expected = {name: stock.turn(prompt, tokens).tokens for name, _, prompt, tokens in [*flood, urgent]}
    with engine(tiny_model, offloading(tmp_path, host_chunks=64), **SCHEDULER) as one:
        answers, order = run(one, {0: flood, 8: [urgent]})
        scheduler = one.llm.llm_engine.engine_core.engine_core.scheduler
        assert scheduler.preempted_for_others >= 1
        assert not scheduler.requests
    assert order[0] == "urgent"
    assert answers == expected
