"""Names on the MLflow server. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass


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
