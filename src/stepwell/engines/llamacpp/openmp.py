"""How threads of llama.cpp wait for each other: they spin for a while, then they sleep.

OpenMP's own default spins for milliseconds. With a core for every thread that is the quickest; where another
program has one of the cores, threads spin its turns away, and a token takes ten times as long
(``stepwell bench waiting``). Set before llama.cpp is loaded, as OpenMP reads it only then.

Source: GOMP_SPINCOUNT and OMP_WAIT_POLICY in the manual of libgomp,
https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html.
"""

from __future__ import annotations

import os

VARIABLE = "GOMP_SPINCOUNT"
SPINS = 10_000

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault(VARIABLE, str(SPINS))
