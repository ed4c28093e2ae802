#!/bin/sh
# Makes a virtual environment that holds exactly requirements.txt.
# Usage: ./environment.sh FOLDER
set -eu
folder=$1
cd "$(dirname "$0")"

fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11)])' \
        2>/dev/null
}

# A folder half made is worse than none.
trap 'rm -rf "$folder"' INT TERM
failed() {
    rm -rf "$folder"
    echo "$1" >&2
    exit 1
}

made=""
for python in python3 python3.11 python3.10; do
    if fits "$python"; then
        echo "Making $folder with $("$python" --version)."
        "$python" -m venv --clear "$folder" && made=yes && break
    fi
done
if [ -z "$made" ] && command -v uv >/dev/null; then
    echo "No Python 3.10 or 3.11 here; asking uv for one."
    uv venv --quiet --clear --seed --python 3.11 "$folder" && made=yes
fi
[ -n "$made" ] || failed "This book needs Python 3.10 or 3.11 with its venv module, because \
TensorFlow Federated 0.87.0 has no wheel for others: install one, or install uv \
(https://docs.astral.sh/uv), and run make again."

echo "Installing the packages of requirements.txt; this takes a minute or two."
"$folder/bin/python" -m pip install -qq --disable-pip-version-check \
    --no-deps --require-hashes -r requirements.txt ||
    failed "The packages could not be installed; the lines above say why. Nothing is left \
behind, so fix the cause (often the network or a full disk) and run make again."

# Jupyter starts the chapters in this environment, whatever kernels the machine has.
"$folder/bin/python" -m ipykernel install --sys-prefix --name python3 >/dev/null
