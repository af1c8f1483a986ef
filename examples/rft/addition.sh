#!/usr/bin/env bash
# The same recipe on two-digit addition: minutes on a laptop.
set -euo pipefail
work=${WORK:-rft-addition}
mkdir -p "$work"

winnow sample --set prompts.limit=400 --set samples_per_prompt=32 --out "$work/samples"

winnow select "$work/samples" --rule correct --rule distinct --out "$work/kept.parquet"

winnow train --set samples_file="$work/kept.parquet" --set algorithm=rft --set optimizer.lr=2e-5 \
    --out "$work/run"
