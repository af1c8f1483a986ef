#!/usr/bin/env bash
# A study of Winnow's own rows and cells: the short form, eight variants x ten seeds. Killed, the same command
# goes on where it was.
#
#   ./run.sh                      # all of it: studies/short
#   STUDY=long ./run.sh           # all rows and cells x twenty seeds, for a night
#   STUDY=lm ./run.sh             # a language model
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
study=${STUDY:-short}
work=${WORK:-studies/$study}

winnow compare "$here/$study.toml" --out "$work"
python "$here/findings.py" "$work"
