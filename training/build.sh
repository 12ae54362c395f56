#!/bin/sh
# Rebuilds models/ingle-tiny.gguf from the texts in data/: about 75 minutes on one CPU core.
#   sh build.sh [MINUTES] [THREADS]
# Interrupted, it goes on from the last checkpoint when run again; delete build/ to start afresh.
set -eu
cd "$(dirname "$0")"
minutes="${1:-70}"
threads="${2:-1}"
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install --quiet -r requirements.txt
.venv/bin/python build_data.py
compile=""
if command -v c++ >/dev/null; then compile="--compile"; fi
.venv/bin/python train.py --minutes "$minutes" --threads "$threads" $compile
.venv/bin/python export.py --out ../models/ingle-tiny.gguf
.venv/bin/python evaluate.py ../models/ingle-tiny.gguf --ask "What is a PEP?"
