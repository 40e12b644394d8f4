"""Names on the MLflow server. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass

from mlproject.errors import SettingsError


@dataclass(frozen=True)
class TrackingSettings:
    """Where a run stands in MLflow; the server itself is MLFLOW_TRACKING_URI (default sqlite:///mlflow.db).

    Attributes:
        experiment: MLflow experiment; under `mlflow run` its --experiment-name decides instead.
        registered_model: name in the model registry.
        system_metrics: log CPU, memory, disk and GPU use with each run.
    """

    experiment: str = "stroke-lesion"
    registered_model: str = "stroke-lesion"
    system_metrics: bool = True

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise SettingsError("tracking.experiment is empty: give the MLflow experiment a name")
        name = self.registered_model
        # MLflow itself takes those with ?, @ and line breaks, and cannot find them again by models:/NAME.
        if not name.strip() or name in (".", "..") or any(c in "/:?@" or not c.isprintable() for c in name):
            raise SettingsError(
                f"tracking.registered_model={name!r}: MLflow needs a name without / : ? @ and line breaks, as "
                "stroke-lesion"
            )
