"""Names on the MLflow server. Imports nothing heavy, so that --help is quick."""

import math
from dataclasses import dataclass

from mlproject.data.case_names import CaseNames, CaseNaming
from mlproject.errors import SettingsError


@dataclass(frozen=True)
class TrackingSettings:
    """Where a run stands in MLflow; the server itself is MLFLOW_TRACKING_URI (default sqlite:///mlflow.db).

    Attributes:
        experiment: MLflow experiment; under `mlflow run` its --experiment-name decides instead.
        registered_model: name in the model registry.
        case_names: what cases are called in MLflow: plain is their own names; pseudonym is case-0001 ..., the same in
            every run on these data; auto is plain for the layouts of the public challenges (demo, isles2017, isles2022,
            atlas), and pseudonym for all others, whose names may be patients'.
        case_table: CSV file that says whose pseudonym is whose, never logged; null is case_names.csv in data.root.
        system_metrics: log CPU, memory, disk and GPU use with each run.
        wait_s: seconds for which the end of a run, and a stage that needs an answer, wait for a server that is away;
            what is not delivered stays in work_dir, and `sync` delivers it.
    """

    experiment: str = "stroke-lesion"
    registered_model: str = "stroke-lesion"
    case_names: CaseNames = "auto"
    case_table: str | None = None
    system_metrics: bool = True
    wait_s: float = 120.0

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s < math.inf:
            raise SettingsError(f"tracking.wait_s={self.wait_s}: give a number of seconds, 0 or more")
        if not self.experiment.strip():
            raise SettingsError("tracking.experiment is empty: give the MLflow experiment a name")
        name = self.registered_model
        # MLflow itself takes those with ?, @ and line breaks, and cannot find them again by models:/NAME.
        if not name.strip() or name in (".", "..") or any(c in "/:?@" or not c.isprintable() for c in name):
            raise SettingsError(
                f"tracking.registered_model={name!r}: MLflow needs a name without / : ? @ and line breaks, as "
                "stroke-lesion"
            )

    @property
    def case_naming(self) -> CaseNaming:
        """How cases are called in what is logged."""
        return CaseNaming(self.case_names, self.case_table)
