#!/usr/bin/env bash
# The whole study on all GPUs of one node: launch/one_node.sh [-p NAME VALUE ...]
# PRESET (paper), RUN_ID (the preset's name) and GPUS (8) come from the environment. We have not run it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PRESET=${PRESET:-paper}
RUN_ID=${RUN_ID:-$PRESET}
GPUS=${GPUS:-8}
export PATH=$PWD/.venv/bin:$PATH

source launch/install.sh
rockstudy run --preset "$PRESET" --run-id "$RUN_ID" --dry-run --processes "$GPUS" "$@"
# FSDP2 shards the training parts; sampling and measuring parts use whole models.
accelerate launch --config_file launch/fsdp2.yaml --num_processes "$GPUS" \
	-m rockstudy measure training --preset "$PRESET" --run-id "$RUN_ID" "$@"
rockstudy measure statistics --processes "$GPUS" --preset "$PRESET" --run-id "$RUN_ID" "$@"
accelerate launch --config_file launch/fsdp2.yaml --num_processes "$GPUS" \
	-m rockstudy measure arms --preset "$PRESET" --run-id "$RUN_ID" "$@"
rockstudy measure outcomes --processes "$GPUS" --preset "$PRESET" --run-id "$RUN_ID" "$@"
source launch/notebooks.sh
