#!/bin/sh
# PyTorch on several machines: run this on each of them, with the same folders in sight.
#
#   NODES=2 RANK_OF_NODE=0 HEAD=10.0.0.1 sh torchrun.sh photographs/ runs/flowers
#
# On one machine `keras-metaformer train --devices 8` does the same.
set -eu
exec torchrun \
    --nnodes="${NODES:-1}" --node-rank="${RANK_OF_NODE:-0}" \
    --master-addr="${HEAD:-127.0.0.1}" --master-port="${PORT:-29500}" \
    --nproc-per-node="${DEVICES:-8}" \
    --no-python keras-metaformer train "$1" --output "$2" --distributed
