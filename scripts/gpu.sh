#!/usr/bin/env bash
# On a machine with a GPU, after `make demo GPU=cuda` (or vulkan, metal) has made the environment: what the device
# promises and how fast it is, in under ten minutes. Reports go to the folder given, or to out/gpu.
# It has run on no GPU yet.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/gpu}
mkdir -p "$out"
export STEPWELL_ENGINE_N_GPU_LAYERS=${STEPWELL_ENGINE_N_GPU_LAYERS:--1}
run() {
    echo "== $*"
    timeout 180 .venv/bin/stepwell "$@" || echo "== ended with $?: $*"
}
run doctor --model smollm2 --json "$out/doctor.json"
run bench exactness --quick --model smollm2 --no-control --json "$out/exactness.json"
run bench pressure --quick --model smollm2 --json "$out/pressure.json"
run bench throughput --quick --json "$out/throughput.json"
echo "== reports are in $out"
