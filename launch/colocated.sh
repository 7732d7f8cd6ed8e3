#!/bin/bash
# Every GPU samples with vLLM, then trains. Between the two vLLM sleeps and gives its memory back.
#
#   LAUNCH=launch/fsdp2.yaml SHARE=0.5 bash launch/colocated.sh RECIPE [section.key=value ...]
#
# SHARE is the part of a GPU's memory that vLLM takes while it is awake.
set -euo pipefail

recipe=${1:?usage: bash launch/colocated.sh RECIPE [section.key=value ...]}
shift
exec accelerate launch --config_file "${LAUNCH:-launch/fsdp2.yaml}" ${GPUS:+--num_processes "$GPUS"} \
    -m rlvr.train "$recipe" trainer.use_vllm=true trainer.vllm_mode=colocate \
    trainer.vllm_enable_sleep_mode=true trainer.vllm_gpu_memory_utilization="${SHARE:-0.5}" "$@"
