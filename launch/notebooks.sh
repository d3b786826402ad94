# Sourced after training: the notebooks read the stages that are trained. 07 is left out, for its
# arms would each be trained by one process.
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*} # the first of them
rockstudy run 00 01 02 03 04 05 06 09 --preset "$PRESET" --run-id "$RUN_ID"
