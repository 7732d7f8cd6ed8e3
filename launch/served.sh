#!/bin/bash
# vLLM on GPUs of its own, the run on the others of this machine.
#
#   SAMPLERS=2 bash launch/served.sh RECIPE [section.key=value ...]
#
# The last SAMPLERS of GPUS serve, as one engine; the others train by LAUNCH. The server's log is
# SERVER_LOG. Model, revision and length are the recipe's; DTYPE is what the run computes in.
set -euo pipefail

recipe=${1:?usage: bash launch/served.sh RECIPE [section.key=value ...]}
GPUS=${GPUS:-8} SAMPLERS=${SAMPLERS:-1} PORT=${PORT:-8000} DTYPE=${DTYPE:-bfloat16}
SERVER_LOG=${SERVER_LOG:-vllm-$PORT.log} TRAINERS=$((GPUS - SAMPLERS))
if ((TRAINERS < 1 || SAMPLERS < 1)); then
    echo "error: GPUS is $GPUS and SAMPLERS is $SAMPLERS; leave at least one for each side" >&2
    exit 2
fi

# A recipe that is wrong is refused here, before the server loads a model.
words=$(python -c '
import sys
from rlvr.config import load_recipe
from rlvr.schema import RecipeError
try:
    recipe = load_recipe(sys.argv[1], sys.argv[2:])
except RecipeError as error:
    sys.exit(f"error: {error}")
print(recipe.model.path)
for flag, value in (
    ("--revision", recipe.model.revision),
    ("--max-model-len", recipe.trainer.get("vllm_max_model_length")),
):
    if value is not None:
        print(f"{flag}={value}")
' "$@")
mapfile -t model <<< "$words"

CUDA_VISIBLE_DEVICES=$(seq -s, "$TRAINERS" $((GPUS - 1))) VLLM_SERVER_DEV_MODE=1 \
    vllm serve "${model[@]}" --port "$PORT" --dtype "$DTYPE" --tensor-parallel-size "$SAMPLERS" \
    --weight-transfer-config '{"backend": "nccl"}' --logprobs-mode processed_logprobs \
    > "$SERVER_LOG" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null && wait "$server" || true' EXIT
until curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/health"; do
    if ! kill -0 "$server" 2> /dev/null; then
        echo "error: the vLLM server ended; the reason is in $SERVER_LOG" >&2
        exit 1
    fi
    sleep 1
done

shift
CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((TRAINERS - 1))) \
    accelerate launch --config_file "${LAUNCH:-launch/fsdp2.yaml}" --num_processes "$TRAINERS" \
    -m rlvr.train "$recipe" trainer.use_vllm=true trainer.vllm_mode=server \
    trainer.vllm_server_host=127.0.0.1 trainer.vllm_server_port="$PORT" "$@"
