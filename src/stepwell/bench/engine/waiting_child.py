"""One process of ``stepwell bench waiting``: decodes with llama.cpp alone and says what a step took.

Apart from its parent because OpenMP reads how threads wait once, when it is loaded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from stepwell.bench.engine.raw_llamacpp import RawLlama

SEQUENCES, N_CELLS = 8, 2_048


def steps_ms(raw: RawLlama, sequences: int, steps: int, prompt_tokens: int) -> list[float]:
    """Milliseconds of each step that decodes a token of every sequence; two steps before are not counted."""
    times_ms = []
    for step in range(steps + 2):
        began_s = time.perf_counter()
        raw.decode([(n, prompt_tokens + step, 100 + step + n, True) for n in range(sequences)])
        times_ms.append((time.perf_counter() - began_s) * 1e3)
    for sequence in range(sequences):
        raw.remove(sequence, prompt_tokens)
    return times_ms[2:]


def main() -> None:
    path, (threads, steps, prompt_tokens) = Path(sys.argv[1]), map(int, sys.argv[2:])
    raw = RawLlama(path, n_cells=N_CELLS, threads=threads)
    for sequence in range(SEQUENCES):
        raw.prefill(sequence, [500 + 7 * n + sequence for n in range(prompt_tokens)])
    told = {str(n): steps_ms(raw, n, steps, prompt_tokens) for n in (1, SEQUENCES)}
    raw.close()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
