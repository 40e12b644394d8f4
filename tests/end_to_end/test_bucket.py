"""A data set in a bucket of a real S3 server, through the stages: as from a folder, and only what is needed comes."""

import json
import os
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from nibabel.nifti1 import Nifti1Image

import s3_proxy
from end_to_end.test_stages import newest, run, write_split
from mlproject import cli
from s3_proxy import Answer, Proxy

PARTS = ["train", "train", "validation", "train", "test", "test"]
ROOT = "s3://hospital/set a"


def fetched(work: str) -> set[str]:
    """Case and channel of each copy, as sub-synthetic0001 dwi."""
    names = [path.name for path in Path(work, "cache/objects").glob(f"{64 * '[0-9a-f]'}/*.gz")]
    return {f"{name.split('_')[0]} {name.removesuffix('.nii.gz').rpartition('_')[2]}" for name in names}


def wanted(parts: set[str], *channels: str) -> set[str]:
    numbers = [number for number, part in enumerate(PARTS, start=1) if part in parts]
    return {f"sub-synthetic{number:04d} {channel}" for number in numbers for channel in channels}


def damage_first(running: Proxy) -> None:
    """Have the content of the first object that is asked for come as zeros, once."""

    def spoil(method: str, _path: str, answer: Answer) -> None:
        if method == "GET" and len(running.objects) == 1:
            answer.body = bytes(len(answer.body))

    running.spoil = spoil


def test_the_stages(tracking: Path, tiny_isles: Path, buckets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_isles, buckets / "hospital" / "set a")
    (buckets / "masks").mkdir()
    rows = [f"sub-synthetic{number:04d},{part}" for number, part in enumerate(PARTS, start=1)]
    split = write_split(tracking / "split.csv", rows)
    run("train", data__root=f"{ROOT}/", data__split_file=split)
    trained = newest("train")
    assert fetched("work") == wanted(set(PARTS), "dwi", "adc", "msk")
    (data,) = trained.inputs.dataset_inputs
    assert data.dataset.name == "set a"
    assert json.loads(data.dataset.source)["uri"] == ROOT == trained.data.params["cfg.data.root"]
    note = trained.data.tags["mlflow.note.content"]
    assert note.count(ROOT) == 2 and f"-P 'data.root={ROOT}'" in note
    assert "objects" not in f"{note} {trained.data.params} {data.dataset.source}"

    run("postprocess", run=trained.info.run_id, data__split_file=split)
    model = f"runs:/{newest('postprocess').info.run_id}/model"

    # On a machine that has nothing yet, only the cases that the model has not seen come.
    run("evaluate", model=model, data__root=ROOT, work_dir="new")
    assert fetched("new") == wanted({"test"}, "dwi", "adc", "msk")
    artifacts = mlflow.MlflowClient().download_artifacts(newest("evaluate").info.run_id, "report/per_case.csv")
    assert sorted(set(pd.read_csv(artifacts)["case"])) == ["sub-synthetic0005", "sub-synthetic0006"]
    assert "4 of 6 cases left out" in capsys.readouterr().out

    scan = f"{ROOT}/rawdata/sub-synthetic0001/ses-0001/sub-synthetic0001_ses-0001"
    one = ["predict", "--model", model, "--output", "s3://masks/one.nii.gz"]
    one += [f"--images.dwi={scan}_dwi.nii.gz", f"--images.adc={scan}_adc.nii.gz"]
    with s3_proxy.proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.address)
        damage_first(proxy)
        assert cli.main(one) == 0 and Nifti1Image.from_filename(buckets / "masks/one.nii.gz").shape == (24, 28, 20)
        dwi, again, adc = (key.rpartition("_")[2] for key in proxy.objects)
        assert (dwi, again, adc) == ("dwi.nii.gz", "dwi.nii.gz", "adc.nii.gz")
    capsys.readouterr()
    assert cli.main(one) == 2 and "s3://masks/one.nii.gz exists" in capsys.readouterr().err

    run("describe", data__root=ROOT, output="found.yaml", work_dir="new")
    assert yaml.safe_load(Path("found.yaml").read_text())["data"]["root"] == ROOT

    # What began in the bucket goes on from a folder of this machine: the data's digest is the same.
    run("train", training__resume=trained.info.run_id, data__root=str(tiny_isles), data__split_file=split)


@pytest.mark.long
def test_folds_and_trials_work_on_the_copies_that_are_here(tracking: Path, tiny_isles: Path, buckets: Path) -> None:
    shutil.copytree(tiny_isles, buckets / "hospital" / "set a")
    run("crossvalidate", data__root=ROOT, data__folds="2")
    copies = {file: file.stat().st_ctime_ns for file in Path("work/cache/objects").glob("*/*.nii.gz")}
    assert len(copies) == len(wanted(set(PARTS), "dwi", "adc", "msk"))
    space = [{"name": "loss.dice", "low": 0.1, "high": 0.9, "complement": "loss.cross_entropy"}]
    run("search", data__root=ROOT, search__space=json.dumps(space), search__trials="2")
    assert {file: file.stat().st_ctime_ns for file in Path("work/cache/objects").glob("*/*.nii.gz")} == copies
    for stage in ("crossvalidate", "search"):
        (data,) = newest(stage).inputs.dataset_inputs
        assert json.loads(data.dataset.source)["uri"] == ROOT and newest(stage).info.status == "FINISHED"


def test_a_bucket_that_refuses_is_one_line(tracking: Path, buckets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data.root", "s3://nothere/set", "--work_dir", "work"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: s3://nothere/set/: S3 refuses (NoSuchBucket): there is no such bucket\n"
