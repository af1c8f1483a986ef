#!/usr/bin/env bash
# Over-optimization of a reward model that was trained on few labels (Gao et al. 2022, 2210.10760).
# Gold: the verifier. Proxy: a reward model of a few layers, trained on the pairs of a
# handful of prompts. The best of n by the proxy gets better at first, then worse.
set -euo pipefail
work=${WORK:-overoptimisation}
mkdir -p "$work"

# what the proxy learns from: samples of a few training prompts, scored by the verifier
winnow sample --set prompts.limit=64 --set samples_per_prompt=16 --out "$work/labelled"

winnow fit-reward "$work/labelled" --prompts "${PROMPTS:-24}" --per-prompt 4 --layers "${LAYERS:-4}" \
    --epochs "${EPOCHS:-6}" --lr "${LR:-1e-4}" --out "$work/proxy"

# many samples of prompts that it has not seen
winnow sample --held-out --set eval.size=64 --set samples_per_prompt=256 --out "$work/samples"

winnow overoptimisation "$work/samples" --proxy "model:$work/proxy" --plot "$work/curve.svg"
