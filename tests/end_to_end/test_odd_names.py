"""Folders, cases, labels and channels with names that shells, tables and pages stumble over."""

import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import trees
from end_to_end.conftest import TINY, Workplace
from mlproject import cli
from mlproject.data.case import DataSettings
from mlproject.data.cases import find_cases

ODD = '- it\'s "a" $(touch x); `y` %20 #1 & <b> Mu\u0308ller 名前'

MODEL = 'it\'s a "model" $(x) ü'


def words(**settings: str) -> list[str]:
    given = {**TINY, **{name.replace("__", "."): value for name, value in settings.items()}}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def test_a_pipeline_with_odd_names(tracking: Path, tiny_isles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, work, masks = (tracking / f"{ODD} {what}" for what in ("data", "work", "masks"))
    data.mkdir()
    names = ["a b", 'it\'s "a"', "<b>&amp;|`x`", "Mu\u0308ller, 名前", "=1+1", "x" * 180]
    rows = pd.DataFrame(
        {"case": name, "t1 +gd (b=1000)": case.images["dwi"], "名": case.images["adc"], "label": case.label}
        for name, case in zip(names, find_cases(DataSettings(root=str(tiny_isles))), strict=True)
    )
    rows.to_csv(data / "cases.csv", index=False)
    scans = ["--data.layout", "table", "--data.root", str(data / "cases.csv")]
    given = words(work_dir=str(work), tracking__case_names="plain", tracking__experiment=ODD,
                  tracking__registered_model=MODEL)  # fmt: skip
    channels = ["--data.channels", '["t1 +gd (b=1000)", "名"]']
    assert cli.main(["main", *given, *scans, *channels]) == 0, capsys.readouterr().err
    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["1"], "tags.stage = 'main'")
    split = pd.read_csv(client.download_artifacts(found.info.run_id, "split.csv"))
    assert sorted(split["case"]) == sorted(names)
    (tested,) = client.search_runs(["1"], "tags.stage = 'evaluate'")
    assert "<b>&amp;|" not in Path(client.download_artifacts(tested.info.run_id, "report/report.html")).read_text()
    assert cli.main(["predict", "--model", f"models:/{MODEL}/1", *scans, "--output", str(masks)]) == 0
    assert {path.name for path in masks.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    assert [path.name for path in data.iterdir()] == ["cases.csv"]
    assert {path.name for path in tracking.iterdir()} == {data.name, work.name, masks.name, "mlflow.db", "mlruns"}


@pytest.mark.long
def test_the_commands_of_a_description_with_odd_names(tracking: Path, tiny_isles: Path) -> None:
    data = Path(shutil.copytree(tiny_isles, tracking / f"{ODD} data"))
    given = words(data__layout="isles2022", data__root=str(data), work_dir=f"{ODD} work", tracking__experiment=ODD)
    assert cli.main(["train", *given]) == 0
    (found,) = mlflow.MlflowClient().search_runs(["1"])
    Workplace(tracking, data).do_again(found)
    (again,) = mlflow.MlflowClient().search_runs(["0"])  # that of `mlflow run`
    assert again.data.metrics["validation/dice"] == found.data.metrics["validation/dice"]


@pytest.mark.parametrize("channel", ["../x", "a/b", "-rf", ".hidden", "a\nb", "x" * 100])
def test_channels_that_cannot_be_files(
    tracking: Path, tiny_isles: Path, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tracking / "settings.yaml"
    settings.write_text(f"data: {{channels: [dwi, {ascii(channel).replace(chr(39), chr(34))}]}}")
    assert cli.main(["train", "--config", str(settings), "--data.root", str(tiny_isles)]) == 2
    assert "cannot be the name of a column and of a file" in " ".join(capsys.readouterr().err.split())


def test_a_case_of_two_lines(tracking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"{case}/{file}.nii.gz" for case in ("a", "two\nlines") for file in ("dwi", "mask")]
    trees.touch(tracking / "set", *files)
    given = words(data__layout="folders", data__root="set", work_dir="work", data__channels="[dwi]")
    assert cli.main(["train", *given]) == 2
    assert "a case cannot be called 'two\\nlines'" in " ".join(capsys.readouterr().err.split())
    assert not Path("set/case_names.csv").exists()
