"""One process of ``stepwell bench waiting``: decodes with llama.cpp alone and says what a step took.

Apart from its parent because OpenMP reads how threads wait once, when it is loaded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from stepwell.bench.engine.raw_llamacpp import RawLlama

PROMPT_TOKENS = 128
SEQUENCES = 8


def steps_ms(raw: RawLlama, sequences: int, steps: int) -> list[float]:
    """Milliseconds of each step that decodes a token of every sequence; two steps before are not counted."""
    times_ms = []
    for step in range(steps + 2):
        began_s = time.perf_counter()
        raw.decode([(n, PROMPT_TOKENS + step, 100 + step + n, True) for n in range(sequences)])
        times_ms.append((time.perf_counter() - began_s) * 1e3)
    for sequence in range(sequences):
        raw.remove(sequence, PROMPT_TOKENS)
    return times_ms[2:]


def main() -> None:
    path, threads, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    raw = RawLlama(path, n_cells=SEQUENCES * 2 * PROMPT_TOKENS, threads=threads)
    for sequence in range(SEQUENCES):
        raw.prefill(sequence, [500 + 7 * n + sequence for n in range(PROMPT_TOKENS)])
    told = {str(n): steps_ms(raw, n, steps) for n in (1, SEQUENCES)}
    raw.close()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
