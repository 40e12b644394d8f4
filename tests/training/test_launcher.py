"""Which machine this is, by what torchrun, `fabric run` and srun leave in the environment."""

from pathlib import Path

import pytest

import tiny
from mlproject import cli
from mlproject.errors import SettingsError
from mlproject.stages.settings import Experiment
from mlproject.training.fit import fit
from mlproject.training.launcher import placed
from mlproject.training.settings import TrainingSettings

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29400",
    "WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],big1",
    "SLURM_NODEID": "1",
}
OLD = TrainingSettings(nodes=2, node_rank=0, main_address="old:1")  # of a config.yaml with which a run is gone on with


def place(training: TrainingSettings) -> tuple[int, int, str]:
    return training.nodes, training.node_rank, training.main_address


@pytest.mark.parametrize("training", [TrainingSettings(), OLD])
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, (2, 1, "node7:29400")),
        (SRUN, (2, 1, "gpu07:24711")),
        (SRUN | {"SLURM_STEP_NODELIST": "a1-ib,a2-ib"}, (2, 1, "a1-ib:24711")),
        (SRUN | {"SLURM_STEP_NODELIST": "n[1-2]-ib"}, (2, 1, "n1-ib:24711")),
        (SRUN | TORCHRUN, (2, 1, "node7:29400")),  # srun torchrun ...
    ],
)
def test_a_launcher_says_which_machine_this_is(
    training: TrainingSettings, environment: dict[str, str], expected: tuple[int, int, str]
) -> None:
    assert place(placed("main", Experiment(training=training), environment).training) == expected


@pytest.mark.parametrize("environment", [{}, {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, {**TORCHRUN, "WORLD_SIZE": "1"}])
def test_without_one_the_settings_say_it(environment: dict[str, str]) -> None:
    assert place(placed("main", Experiment(training=OLD), environment).training) == (2, 0, "old:1")


@pytest.mark.parametrize(
    ("stage", "environment", "message"),
    [
        ("main", TORCHRUN | {"WORLD_SIZE": "4"}, r"torchrun .* 4 times on 2 machine\(s\).*--nproc-per-node 1"),
        ("train", SRUN | {"SLURM_STEP_NUM_TASKS": "8"}, r"srun .* 8 times.*--ntasks-per-node 1.*--training\.devices"),
        ("train", TORCHRUN | {"LT_CLI_USED": "1", "WORLD_SIZE": "4"}, r"fabric run .*--devices 1"),
        ("evaluate", TORCHRUN, r"torchrun has started `evaluate` 2 times.*without a launcher"),
        ("main", {"LT_PRECISION": "16"}, r"fabric run --precision .*set training\.precision"),
        ("main", TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "1"}, r"after a failure.*--training\.resume RUN_ID"),
    ],
)
def test_where_each_process_would_do_all_the_work_it_is_refused(
    stage: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        placed(stage, Experiment(), environment)


def test_the_workers_of_a_search_may_be_any_number() -> None:
    assert placed("search", Experiment(), SRUN) == Experiment()


def test_the_command_line_asks_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "--print_config"]) == 0
    assert "main_address: node7:29400" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_one_process_trains_under_fabric_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"LT_CLI_USED": "1", "LT_DEVICES": "1", "LT_NUM_NODES": "1"}.items():
        monkeypatch.setenv(name, value)
    assert list(fit(tiny.job(tmp_path, steps=1)))
