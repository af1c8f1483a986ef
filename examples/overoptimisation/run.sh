#!/usr/bin/env bash
# Over-optimization of a reward model that was trained on few labels (Gao et al. 2022, 2210.10760).
# Gold: how near a sum is to the right one (closeness.py). Proxy: a reward model of one layer, trained
# on pairs of the samples of a handful of prompts, labeled by gold. The best of n by the proxy gets
# better at first, since it learned what a sum looks like, then worse: it did not learn to add.
set -euo pipefail
work=${WORK:-overoptimisation}
mkdir -p "$work"
PYTHONPATH=$(cd "$(dirname "$0")" && pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH

# what the proxy learns from: samples of some training prompts, scored by gold
winnow sample --set prompts.limit=128 --set samples_per_prompt=32 --set reward=closeness:closeness \
    --out "$work/labeled"

winnow fit-reward "$work/labeled" --prompts "${PROMPTS:-24}" --per-prompt 4 --layers "${LAYERS:-1}" \
    --epochs "${EPOCHS:-8}" --lr "${LR:-1e-4}" --out "$work/proxy"

# many samples of prompts that it has not seen
winnow sample --held-out --set eval.size="${EVAL:-128}" --set samples_per_prompt=256 --out "$work/samples"

winnow overoptimisation "$work/samples" --proxy "model:$work/proxy" --gold closeness:closeness \
    --plot "$work/curve.svg"

# the same proxy and samples; gold: right or wrong, as recorded
winnow overoptimisation "$work/samples" --proxy "model:$work/proxy"
