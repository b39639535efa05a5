#!/usr/bin/env bash
# Evaluates with several processes: one per GPU, or so many on the CPU where there is no GPU.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#
# Several nodes: run it on each, with NNODES, NODE_RANK (0 on the first), MASTER_ADDR (the first) and PORT.
# PORT is also for one node; without it a free one is taken. PYTHON is the interpreter.
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]; GPUS is a number" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
    meeting=(--standalone --local-addr localhost)
else
    meeting=(
        --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}"
        --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}"
    )
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" --nproc-per-node "$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
