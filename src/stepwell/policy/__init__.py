"""The policy: decides which turns run, where each KV block lies, what is loaded and what is evicted.

Pure: events and the time go in, a plan comes out. No I/O, no clock, no randomness, no logging; the
standard library only. Read in this order:

    types.py          the nouns: events (what happened) and plans (what is decided)
    config.py         sizes and limits; contracts.py: what a service tier is owed
    scheduler.py      ``Scheduler.step``, the one entry point
    turn_table.py     the turns: waiting, running, preempted, and what each holds
    admission.py      which waiting turns are opened; queue.py and fairness.py: in which order
    batch.py          prefill and decode: which turns get tokens in this step
    block_manager.py  blocks and bytes of the three KV tiers; block_index.py: the prefix tree
    eviction/         which block leaves a KV tier first

Beside them: turns.py (the records of turns and agents), agent_table.py (agents between turns), costs.py
(load or recompute), chain.py (names of prefixes), descent.py (room without losing blocks), demotion.py,
depth_limit.py, drafting.py, reasons.py (why a turn waits), write_budget.py, ghosts.py, invariants.py,
decisions.py (the decision hash).
docs/policy.md has the formulas in two pages, docs/policy-rules.md every rule and bound.
"""
