"""The model card: what stands in it is what was measured, and it fits where MLflow keeps it."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

import tiny
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.evaluation.metrics import METRICS, summarise, summarise_by_size, summarise_groups
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import ModelDescription
from mlproject.prediction.sliding_window import PredictionSettings
from mlproject.tracking.model_card import DESCRIPTION_LENGTH, CardFacts, about, interval, model_card, shortened

DICE = (0.9, 0.7, 0.5, 0.3)
LOAD_ML = (60.0, 20.0, 0.5, 0.0)


def facts(**changes: object) -> CardFacts:
    rows: list[Mapping[str, float]] = [
        {metric.name: 2.0 for metric in METRICS} | {"dice": dice, "reference_ml": load, "prediction_ml": 1.0}
        for dice, load in zip(DICE, LOAD_ML, strict=True)
    ]
    table = pd.DataFrame(rows)
    description = ModelDescription(
        channels=("dwi", "a dc"),
        preprocessing=PreprocessingSettings(),
        network=tiny.NETWORK,
        patch_size=tiny.PATCHES.size,
        prediction=PredictionSettings(),
        postprocessing=Postprocessing(threshold=0.43, min_lesion_ml=0.1, crf=CrfSettings(theta_alpha_mm=33)),
        candidates={},
        seen=(),
    )
    made = CardFacts(
        model="stroke-lesion/3",
        description=description,
        run_id="0123",
        origin={"training run": "4567"},
        data="isles|2022",
        digest="abcd",
        cases={"train": 200, "validation": 7, "test": 4},
        training="2500 steps of 2 patches, on CPU",
        overall={group: tables["x"] for group, tables in summarise_groups({"x": table}).items()},
        by_size=summarise_by_size(table),
        settings={
            "data.layout": "isles2022",
            "data.root": "/home/someone/data",
            "data.lesion_labels": [1, 3],
            "data.split_file": "/home/someone/split.csv",
            "loss.dice": 1.0,
            "training.minutes": None,
        },
        source="https://host/a, commit 12",
        split="data.split_seed=3",
        patients_named=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rows_of(card: str) -> list[list[str]]:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card)
    cells: list[list[str]] = []
    for number, token in enumerate(tokens):
        if token.type == "tr_open":
            cells.append([])
        elif token.type in ("td_open", "th_open"):
            cells[-1].append("".join(child.content for child in tokens[number + 1].children or ()))
    return cells


def test_results_overall_and_by_size() -> None:
    rows = {row[0]: row[1:] for row in rows_of(model_card(facts()))}
    assert rows["all cases"][0] == "4" and rows["all cases"][1].startswith("0.600 (")
    assert rows["cases with a lesion"][:1] == ["3"] and rows["cases with a lesion"][1].startswith("0.700 (")
    assert rows["no lesion"][:2] == ["1", "0.300"]  # one case has no interval
    assert rows["lesions below 1 ml"][:2] == ["1", "0.500"]
    assert rows["lesions 10 to 50 ml"][:2] == ["1", "0.700"] and rows["lesions 50 ml or more"][:2] == ["1", "0.900"]
    assert rows["threshold"] == ["0.43"] and "theta_alpha_mm 33" in rows["CRF"][0]
    assert rows["training run"] == ["4567"]


def test_what_it_says_and_what_it_does_not() -> None:
    card = model_card(facts())
    for words in ("not a medical device", "7 validation cases, 4 test cases", "no patient is in two parts", "Limits"):
        assert words in card
    assert "--images.dwi dwi.nii.gz '--images.a dc' 'a dc.nii.gz'" in card
    assert "/home" not in card
    assert "200 train cases" not in card  # enough
    had_no_part = "the test cases had no part in it"
    assert had_no_part in card
    repeated = model_card(facts(notes=("Not an estimate: 1 test case was also trained on.",), repeated=1))
    assert "Not an estimate" in repeated and "no patient is in two parts" not in repeated
    assert had_no_part not in repeated
    assert repeated.startswith("Test, no estimate (1 of the cases trained or tuned on, too): Dice 0.600")
    assert had_no_part in model_card(facts(notes=("The 4 cases are of 3 patients.",)))
    no_crf = replace(facts().description, postprocessing=Postprocessing())
    assert "no significant gain" in model_card(facts(description=no_crf))  # there may be one that is not


def test_where_the_data_name_no_patients_it_is_not_said_that_none_is_in_two_parts() -> None:
    for members in (1, 5):
        described = replace(facts().description, members=members)
        card = model_card(facts(description=described, patients_named=False))
        assert "the data name no patients: each case counts as one" in card and "no patient is in two" not in card


def test_numbers_have_the_digits_of_the_report_and_undefined_cases_are_counted() -> None:
    rows = [{m.name: 110.2 for m in METRICS} | {"dice": 0.5, "hd95_mm": distance} for distance in (1100.0, math.nan)]
    summary = summarise(pd.DataFrame(rows))
    assert interval(summary, "volume_difference_ml") == "110.20 (110.20 to 110.20)"
    assert interval(summary, "hd95_mm") == "1100.00, undefined in 1"
    assert interval(summarise(pd.DataFrame(rows[1:])), "hd95_mm") == "–, undefined in 1"


def test_settings_are_yaml_and_say_what_a_lesion_was_but_no_place() -> None:
    card = model_card(facts())
    settings = yaml.safe_load(card.partition("```yaml\n")[2].partition("\n```")[0])
    lesion = {"data.layout": "isles2022", "data.lesion_labels": [1, 3]}
    assert settings == lesion | {"loss.dice": 1.0, "training.minutes": None}
    assert {row[0]: row[1:] for row in rows_of(card)}["split"] == ["data.split_seed=3"]


def test_the_card_of_an_ensemble_claims_no_result_of_its_own() -> None:
    ensemble = replace(facts().description, members=5)
    card = model_card(facts(description=ensemble, cases={"train": 0, "validation": 0, "test": 43}))
    assert card.startswith("Its networks one by one, out of fold: Dice 0.600")
    assert "**Not measured with this model itself**" in card and "chosen on the validation cases" not in card
    rows = {row[0]: row[1:] for row in rows_of(card)}
    assert rows["cases"] == ["43, dealt out to 5 folds; no patient is in two folds"]
    assert rows["training"] == ["5 networks, each 2500 steps of 2 patches, on CPU"]
    assert "Small numbers" not in card


@pytest.mark.parametrize("name", ["my model", "it's", "$HOME"])
def test_commands_take_every_name(name: str) -> None:
    card, description = model_card(facts(model=f"{name}/3")), about(name, ["dwi"])
    for text, uri in ((card, f"models:/{name}/3"), (description, f"models:/{name}@champion")):
        commands = text.partition("```sh\n")[2].partition("\n```")[0].splitlines()
        assert [shlex.split(command).count(uri) for command in commands] == [1, 1]


def test_the_headline_is_plain_text() -> None:
    headline = model_card(facts(data="ISLES-2022_v1.1 (new)")).splitlines()[0]
    assert headline.endswith("4 cases of ISLES-2022_v1.1 (new). Research only.")


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>", "a|b", "`a", "*a* _a_ __a__", "[a](http://b)", "\\", "~~a~~", "a\n\n# b\n---"],
)
def test_no_name_breaks_the_card(name: str) -> None:
    """Whatever data set, model, channels, study and code are called, the card is built as with harmless names."""
    description = facts().description
    cards = [
        facts(
            model=f"{word}/3",
            data=word,
            source=word,
            notes=(word,),
            origin={"trial": word},
            settings={"loss.dice": word},
            description=replace(description, channels=(word, "b")),
        )
        for word in ("harmless", name)
    ]
    harmless, nasty = (
        [
            child.type.replace("_special", "")
            for token in MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(model_card(card))
            for child in (token, *(token.children or ()))
        ]
        for card in cards
    )
    assert [a for a, b in pairwise([*nasty, ""]) if (a, b) != ("text", "text")] == harmless


def test_a_long_card_is_cut_before_a_heading_where_mlflow_has_no_room() -> None:
    card = model_card(facts(settings={f"network.{n}": n for n in range(1000)}))
    short = shortened(card)
    assert len(card) > DESCRIPTION_LENGTH >= len(short)
    assert "## Cite" in short and "## Settings" not in short and "model_card.md" in short
    assert shortened(short) == short
