#!/usr/bin/env bash
# Debian's programs that some tests want: a browser with its driver, and Prometheus with promtool. They are installed
# where this may be done (root, apt-get); elsewhere, and where it fails or takes minutes, those tests are skipped.
set -uo pipefail

declare -A packages=([chromium]=chromium [chromedriver]=chromium-driver [prometheus]=prometheus [promtool]=prometheus)
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "no ${missing[*]} here, and no right to install: the tests that want them are skipped"
  exit 0
fi
echo "==> installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1   # nothing that is installed here is to be started
if ! { timeout 60 apt-get update -qq && timeout 240 apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 </dev/null; then
  echo "they could not be installed: the tests that want them are skipped"
fi
