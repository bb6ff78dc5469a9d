"""``python -m stepwell.vllm.launch COMMAND``: run a command that ends when the starter of this ends.

A server that is killed must not leave an engine behind that holds the accelerator. The kernel's promise
(``PR_SET_PDEATHSIG``) survives ``exec``; vLLM's own workers end with their parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the promise was made
            raise SystemExit(1)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
