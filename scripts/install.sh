# Sourced by the other scripts: makes .venv if there is none and installs the project into it.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed; set PYTHON to one" >&2
        exit 1
    }
    "${PYTHON:-python3}" -m venv .venv
fi
# A stamp of what was installed makes the second run start at once.
stamp=.venv/.installed-$(cat pyproject.toml | cksum | cut -d' ' -f1)
if [ ! -f "$stamp" ]; then
    echo "installing into .venv (once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || exit 1
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
