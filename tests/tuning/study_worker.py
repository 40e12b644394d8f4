"""A worker of a shared study as a process: python study_worker.py FOLDER URL NAME RUN_ID [hang | die | race].

Where a trial begins or is lost, it leaves a file in FOLDER. `hang`: its first trial never ends; `die`: it kills itself
in the finale; `race`: it waits in its first trial until a second worker has begun one, too.
"""

import os
import signal
import sys
import time
from pathlib import Path

import optuna

from mlproject.tuning.study import SharedStudy, StudySettings

IDENTITY = {"space": {"x": [0.0, 1.0]}, "data": "digest"}
TRIALS = 4


def settings(name: str, trials: int = TRIALS, **given: object) -> StudySettings:
    return StudySettings(trials=trials, study=name, heartbeat_seconds=1, **given)  # type: ignore[arg-type]


def main(folder: Path, url: str, name: str, run_id: str, manner: str = "") -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        (folder / f"begun-{trial.number}").write_text(run_id)
        time.sleep(600 if manner == "hang" else 0.05)
        while manner == "race" and len({file.read_text() for file in folder.glob("begun-*")}) < 2:
            time.sleep(0.02)
        return x

    def on_lost(trial: optuna.trial.FrozenTrial, reason: str) -> None:
        with (folder / "lost").open("a") as file:
            file.write(f"{trial.number} {reason}\n")

    study = SharedStudy.open(settings(name), url, IDENTITY, lambda: run_id, on_lost)
    study.run(objective, lambda: False)
    with study.finale() as mine:
        if mine:
            if manner == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / f"finale-{run_id}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
