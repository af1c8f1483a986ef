#!/usr/bin/env bash
# Rejection-sampling fine-tuning as in Yuan et al. 2023 (2308.01825), on GSM8K:
# many samples of each question at temperature 0.7, wrong ones dropped, one kept for each distinct list of
# equations, then supervised epochs from the start of the model.
#
#   ./run.sh train.jsonl test.jsonl          # GSM8K's files, columns question and answer
#   QUESTIONS=32 ./run.sh ...                # a smaller budget
set -euo pipefail
train=$1 test=$2
work=${WORK:-rft-gsm8k}
settings=(
    --set prompts.source="$train" --set eval.source="$test"
    --set prompts.limit="${QUESTIONS:-1000}" --set samples_per_prompt="${SAMPLES:-100}"
    --set sampling.temperature=0.7 --set eval.size="${EVAL:-200}"
    --set model="${MODEL:-smollm2-135m}"
)
mkdir -p "$work"

winnow sample gsm8k "${settings[@]}" --out "$work/samples"

winnow select "$work/samples" --rule correct --rule distinct \
    --out "$work/kept.parquet" --out "$work/kept.jsonl" --form prompt-completion

winnow train gsm8k "${settings[@]}" --set samples_file="$work/kept.parquet" --set algorithm=rft \
    --set prompts_per_step=8 --set minibatch_prompts=8 --out "$work/run"
