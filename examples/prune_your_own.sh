#!/bin/sh
# A model of yours, half as large, in about ten minutes on two cores:
#
#     pip install 'densepack[openvino,export,prune,report]'
#     sh examples/prune_your_own.sh MODEL DATA OUT
#
# MODEL is a question-answering checkpoint (a folder or a hub id), DATA is SQuAD or looks like it (.json, .json.gz), or
# JSON lines of `question` and `context` without answers. OUT gets the checkpoint, small/, and what serves it, bundle/.
set -eu
MODEL=$1 DATA=$2 OUT=$3
mkdir -p "$OUT"

# Heads and FFN units go that the model misses least; what stays is fitted again. No training.
densepack shrink "$MODEL" "$OUT/small" --data "$DATA" --density 0.5
densepack inspect "$OUT/small"

# The graphs, with the proof that they answer as the checkpoint does; and how much faster that is.
densepack build "$OUT/small" "$OUT/bundle" --no-engine
densepack bench "$OUT/bundle@dense-openvino" "$OUT/bundle@packed-openvino" --batches 1 --lengths 128,384
