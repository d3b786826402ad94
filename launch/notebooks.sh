# Sourced after `rockstudy measure`: the notebooks read its results.
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*} # the first of them
rockstudy run --preset "$PRESET" --run-id "$RUN_ID" "$@"
