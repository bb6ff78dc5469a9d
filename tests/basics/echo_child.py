"""A child for tests/basics/test_line_child.py: does what its question says."""

from __future__ import annotations

import os
import signal
import sys

from stepwell.basics.line_child import answer, questions, ready

if __name__ == "__main__":
    answers = ready()
    print("what a library prints is no answer", flush=True)
    for line in questions():
        what, _, size = line.decode().partition(" ")
        if what == "sleep":
            signal.pause()
        elif what == "end":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "leave":
            sys.exit(3)
        answer(answers, line if what == "say" else b"x" * int(size))
