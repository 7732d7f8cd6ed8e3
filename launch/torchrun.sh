#!/bin/bash
# Several machines without a scheduler: the same line on each of them, MACHINE counting from 0.
#
#   MAIN=10.0.0.1 MACHINES=2 MACHINE=0 ENGINE=fsdp2 bash launch/torchrun.sh RECIPE [section.key=value ...]
#
# MAIN is the address of machine 0, GPUS the GPUs of a machine, ENGINE ddp or fsdp2. DeepSpeed is
# started by accelerate: launch/slurm.sh shows its words. Every machine must see the repository, the
# run directory and the hub's cache.
set -euo pipefail

GPUS=${GPUS:-8} MACHINES=${MACHINES:-1} MACHINE=${MACHINE:-0} PORT=${PORT:-29400} ENGINE=${ENGINE:-ddp}
case $ENGINE in
    ddp) ;;
    fsdp2)
        # What accelerate's launcher sets for launch/fsdp2.yaml.
        export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
        export FSDP_RESHARD_AFTER_FORWARD=true FSDP_STATE_DICT_TYPE=FULL_STATE_DICT
        export FSDP_CPU_RAM_EFFICIENT_LOADING=true FSDP_SYNC_MODULE_STATES=true ;;
    *) echo "error: ENGINE is $ENGINE; choose ddp or fsdp2" >&2; exit 2 ;;
esac
exec torchrun --nnodes "$MACHINES" --node-rank "$MACHINE" --nproc-per-node "$GPUS" \
    --master-addr "${MAIN:-127.0.0.1}" --master-port "$PORT" -m rlvr.train "$@"
