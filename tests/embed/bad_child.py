"""An embedding model's process that does what its first input says."""

from __future__ import annotations

import json
import signal
import sys

from stepwell.basics.line_child import answer, questions, ready

if __name__ == "__main__":
    answers = ready()
    for line in questions():
        question = json.loads(line)
        if "about" in question:
            answer(answers, b'{"dimensions": 2, "max_tokens": 9, "vocab_size": 9, "ranks": false}')
            continue
        what = question["embed"][0]
        if what == "hang":
            signal.pause()
        elif what == "die":
            sys.exit(1)
        elif what == "nonsense":
            answer(answers, b"\xff\x00{")
        elif what == "list":
            answer(answers, b"[]")
        else:
            answer(answers, json.dumps({"vectors": ["AAAAAAAAAAA="], "us": 3, "all_us": 3}).encode())
