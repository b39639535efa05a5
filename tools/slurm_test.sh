#!/usr/bin/env bash
# Evaluates under slurm: one task per GPU.
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
#
# Environment: GPUS (in all, 4), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (5), SRUN_ARGS (further options of srun),
# GRES (gpu:GPUS_PER_NODE; empty for the CPU), MASTER_PORT (drawn where not given), PYTHON (the interpreter).
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=4] $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4

gpus=${GPUS:-4}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
gres=${GRES-gpu:$per_node}
export MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 10000))}  # jobs may share a node
if ((gpus <= per_node)); then
    export MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
fi
# shellcheck disable=SC2086  # SRUN_ARGS are several words
exec srun --partition "$partition" --job-name "$job_name" ${gres:+--gres "$gres"} \
    --ntasks "$gpus" --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher slurm "$@"
