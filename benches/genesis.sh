#!/bin/bash
# Measures how five blank nodes become a cloud (tests/fixtures/cluster), and prints where the time goes, step by step: the first
# part of the acceptance, which has the limits.
#
#   time      from switching on to every step done               at most 1200 s on two cores
#   memory    of the three controllers' processes                at most 14336 MiB
#
# Usage:   benches/genesis.sh
#
# Exit status not 0: a limit was missed. Needs root, and 20 GiB of memory.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup cluster
OSTACK_ACCEPTANCE=genesis cargo test --release --locked --test cluster -- --nocapture
