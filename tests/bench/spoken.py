"""A child for the tests of children: so many lines for each that it hears."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    count = int(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "half\n":
            sys.stdout.write('{"n": 9}\n{"n": ')
            sys.stdout.flush()
        else:
            for number in range(count):
                print(f'{{"n": {number}}}', flush=True)
