#!/usr/bin/env bash
# Does it help to train on prompts that are neither too hard nor too easy? Two-digit addition: prompts of
# which 2 to 6 of 8 samples are right, and as many of all prompts at random, trained on with the same settings.
#
#   QUESTIONS=100 STEPS=2 SEEDS="0" ./run.sh          # a smaller budget
set -euo pipefail
work=${WORK:-difficulty}
mkdir -p "$work"

winnow sample --set prompts.limit="${QUESTIONS:-400}" --set samples_per_prompt=8 --out "$work/samples"
winnow select "$work/samples" --rule 'band(0.2, 0.8)' --prompts "$work/hard.jsonl" --control

# The held-out prompts of the same recipe, as a file: those of hard.jsonl would be filtered too.
winnow sample --held-out --set eval.size="${EVAL:-256}" --set samples_per_prompt=1 --out "$work/held-out"
winnow select "$work/held-out" --rule everything --prompts "$work/held-out.jsonl"

for seed in ${SEEDS:-0 1}; do
    for prompts in hard hard.control; do
        echo "$prompts, seed $seed"
        winnow train --set prompts.source="$work/$prompts.jsonl" --set eval.source="$work/held-out.jsonl" \
            --set eval.size="${EVAL:-256}" --set eval.kl_prompts=0 --set steps="${STEPS:-10}" \
            --set prompts_per_step=8 --set seed="$seed" --out "$work/$prompts-$seed"
    done
done

python "$(dirname "$0")/compare.py" "$work" ${SEEDS:-0 1}
