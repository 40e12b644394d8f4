"""The stages one by one through the command line's own function, every shipped YAML, and real scans."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import SimpleITK
import yaml
from nibabel.nifti1 import Nifti1Image

import trees
from end_to_end.conftest import PROJECT, TINY, Workplace
from mlproject import cli, config
from mlproject.stages import settings as stage_settings


def run(stage: str, **settings: str) -> None:
    """A stage with those of the tiny settings that it takes, and with those given; dots are double underscores."""
    given = {name.replace("__", "."): value for name, value in settings.items()}
    kind = getattr(stage_settings, cli.STAGES[stage][1])
    takes = {name for name, _ in config.leaves(kind) if config.is_taken(kind, name)}
    tiny = {name: value for name, value in {**TINY, "work_dir": "work"}.items() if name in takes}
    arguments = [word for name, value in {**tiny, **given}.items() for word in (f"--{name}", value)]
    assert cli.main([stage, *arguments]) == 0


def newest(stage: str) -> mlflow.entities.Run:
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.stage = '{stage}'", max_results=1)[0]


def test_train_then_postprocess_then_evaluate(
    tracking: Path, tiny_isles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ["train", "train", "validation", "train", "test", "test"]
    names = sorted(path.name for path in (tiny_isles / "derivatives").iterdir())
    rows = [f"{name},{part}" for name, part in zip(names, parts, strict=True)]
    split_file = write_split(tracking / "split of mine.csv", rows)
    run("train", data__root=str(tiny_isles), data__split_file=split_file)
    trained = newest("train").info.run_id
    Path(split_file).rename("elsewhere.csv")  # as on another machine
    Workplace(tracking, tiny_isles).do_again(newest("train"))
    first, repeated = mlflow.MlflowClient().get_run(trained), newest("train")
    assert first.info.run_id != repeated.info.run_id
    for name in ("train/loss", "validation/dice", "validation/best_dice"):
        assert first.data.metrics[name] == repeated.data.metrics[name]
    (data,), (same_data,) = (found.inputs.dataset_inputs for found in (first, repeated))
    assert data.dataset.digest == same_data.dataset.digest
    Path("elsewhere.csv").rename(split_file)

    run("postprocess", run=trained, crf_search__trials="3")
    tuned = newest("postprocess")
    assert tuned.data.tags["training_run"] == trained
    assert {"validation/network_only_dice", "validation/best_threshold_dice", "validation/with_crf_dice"} <= set(
        tuned.data.metrics
    )
    trials = mlflow.MlflowClient().download_artifacts(tuned.info.run_id, "crf_search/trials.csv")
    assert len(pd.read_csv(trials)) == 3

    capsys.readouterr()
    run("evaluate", model=f"runs:/{tuned.info.run_id}/model", data__root=str(tiny_isles))
    printed = capsys.readouterr().out
    before, _, after = printed.partition("Dice")
    assert "channels: dwi, adc\ncases:    2 to measure, those that the model has not seen\n" in before
    assert re.search(r"\nreport: .*report\.html\nlook: .*mlflow ui --backend-store-uri sqlite:.*\nnext: .*:\n", after)
    command = shlex.split(printed.splitlines()[-1])
    assert command[command.index("evaluate") :][1:5] == [
        "--model", f"runs:/{tuned.info.run_id}/model", "--compare", "MODEL_OR_RUN",
    ]  # fmt: skip
    split = pd.read_csv(mlflow.MlflowClient().download_artifacts(trained, "split.csv"))
    table = pd.read_csv(mlflow.MlflowClient().download_artifacts(newest("evaluate").info.run_id, "report/per_case.csv"))
    assert set(table["case"]) == set(split[split["split"] == "test"]["case"])  # the only ones it has not seen

    # Copies of all cases under other names, in another format: known by their voxels, and left out.
    code = cli.main(
        ["evaluate", "--model", f"runs:/{trained}/model", "--data.layout", "table", "--work_dir", "work",
         "--data.root", str(renamed(tiny_isles, set(split[split["split"] != "test"]["case"]), tracking / "copies"))]
    )  # fmt: skip
    assert code == 2 and "trained or tuned on all" in capsys.readouterr().err


def renamed(data: Path, names: set[str], to: Path) -> Path:
    """A CSV of the cases' copies: uncompressed, and renamed."""
    to.mkdir()
    rows = []
    for number, name in enumerate(sorted(names)):
        files = {c: data / f"rawdata/{name}/ses-0001/{name}_ses-0001_{c}.nii.gz" for c in ("dwi", "adc")}
        files["label"] = data / f"derivatives/{name}/ses-0001/{name}_ses-0001_msk.nii.gz"
        for what, file in files.items():
            Nifti1Image.from_filename(file).to_filename(to / f"{number}_{what}.nii")
        rows.append({"case": f"other {number}", **{what: f"{number}_{what}.nii" for what in files}})
    pd.DataFrame(rows).to_csv(to / "cases.csv", index=False)
    return to / "cases.csv"


LONG = ("demo", "reproduce")  # other tests run these stages, in a smaller size
SHIPPED = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.long] * (file.stem in LONG))
    for file in sorted((PROJECT / "conf").glob("*.yaml"))
]


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_configuration(file: Path, tracking: Path, tiny_isles: Path) -> None:
    """Everything but its size is as shipped, on a tiny data set in its layout."""
    shipped = yaml.safe_load(file.read_text())
    layout, channels = shipped["data"]["layout"], shipped["data"]["channels"]
    if layout in ("demo", "isles2022"):
        where = {} if layout == "demo" else {"data__root": str(shutil.copytree(tiny_isles, tracking / "data"))}
        stage = next((stage for stage in ("search", "reproduce") if stage in shipped), "main")
        size = {
            "main": {"data__demo_cases": "6"},
            "search": {"search__trials": "1"},
            "reproduce": {"reproduce__parts": "[network]", "reproduce__validations": "1"},
        }[stage]
        run(stage, config=str(file), patches__size="[32,32,32]", **where, **size)
        if stage == "reproduce":
            assert "Claim" in newest(stage).data.tags["mlflow.note.content"]
        else:
            assert newest(stage).data.metrics["test/dice"] >= 0
    else:  # these differ in data and training alone
        root = trees.rewrite(tiny_isles, layout, channels, tracking / "data")
        size = {"patches__size": "[32,32,32]", "preprocessing__spacing_mm": "[6,6,6]"}
        run("train", config=str(file), data__root=str(root), **size)
        assert newest("train").data.metrics["validation/dice"] >= 0


def write_split(path: Path, rows: list[str]) -> str:
    path.write_text("case,split\n" + "\n".join(rows) + "\n")
    return str(path)


def test_the_real_case_alone(tracking: Path, lesion_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DWI, ADC and FLAIR of a scanner, FLAIR on a grid of its own; in all parts of the split, and said so."""
    name = "sub-strokecase0009"
    split = write_split(tracking / "split.csv", [f"{name},{part}" for part in ("train", "validation", "test")])
    data = lesion_data / "isles22"
    run(
        "main",
        data__root=str(data),
        data__channels="[dwi,adc,flair]",
        data__split_file=split,
        patches__size="[32,32,32]",
    )
    report = mlflow.MlflowClient().download_artifacts(newest("evaluate").info.run_id, "report/report.html")
    assert "Not an estimate" in Path(report).read_text()
    assert "Not an estimate" in newest("main").data.tags["mlflow.note.content"]
    assert "note:     Not an estimate" in capsys.readouterr().out
    session = data / "rawdata" / name / "ses-0001"
    images = {c: str(session / f"{name}_ses-0001_{c}.nii.gz") for c in ("dwi", "adc", "flair")}
    run(
        "predict",
        model="models:/stroke-lesion/1",
        output="mask.nii.gz",
        **{f"images__{c}": f for c, f in images.items()},
    )
    mask, dwi = (Nifti1Image.from_filename(path) for path in ("mask.nii.gz", images["dwi"]))
    assert mask.shape == dwi.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, dwi.affine)
    assert re.search(r"mask\.nii\.gz: \d+\.\d\d ml in \d+ lesions, by stroke-lesion/1", capsys.readouterr().out)

    # MetaImage, of other grids: the answer in the format and on the grid of the file that was given.
    scans = {f"images__{c}": str(lesion_data / "inference_only" / f"{c}.mha") for c in ("dwi", "adc", "flair")}
    run("predict", model="models:/stroke-lesion/1", output="mask.mha", probability="true", **scans)
    assert SimpleITK.ReadImage("mask_probability.mha").GetSize() == (128, 128, 25)


@pytest.mark.long
def test_the_phantom_set(tracking: Path, lesion_data: Path) -> None:
    script = lesion_data / "make_phantom.py"
    subprocess.run([sys.executable, script, tracking / "phantom", "--subjects", "5", "--seed", "0"], check=True)
    numbers = {1: "train", 2: "train", 3: "train", 4: "validation", 5: "test"}
    rows = [f"sub-strokecase{number:04d},{part}" for number, part in numbers.items()]
    run(
        "main",
        config="conf/isles2022.yaml",
        data__root=str(tracking / "phantom"),
        data__split_file=write_split(tracking / "split.csv", rows),
        patches__size="[32,32,32]",
    )
    assert 0 <= newest("main").data.metrics["test/dice"] <= 1
