"""The out-of-fold results of a cross-validation: what the evaluations of its folds found, all cases together."""

from collections.abc import Sequence

import pandas as pd

from mlproject.evaluation.comparison import dice_differences
from mlproject.evaluation.figures import dice_against_volume, paired_dots
from mlproject.evaluation.metrics import summarise_groups
from mlproject.stages.annotation import result_in_words
from mlproject.stages.evaluate import Results, headline, rows_of
from mlproject.tracking import markdown, runs
from mlproject.tracking.run import Run

FOLDER = "out_of_fold"
AS_CHOSEN = "as chosen"
"""The variant of each case that its fold's validation cases chose."""
TESTED = "Out-of-fold"
EXPLANATION = (
    "Out of fold: each case is tested once, by the network of its fold, which has not seen it. The model is the "
    "ensemble of these networks, which has seen all of the cases: its own result only cases from elsewhere can give."
)


def pooled(folds: Sequence[str], parent: Run, notes: Sequence[str]) -> tuple[Results, str]:
    """The results of all cases from the evaluations of the folds (ids of their runs), and all of it in Markdown.

    `notes`: what a reader must know of all cases together.

    Logs them to the parent: figures, the metrics that a test result has, and the table of all cases (fold, variant,
    case, metrics, and whether this is the variant that the fold's validation cases chose).
    """
    tables, by_fold = [], []
    for number, fold in enumerate(folds):
        evaluation = runs.child(fold, "evaluate")
        assert evaluation is not None  # the fold is finished
        measured = rows_of(evaluation.info.run_id)
        assert measured is not None  # logged before the fold was finished
        table, chosen = measured
        table.insert(0, "fold", number)
        table["chosen"] = table["variant"] == chosen
        tables.append(table)
        own = table.loc[table["chosen"], "dice"]
        link = f"[{fold[:8]}](#/experiments/{parent.experiment_id}/runs/{fold})"
        by_fold.append((str(number), str(len(own)), f"{own.mean():.3f}", markdown.escape(chosen), link))
    cases = pd.concat(tables, ignore_index=True)
    if "missing" in cases:  # which an evaluation leaves out where none of its cases lacks a channel
        cases["missing"] = cases["missing"].fillna("")
    parent.log_table(cases, f"{FOLDER}/cases.csv")
    variants = {str(variant): rows for variant, rows in cases.groupby("variant", sort=False)}
    parent.log_figure(paired_dots(variants), f"{FOLDER}/variants.png")
    differences = dice_differences(variants)
    variants[AS_CHOSEN] = cases[cases["chosen"]]
    summaries = summarise_groups(variants)
    parent.log_figure(dice_against_volume(variants[AS_CHOSEN]), f"{FOLDER}/dice_by_volume.png")
    parent.log_metrics(headline(summaries, differences, AS_CHOSEN))
    result = result_in_words(summaries, AS_CHOSEN, TESTED, "what the validation cases of each fold chose", notes)
    overview = markdown.table(("Fold", "Test cases", "Mean Dice", "Chosen", "Run"), by_fold)
    said = f"{result}\n\n{EXPLANATION}\n\n{overview}"
    return Results(variants, summaries, differences, AS_CHOSEN, tested=TESTED, notes=notes), said
