#!/usr/bin/env bash
# The tests of what has an environment of its own: vLLM (2.8 GB), Ray, an object store. A test that fails ends this; an
# environment that cannot be had here (no room, no such package for this machine) is said and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
make_s=1500   # to download and install one environment
test_s=1200   # for its tests, which take 4:29, 0:16 and 0:04 on two quiet cores (2026-11-30)

for name in vllm ray objects; do
  echo "==> tests of $name"
  if ! timeout "$make_s" make ".venv-$name/.made" </dev/null; then
    echo "the environment of $name could not be made: its tests are left out"
    continue
  fi
  timeout --kill-after 60 "$test_s" make "test-$name" ARGS="$*" </dev/null
done
