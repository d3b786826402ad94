#!/usr/bin/env bash
# Training on all GPUs of one node, the notebooks on its first: launch/one_node.sh
# PRESET (paper), RUN_ID (the preset's name) and GPUS (8) come from the environment. Not run by us.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PRESET=${PRESET:-paper}
RUN_ID=${RUN_ID:-$PRESET}
GPUS=${GPUS:-8}
export PATH=$PWD/.venv/bin:$PATH

source launch/install.sh
rockstudy run --preset "$PRESET" --run-id "$RUN_ID" --dry-run --processes "$GPUS"
accelerate launch --config_file launch/fsdp2.yaml --num_processes "$GPUS" \
	-m rockstudy.distill --preset "$PRESET" --run-id "$RUN_ID" --stage stage2
source launch/notebooks.sh
