#!/usr/bin/env bash
# From a clone to the report on one GPU: launch/one_gpu.sh [-p NAME VALUE ...]
# PRESET (qwen3) and RUN_ID (the preset's name) come from the environment. We have not run it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PRESET=${PRESET:-qwen3}
RUN_ID=${RUN_ID:-$PRESET}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # one process trains on one device
export PATH=$PWD/.venv/bin:$PATH

source launch/install.sh
rockstudy run --preset "$PRESET" --run-id "$RUN_ID" --dry-run "$@"
rockstudy run --preset "$PRESET" --run-id "$RUN_ID" "$@"
