"""The model card of a registered version, after Mitchell et al., Model Cards for Model Reporting (FAT* 2019)."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from mlproject.evaluation.metrics import METRICS
from mlproject.evaluation.wording import heading, mean_and_interval
from mlproject.prediction.segmenter import ModelDescription
from mlproject.tracking.markdown import block, code, escape, escape_lightly, table

CARD = "model_card.md"
DESCRIPTION_LENGTH = 5000
"""The most characters that MLflow's tables hold of a version's description."""
FEW_CASES = 20
SHOWN = ("dice", "lesion_f1", "volume_difference_ml", "hd95_mm")
METRIC = {m.name: m for m in METRICS}
METRIC_TITLES = {m.name: heading(m) for m in METRICS}
LESION = ("data.layout", "data.label_name", "data.lesion_labels", "data.missing")
"""What a lesion is, and what of a case may be missing. Other settings of the data hold paths of one machine."""
SETTINGS = (*LESION, "loss", "training", "network", "patches", "preprocessing")


@dataclass(frozen=True, eq=False)
class CardFacts:
    """What a model card is written from.

    Attributes:
        model: registered name and version, as name/3.
        description: the model; several members are the networks of a cross-validation, and what was measured is what
            they reach one by one on the cases of their folds.
        run_id: of the MLflow run that registered it.
        origin: what the model comes from: training run, trial.
        data: name of the data set.
        digest: of its voxels and split.
        cases: number of cases of each part: train, validation, test (in a cross-validation all, each once).
        training: budget and device in words.
        overall: group of test cases → summary of the metrics, from evaluation.metrics.summarise.
        by_size: lesion load → the same.
        settings: dotted name → value.
        source: address and commit of the code.
        split: how the cases came to their parts, in words.
        patients_named: whether the data say whom each scan shows; else each case counts as a patient of its own.
        repeated: number of test cases that were trained or tuned on, too.
        notes: what a reader of the test result must know.
    """

    model: str
    description: ModelDescription
    run_id: str
    origin: Mapping[str, str]
    data: str
    digest: str
    cases: Mapping[str, int]
    training: str
    overall: Mapping[str, pd.DataFrame]
    by_size: Mapping[str, pd.DataFrame]
    settings: Mapping[str, Any]
    source: str
    split: str
    patients_named: bool
    repeated: int = 0
    notes: tuple[str, ...] = ()


def model_card(facts: CardFacts) -> str:
    """The card as Markdown: what it is, what it reaches, its limits, how to call it, how it was made."""
    channels = ", ".join(map(escape, facts.description.channels))
    parts = (
        f"{_headline(facts)}",
        f"# {escape(facts.model)}",
        f"Segments stroke lesions in 3D MRI from {channels}. **Research only: not a medical device, not for diagnosis "
        "or any decision about a patient.**",
        f"## Test result\n\n{_results(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## How to call it\n\n{_how_to_call(facts)}",
        f"## How it was made\n\n{_making(facts)}",
        "## Cite\n\nM. Monteiro and A. Oliveira, Fully Convolutional Neural Network for 3D Stroke Lesion "
        "Segmentation, ISLES 2017; the data set; and this software (CITATION.cff). The licence of the data decides "
        "what a model trained on them may be used for.",
        f"## Settings\n\n{_settings(facts)}",
    )
    return "\n\n".join(parts) + "\n"


def _headline(facts: CardFacts) -> str:
    """One line that says it all: the list of versions shows no more, and shows it as plain text."""
    summary = next(iter(facts.overall.values()))
    words = ", ".join(f"{METRIC_TITLES[name]} {interval(summary, name)}" for name in SHOWN[:3])
    tested = "Test" if facts.description.members == 1 else "Its networks one by one, out of fold"
    if facts.repeated:
        tested += f", no estimate ({facts.repeated} of the cases trained or tuned on, too)"
    return f"{tested}: {words}; {int(summary['cases']['dice'])} cases of {escape_lightly(facts.data)}. Research only."


def _results(facts: CardFacts) -> str:
    groups = {**facts.overall, **{f"lesions {name}": summary for name, summary in facts.by_size.items()}}
    groups = {name.replace("lesions no lesion", "no lesion"): summary for name, summary in groups.items()}
    rows = [
        [escape(name), int(summary["cases"]["dice"]), *(interval(summary, metric) for metric in SHOWN)]
        for name, summary in groups.items()
    ]
    header = ["Test cases", "n", *(METRIC_TITLES[metric] for metric in SHOWN)]
    notes = "".join(f"\n\n{escape(note)}" for note in facts.notes)
    members = facts.description.members
    if members > 1:
        notes += (
            f"\n\n**Not measured with this model itself**, which is the mean of {members} networks and has seen all of "
            "these cases, but with its networks one by one: each on the cases of its fold, which it has not seen, with "
            "the postprocessing that its own validation cases chose."
        )
    return (
        f"{table(header, rows)}\n\nMean with its 95 % bootstrap interval over the cases; a dash where no case defines "
        f"it. The last rows go by a case's lesion load.{notes}"
    )


def interval(summary: pd.DataFrame, metric: str) -> str:
    """A metric's mean with its 95 % interval, as far as they are defined, and in how many cases it is undefined."""
    said, undefined = " ".join(mean_and_interval(summary, METRIC[metric])).rstrip(), summary["undefined"][metric]
    return f"{said}, undefined in {undefined}" if undefined else said


def _limits(facts: CardFacts) -> str:
    few = [f"{n} {part} cases" for part, n in facts.cases.items() if 0 < n < FEW_CASES and part != "train"]
    tuned = "Threshold, smallest lesion and CRF were chosen on the validation cases; " + (
        "test cases, too, had a part in training or tuning." if facts.repeated else "the test cases had no part in it."
    )
    if facts.description.members > 1:
        tuned = (
            "Threshold, smallest lesion and CRF were chosen for its networks one by one, on all cases out of fold: no "
            "case was left to tune their mean on, which is smoother."
        )
    limits = [
        f"Tested on cases of {escape(facts.data)} alone: other scanners, protocols, hospitals and kinds of stroke are "
        "untested. Other channels, or images of another unit or weighting, are no input for it.",
        tuned,
    ]
    if few:
        limits.append(f"Small numbers ({', '.join(few)}): the intervals are wide, and what was tuned may not hold.")
    return "\n".join(f"- {limit}" for limit in limits)


def _how_to_call(facts: CardFacts) -> str:
    name, _, version = facts.model.partition("/")
    model = shlex.quote(f"models:/{name}/{version}")
    images = _images(facts.description.channels)
    commands = (
        f"python src/run.py predict --model {model} {images} --output mask.nii.gz\n"
        f"mlflow models serve -m {model} --env-manager local -p 5001"
    )
    return (
        f"{block(commands)}\n\nThe first channel's grid is the mask's. A request to the server has one row a case, "
        "each channel as base64 of a `.nii.gz` file; `serving_input_example.json` is one that works."
    )


def _images(channels: Sequence[str]) -> str:
    """The words of a command that give a file for each channel."""
    return shlex.join(word for channel in channels for word in (f"--images.{channel}", f"{channel}.nii.gz"))


def _making(facts: CardFacts) -> str:
    chosen = facts.description.postprocessing
    crf = "none (no significant gain over the best threshold on the cases that it was tuned on)"
    if chosen.crf is not None:
        crf = ", ".join(f"{name} {value:.4g}" for name, value in vars(chosen.crf).items() if not isinstance(value, str))
    members = facts.description.members
    cases, one = ", ".join(f"{n} {part}" for part, n in facts.cases.items()), "two parts"
    if members > 1:
        cases, one = f"{facts.cases['test']}, dealt out to {members} folds", "two folds"
    if not facts.patients_named:
        cases += "; the data name no patients: each case counts as one, and whether two show the same is not known"
    elif not facts.repeated:
        cases += f"; no patient is in {one}"
    rows = [
        ("data", f"{escape(facts.data)}, digest {code(facts.digest)}"),
        ("cases", cases),
        ("split", escape(facts.split)),
        ("training", escape(facts.training if members == 1 else f"{members} networks, each {facts.training}")),
        *((name, escape(value)) for name, value in facts.origin.items()),
        ("threshold", f"{chosen.threshold:.3g}"),
        ("smallest lesion", f"{chosen.min_lesion_ml:.3g} ml"),
        ("CRF", escape(crf)),
        ("code", escape(facts.source)),
        ("MLflow run", code(facts.run_id)),
    ]
    return table(("", ""), rows)


def _settings(facts: CardFacts) -> str:
    shown = {name: value for name, value in facts.settings.items() if name.startswith(SETTINGS)}
    lines = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, default_flow_style=None, width=math.inf)
    return block(lines.rstrip(), "yaml")


def shortened(card: str) -> str:
    """A card as far as a version's description holds it, cut before a heading."""
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    rest = f"\n\n(The rest is in {CARD} among the model's artifacts.)\n"
    return card[: card.rindex("\n## ", 0, DESCRIPTION_LENGTH - len(rest))].rstrip() + rest


def about(name: str, channels: Sequence[str]) -> str:
    """The description of a registered model: what a version is, what champion means, how to call it.

    `channels`: of its first version, for the command.
    """
    champion = shlex.quote(f"models:/{name}@champion")
    return (
        "Segments stroke lesions in 3D MRI: preprocessing, network, threshold and, where it helps, a dense CRF in one "
        "model. Research only: not a medical device.\n\n"
        "**A version** is the model of one run of `main`, or the best trial of one `search`, measured on test cases "
        "that it has not seen, unless its description, the model card, says otherwise; or the ensemble of one "
        "`crossvalidate`, whose networks were measured so one by one. A version without a model card was registered by "
        "hand, of any model: none of this need be true of it.\n\n"
        "**The alias champion** is the version to use. It moves to a new version only where that one is better on "
        "labelled cases that neither has seen, with the 95 % interval of the paired Dice difference above zero; the "
        "first version becomes champion at once.\n\n"
        "**Call it** on files or over HTTP:\n\n"
        + block(
            f"python src/run.py predict --model {champion} {_images(channels)} --output mask.nii.gz\n"
            f"mlflow models serve -m {champion} --env-manager local -p 5001"
        )
        + "\n\nThese are the channels of the first version; those of another one, in their order, stand in its model "
        "card and its signature. Each is sent as base64 of a `.nii.gz` file; `serving_input_example.json` among the "
        "model's artifacts is a request that works."
    )
