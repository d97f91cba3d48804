#!/bin/sh
# Installs the agent into a new folder, from the files beside this script and no network:
#
#   install.sh FOLDER
#
# PYTHON names the interpreter (python3). Each file is checked against the manifest first, and by pip against
# requirements.txt again.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}

fail() {
    echo "install: $1" >&2
    exit "${2:-1}"
}

[ $# = 1 ] || fail "usage: install.sh FOLDER" 2
[ ! -e "$1" ] || fail "$1: exists; allowed: a new folder" 2
# -B: nothing is added to what is checked.
"$python" -B "$here/check.py" || fail "nothing was installed"
trap 'rm -rf "$1"' EXIT
"$python" -m venv "$1" || fail "$python cannot make a virtual environment (on Debian it takes the package python3-venv)"
"$1/bin/python" -m pip --isolated --quiet --disable-pip-version-check install \
    --no-index --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt"
trap - EXIT
