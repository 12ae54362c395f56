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
# A step frees and takes back the same large tensors: kept by the allocator, they need not be mapped and cleared each time.
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864 MALLOC_ARENA_MAX=1
.venv/bin/python train.py --minutes "$minutes" --threads "$threads" $compile
.venv/bin/python export.py --out ../models/ingle-tiny.gguf
.venv/bin/python evaluate.py ../models/ingle-tiny.gguf --ask "What is a PEP?"
