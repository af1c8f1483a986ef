#!/usr/bin/env bash
# Winnow's own rows and cells compared over seeds, then each finding put to the runs (findings.py).
# Killed, the same command resumes.
#
#   ./run.sh                      # eight variants x ten seeds, into studies/short
#   STUDY=long ./run.sh           # all rows and fifteen cells x twenty seeds: a night
#   STUDY=lm ./run.sh             # five rows x three seeds of a language model
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
study=${STUDY:-short}
[ -f "$study" ] || study=$here/$study.toml     # or a file of your own
work=${WORK:-studies/$(basename "$study" .toml)}

winnow compare "$study" --out "$work"
python "$here/findings.py" "$work"
