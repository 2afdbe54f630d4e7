#!/usr/bin/env bash
# From an export of an annotation tool, with its images, to a service that answers: docs/from_export.md goes through it.
#
#   bash examples/from_export.sh FOLDER POST [option of mner fit] …
#
# FOLDER has the export (Label Studio's or another that mner reads) and its images in `images/`; POST is a text to try.
# Works in the current folder. How long each command took goes to the standard error.
set -euo pipefail
folder=$1 post=$2 export=
shift 2
for file in "$folder"/*.*; do export=$file; done
port=${PORT:-8000}

timed() {
  local begin=$SECONDS
  "$@"
  echo "$((SECONDS - begin)) s: ${*:1:3}" >&2
}

# 1. What is there? Writes config.yaml.
timed mner init "$folder"

# 2. Train.
timed mner fit --config config.yaml --trainer.default_root_dir first "$@"

# 3. Which labels are doubtful? Two models, neither of which saw the posts that it judges.
overrides=$(printf '%s\n' "$@" | sed -n 'N; s/^--\(.*\)\n\(.*\)$/\1=\2/p' | paste -sd, -)
timed mner data doubts "$export" --fit config.yaml --folds 2 --overrides "[$overrides]" --images "$folder/images"

# 4. You read doubts/doubts.html and write `yes` into doubts/doubts.csv; here the first doubt is believed.
sed '2s/^,/yes,/' doubts/doubts.csv > decided.csv

# 5. The corrected copy, with the same images.
timed mner data apply "$export" decided.csv --out "corrected/${export##*/}"
cp -R "$folder/images" corrected/

# 6. Train again.
timed mner fit --config config.yaml --data.root corrected --trainer.default_root_dir second "$@"

# 7. Serve it, and ask.
mner serve second/lightning_logs/version_0/checkpoints/best.ckpt --port "$port" &
service=$!
trap 'kill $service 2> /dev/null; wait' EXIT
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
  kill -0 $service # it may have ended with an error
  sleep 1
done
curl --silent --show-error --fail \
  "http://127.0.0.1:$port/tag" -F "text=$post" -F "image=@$(ls -d "$folder"/images/* | head -n 1)"
