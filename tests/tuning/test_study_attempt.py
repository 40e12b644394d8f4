import optuna

from mlproject.tuning.study_attempt import Attempt, Failed


def test_why_a_trial_failed_is_stored_without_secrets() -> None:
    def objective(_: optuna.Trial) -> float:
        raise RuntimeError("postgresql://me:MARK@host/db is away")

    study = optuna.create_study()
    study.optimize(Attempt(objective, lambda _: None), n_trials=1, catch=(Failed,))
    assert study.trials[0].user_attrs["failure"] == "RuntimeError: postgresql://me@host/db is away"
