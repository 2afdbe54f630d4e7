#!/bin/sh
# A small model that learns from a larger one: from data to a scored checkpoint.
#
#   sh examples/recipes/distilled.sh OUT TEACHER_ENCODER [options of mner fit, such as --data.root FOLDER]
#
# The teacher is text.yaml with its own encoder, at RATE (5e-5 if not set) for EPOCHS (5); options hold for both, but
# `--model.text_encoder` is the small model's. POSTS is a file of posts without labels, in any format
# (data/twitter2015/train.txt if not set; labels in it are not looked at). What has ended is not trained again, what was
# stopped goes on from its last epoch. What the teacher said is kept in OUT/answers, for other seeds. OUT/student is
# scored on SPLIT: `validate` (the default), or `test` for the end.
set -eu
out=${1:?"usage: sh distilled.sh OUT TEACHER_ENCODER [options of mner fit]"}
encoder=${2:?"usage: sh distilled.sh OUT TEACHER_ENCODER [options of mner fit]"}
shift 2
recipes=$(dirname "$0")

train() {
    folder=$1
    shift
    if [ -e "$folder/finished" ]; then return; fi
    last=$folder/version_0/checkpoints/last.ckpt
    resume=
    if [ -e "$last" ]; then resume=--ckpt_path=$last; fi
    mner fit "$@" --trainer.logger CSVLogger \
        --trainer.logger.save_dir "$folder" --trainer.logger.name null --trainer.logger.version version_0 \
        --checkpoint.dirpath "$folder/version_0/checkpoints" ${resume:+"$resume"}
    touch "$folder/finished"
}

train "$out/teacher" --config "$recipes/text.yaml" --model.learning_rate "${RATE:-5e-5}" \
    --trainer.max_epochs "${EPOCHS:-5}" "$@" --model.text_encoder "$encoder"
train "$out/student" --config "$recipes/distilled.yaml" "$@" \
    --trainer.callbacks.teacher "$out/teacher/version_0/checkpoints/best.ckpt" \
    --trainer.callbacks.posts "${POSTS:-data/twitter2015/train.txt}" --trainer.callbacks.answers "$out/answers"
mner "${SPLIT:-validate}" --config "$out/student/version_0/config.yaml" \
    --ckpt_path "$out/student/version_0/checkpoints/best.ckpt"
