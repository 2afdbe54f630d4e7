"""Each fault that was found has a test that failed on the code before it was mended: here they are run there.

    python benchmarks/failed_before.py --out failed_before.jsonl          # goes on from it
    python benchmarks/failed_before.py --only threads posts --out failed_before.jsonl

A test is taken from the commit that brought it, and run against the package as it was just before that commit (or
before the commit that `ROWS` names, where the mend came first). It has to pass on the first and to fail on the second.
Runs in a clone of this repository, with the interpreter that it is started with.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENDLESS = 400
"""Seconds after which tests that wait for what never comes (a stalled server, before) are taken to have failed."""
PYTEST = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=no", "-q", "-rA"]

# What was seen: its tests, each by name, or as `name@commit` where the package was mended in another commit.
ROWS: dict[str, list[str]] = {
    # A: destroys or mixes up what is the user's
    "an output that is data, or begun by another": [
        "test_an_output_that_is_data_is_refused", "test_files_of_others_are_left_alone",
        "test_goes_on_only_with_the_same_input_model_and_options",
    ],
    "an output that is an input": [
        "test_an_output_is_no_input",
        "test_an_output_that_is_the_input_is_refused",
    ],
    "two writers": ["test_one_writer_at_a_time", "test_two_downloads_at_once"],
    "two images of one stem": ["test_same_stem", "test_names_of_two_stems"],
    "names of images": ["test_an_id_that_is_a_name_is_that_file", "test_loose_matches_are_found_and_told"],
    "going on in the middle of an epoch": [
        "test_in_the_middle_of_an_epoch",
        "test_an_interrupted_epoch_goes_on",
    ],
    "a path that is not there": ["test_what_is_named_exists"],
    # B: silently wrong
    "IOB1 and other schemes": [
        "test_every_kind_of_file", "test_letters_of_two_schemes_are_an_error_with_the_line",
        "test_verify_and_stats_name_it", "test_other_schemes_are_converted",
    ],
    "pieces of running text": ["test_pieces_are_those_of_running_text"],
    "words as the data split them": ["test_style_follows_the_data", "test_own_words_and_style"],
    "a list of texts": ["test_a_list_is_one_of_posts", "test_words_of_one_post_are_given_as_such"],
    "characters that nobody sees": [
        "test_format_characters_split_nothing", "test_format_characters_make_no_word_unknown",
    ],
    "another tokeniser": [
        "test_a_checkpoint_brings_its_tokeniser", "test_a_new_model_brings_its_tokeniser",
        "test_another_one_that_was_asked_for_is_an_error", "test_loaders_by_hand",
    ],
    "batches without images, other labels": ["test_images_by_hand", "test_other_labels_by_hand"],
    "fields and ids of a post": ["test_other_fields_of_a_post_stay"],
    "seeds are drawn too": [
        "test_level_and_coverage",
        "test_compare_gives_the_verdict",
        "test_one_run_of_each_says_what_that_means",
    ],
    "the t-test over posts": ["test_command_keeps_the_test_over_posts_away_from_f1"],
    "types that meet keys": [
        "test_names_of_types_and_modes_cannot_meet", "test_types_whose_scores_would_be_mixed_are_refused",
    ],
    # C: dies, where users go
    "bf16 on a processor without": [
        "test_half_precision_that_is_slower_is_told",
    ],
    "few positions": ["test_as_many_as_it_says_and_not_one_more"],
    "long posts": [
        "test_predict_and_tagger_agree", "test_strategies_with_images_train_on_long_posts",
        "test_verify_says_how_many_are_long",
    ],
    "other scripts, binary files": [
        "test_special_tokens_are_those_of_the_tokeniser", "test_a_script_that_nobody_thought_of@60a76c2",
        "test_binary_files_are_in_checkpoints_and_folders",
    ],
    "encoder-decoders": ["test_trained_kept_and_used_to_tag@cb6f040"],
    "threads": ["test_eight_threads_get_what_one_gets@60a76c2", "test_a_tokeniser_is_shared_too@60a76c2"],
    "Lightning's entry points and callbacks": [
        "test_entry_points_with_a_data_module", "test_entry_points_with_loaders_by_hand", "test_callbacks",
        "test_the_mean_of_weights_is_their_mean",
    ],
    "the training loader": [
        "test_a_loader_sets_up_what_it_needs",
        "test_lightning_finds_what_sets_the_epoch",
    ],
    "torch.compile": ["test_a_checkpoint_of_a_compiled_model"],
    "options of the Trainer": [
        "test_it_is_refused", "test_validation_less_often_than_the_run_is_long",
    ],
    "standard outputs": ["test_standard_output_of_other_encodings"],
    "sizes of images": [
        "test_a_size_that_the_model_cannot_take_is_named",
        "test_a_model_without_regions_is_refused",
    ],
    "strange names of files": [
        "test_strange_names_are_told_and_the_rest_is_done",
        "test_names_that_no_index_can_hold",
    ],
    "bad servers": ["test_a_length_that_is_none", "test_a_redirect_to_nonsense", "test_a_stalled_server"],
    "processes of a gloo group": ["test_the_processes_leave_their_group"],
    # D: one line
    "one line": [
        "test_what_the_system_refuses_names_the_file@c31a91a",
        "test_outputs_that_cannot_be@c31a91a",
        "test_one_writer_says_so@c31a91a",
        "test_devices_that_are_not_there@c31a91a",
        "test_sizes_and_names@c31a91a",
        "test_a_callback_that_watches_what_is_not_there@c31a91a",
        "test_a_config_from_a_pipe_is_read_once@c31a91a",
        "test_ctrl_c_ends_every_command_with_a_line@c31a91a",
        "test_the_nearest_right_one_is_named@c31a91a",
        "test_a_fault_of_ours_keeps_its_traceback_and_says_where_to_report@c31a91a",

        "test_the_standard_output_gets_the_predictions_and_the_page_and_nothing_else",
    ],
}  # fmt: skip


def git(where: Path, *words: str) -> str:
    """What git says."""
    return subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=True).stdout.strip()


def lay_out(clone: Path, tests: str, package: str) -> None:
    """All of commit `tests`, but the package of commit `package`."""
    git(clone, "checkout", "-q", "--force", tests)
    git(clone, "clean", "-fdxq")
    shutil.rmtree(clone / "mner")
    git(clone, "checkout", package, "--", "mner")


def outcomes(clone: Path, names: list[str]) -> dict[str, tuple[int, int, str]]:
    """For each test how many of its cases passed, how many did not, and why one did not."""
    where = {git(clone, "grep", "-lE", rf"def {name}\(", "--", "tests") for name in names}
    files = sorted({file for some in where for file in some.splitlines()})
    environment = os.environ | {"PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # most people's machines
    try:
        said = subprocess.run(
            [*PYTEST, *files, "-k", " or ".join(names)],
            cwd=clone, env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "250"}, capture_output=True, text=True,
            check=False, timeout=ENDLESS,
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired:
        if len(names) > 1:
            return {name: outcomes(clone, [name])[name] for name in names}
        return {names[0]: (0, 1, f"does not end within {ENDLESS} seconds")}
    told = re.findall(r"^(PASSED|FAILED|ERROR) (\S+?\.py)(?:::(?:\w+::)?(\w+)\S*)?(?: - (.*))?", said, re.M)
    found = {}
    for name in names:
        # A file that cannot be imported has none of its tests: what they are about was not there.
        own = [(kind, why) for kind, file, test, why in told if test == name or (not test and kind == "ERROR")]
        bad = [why for kind, why in own if kind != "PASSED"]
        found[name] = (len(own) - len(bad), len(bad), next(iter(bad), "")[:160])
    return found


def tried(clone: Path, names: list[str], brought: str, before: str) -> list[dict[str, Any]]:
    """Tests of one commit on the package before, and on that of the commit."""
    lay_out(clone, brought, before)
    old = outcomes(clone, names)
    lay_out(clone, brought, brought)
    new = outcomes(clone, names)
    return [
        {"test": name, "brought": brought, "before": git(ROOT, "rev-parse", "--short", before),
         "failed_before": old[name][1], "why": old[name][2], "passed_after": new[name][0], "failed_after": new[name][1]}
        for name in names
    ]  # fmt: skip


def commits(entry: str) -> tuple[str, str, str]:
    """A test's name, the commit that brought it, and the one before its fault was mended."""
    name, _, mended = entry.partition("@")
    log = git(ROOT, "log", "--no-merges", "--reverse", "--format=%h", f"-Sdef {name}(", "--", "tests")
    brought = log.splitlines()[0]
    return name, brought, f"{mended or brought}^"


def main() -> int:
    """Run what is not done, print a row for each test; exit code 1 if one passes before or fails after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="WORD", help="rows and tests whose names hold one of these")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines of what is done")
    given = parser.parse_args()
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {one["test"] for one in done}
    chosen = [
        (row, entry)
        for row, entries in ROWS.items()
        for entry in entries
        if not given.only or any(word in row or word in entry for word in given.only)
    ]
    with tempfile.TemporaryDirectory() as work:
        clone = Path(work) / "clone"
        git(ROOT, "clone", "-q", "--no-hardlinks", str(ROOT), str(clone))
        groups: dict[tuple[str, str], dict[str, str]] = {}
        for row, entry in chosen:
            name, brought, before = commits(entry)
            if name not in known:
                groups.setdefault((brought, before), {})[name] = row
        for number, ((brought, before), rows) in enumerate(groups.items(), start=1):
            some = [{"row": rows[one["test"]], **one} for one in tried(clone, list(rows), brought, before)]
            done += some
            with given.out.open("a") as file:
                file.writelines(json.dumps(one) + "\n" for one in some)
            print(f"{number} of {len(groups)}: {', '.join(rows)}", file=sys.stderr, flush=True)
    print("| fault | test | package before | failed there | passes since |\n|---|---|---|---|---|")
    for one in done:
        cells = (one["row"], f"`{one['test']}`", one["before"], one["failed_before"], one["passed_after"])
        print("| " + " | ".join(map(str, cells)) + " |")
    right = [one for one in done if one["failed_before"] and one["passed_after"] and not one["failed_after"]]
    wrong = [one["test"] for one in done if one not in right]
    print(f"\n{len(right)} of {len(done)} tests fail on the package before and pass since")
    if wrong:
        print("Not: " + ", ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
