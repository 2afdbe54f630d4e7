#!/bin/sh
# Five seeds of a recipe as one model, by the mean of their label distributions: from data to a scored checkpoint.
#
#   sh examples/recipes/ensemble.sh OUT [options of mner fit, such as --data.root FOLDER --model.text_encoder FOLDER]
#
# CONFIG (examples/recipes/text.yaml if not set) and SEEDS ("0 1 2 3 4") are taken from the environment. A seed whose
# run ended is not trained again; one that was stopped goes on from its last epoch. Then OUT/ensemble.ckpt is scored on
# SPLIT: `validate` (the default), or `test` for the end. Was not measured yet: docs/accuracy.md says what was.
set -eu
out=${1:?"usage: sh ensemble.sh OUT [options of mner fit]"}
shift
config=${CONFIG:-"$(dirname "$0")/text.yaml"}
members=
first=
for seed in ${SEEDS:-0 1 2 3 4}; do
    folder=$out/seed$seed
    first=${first:-$folder}
    if [ ! -e "$folder/finished" ]; then
        last=$folder/version_0/checkpoints/last.ckpt
        resume=
        if [ -e "$last" ]; then resume=--ckpt_path=$last; fi
        mner fit --config "$config" "$@" --seed_everything "$seed" --trainer.logger CSVLogger \
            --trainer.logger.save_dir "$folder" --trainer.logger.name null --trainer.logger.version version_0 \
            --checkpoint.dirpath "$folder/version_0/checkpoints" ${resume:+"$resume"}
        touch "$folder/finished"
    fi
    members="$members $folder/version_0/checkpoints/best.ckpt"
done
# shellcheck disable=SC2086  # seeds have no spaces; a path in OUT must have none either
mner ensemble $members --out "$out/ensemble.ckpt"
data=$first/version_0/config.yaml
python - "$data" "$out/data.yaml" <<'PYTHON'
import sys, yaml
with open(sys.argv[1], encoding="utf-8") as run, open(sys.argv[2], "w", encoding="utf-8") as data:
    content = yaml.safe_load(run)["data"]
    yaml.safe_dump({"data": content}, data)
PYTHON
mner "${SPLIT:-validate}" --config "$out/data.yaml" --ckpt_path "$out/ensemble.ckpt"
