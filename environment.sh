#!/bin/sh
# Makes a virtual environment that holds exactly what a lock names, with its hashes.
# Usage: ./environment.sh FOLDER [LOCK]    LOCK is requirements.txt if left out.
#
# An environment that is there stays until the new one is complete. It is moved aside for that,
# since programs in an environment know its path; after a failure or an interrupt it comes back.
set -eu
cd "$(dirname "$0")"
folder=${1%/} lock=${2:-requirements.txt}
before=$folder.before

fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [(3, 10), (3, 11)])' \
        2>/dev/null
}

stop() {
    echo "$1" >&2
    exit 1
}

# What a run that was killed has left: the environment from before it.
if [ -e "$before" ] && { [ ! -e "$folder" ] || [ -e "$folder/unfinished" ]; }; then
    rm -rf "$folder"
    mv "$before" "$folder"
fi

if cmp -s "$lock" "$folder/lock"; then # only its date has changed
    touch "$folder/lock" 2>/dev/null || true
    exit 0
fi

[ ! -L "$folder" ] || stop "$folder is a link, and what it leads to is not what $lock names. \
Nothing was changed: remove the link to have an environment made here, or bring the other one up to date."

system=$(uname -sm)
[ "$system" = "Linux x86_64" ] || stop "TensorFlow Federated 0.87.0 runs only on Linux with an \
Intel or AMD processor, and this is $system; book/install.md says what to do instead."

aside=""
put_back() {
    rm -rf "$folder"
    [ -z "$aside" ] || mv "$before" "$folder"
}
failed() {
    put_back
    [ -z "$aside" ] || stop "$1 The environment that was there is as it was."
    stop "$1 Nothing is left behind."
}
trap 'put_back; exit 130' INT TERM HUP

if [ -e "$folder" ]; then
    [ ! -e "$before" ] || stop "$before is in the way; move or remove it, and run make again."
    mv "$folder" "$before"
    aside=yes
fi

made=""
for python in python3 python3.11 python3.10; do
    if fits "$python"; then
        echo "Making $folder with $("$python" --version)."
        "$python" -m venv "$folder" && made=yes && break
        rm -rf "$folder"
    fi
done
if [ -z "$made" ] && command -v uv >/dev/null; then
    echo "No Python 3.10 or 3.11 here; asking uv for one."
    uv venv --quiet --seed --python 3.11 "$folder" && made=yes ||
        failed "uv could not supply Python 3.11; the lines above say why."
fi
[ -n "$made" ] || failed "This book needs Python 3.10 or 3.11 with its venv module, because \
TensorFlow Federated 0.87.0 has no wheel for others: install one, or install uv \
(https://docs.astral.sh/uv), and run make again."
: >"$folder/unfinished"

echo "Installing the packages of $lock; this takes a minute or two."
"$folder/bin/python" -m pip install -qq --disable-pip-version-check \
    --no-deps --require-hashes -r "$lock" ||
    failed "The packages could not be installed; the lines above say why. Fix the cause (often \
the network or a full disk) and run make again."

# Jupyter starts the chapters in this environment, whatever kernels the machine has.
if grep -q "^ipykernel==" "$lock"; then
    "$folder/bin/python" -m ipykernel install --sys-prefix --name python3 >/dev/null ||
        failed "The kernel could not be installed; the lines above say why."
fi
cp "$lock" "$folder/lock"
rm -f "$folder/unfinished"
trap - INT TERM HUP

if [ -n "$aside" ] && [ ! -e "$before/lock" ]; then
    echo "The environment that stood there was not made by this script; it is now $before."
else
    rm -rf "$before"
fi
