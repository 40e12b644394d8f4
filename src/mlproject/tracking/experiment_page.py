"""An experiment's page in the MLflow UI: what it says, and the saved views that show the columns worth seeing.

The UI has no columns of its own choice beyond name, time, data set and duration. A saved view (the list *Views*
above the runs, MLflow 3.17) is a tag of the experiment: its name and the state of the page, as the UI writes it.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlflow

PREFIX = "mlflow.sharedViewState."
RUN_NAME = "attributes.`Run Name`"
KIND, NOTE = "mlflow.experimentKind", "mlflow.note.content"


@dataclass(frozen=True)
class View:
    """A saved view of the run list.

    Attributes:
        key: in the page's address, as viewStateShareKey.
        name: in the list of views.
        columns: as the UI names them, from left to right.
        order_by: the column that the runs are sorted by, the largest first.
        search: which runs are shown; all if empty.
        image: key of the images that the page's charts begin with; none if empty.
        widths: of columns that come after the run's name in this order, in pixels; of others MLflow's own, mostly 100.
    """

    key: str
    name: str
    columns: tuple[str, ...]
    order_by: str = "attributes.start_time"
    search: str = ""
    image: str = ""
    widths: Mapping[str, int] = field(default_factory=dict)

    def tag(self) -> str:
        """The value of the experiment's tag."""
        widths = {RUN_NAME: 230, **self.widths}
        state = {
            "searchFilter": self.search,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "columnOrder": list(widths),  # the UI takes the widths of these alone
            "columnWidths": widths,
            **(self._chart() if self.image else {}),
        }
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        return json.dumps({"name": self.name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})

    def _chart(self) -> dict[str, Any]:
        """One chart with the images of all runs, and a slider; of itself the UI would hide them below the settings."""
        common = {"deleted": False, "isGenerated": False}
        section = {"uuid": "images", "name": self.name, "display": True, "isReordered": False, **common}
        chart = {"uuid": "image", "type": "IMAGE", "metricSectionId": "images", "imageKeys": [self.image], **common}
        return {
            "compareRunSections": [{**section, "columns": 1, "cardHeight": 600}],
            "compareRunCharts": [{**chart, "showRunParams": False, "runsCountToCompare": 10}],
        }


def _columns(kind: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{kind}.`{name}`" for name in names)


RESULTS = View(
    "results",
    "Test results",
    _columns("metrics", "test/dice", "test/lesion_f1", "test/volume_difference_ml")
    + _columns("tags", "dataset", "device")
    + _columns("attributes", "Version")
    + _columns("tags", "champion"),  # the attribute Dataset is 300 pixels wide
    # All fits a window of 1560 pixels: each heading whole, and of the verdict on the champion the part that matters.
    widths={
        "duration": 65,
        "attributes.`Version`": 75,
        "metrics.`test/dice`": 80,
        "metrics.`test/lesion_f1`": 100,
        "metrics.`test/volume_difference_ml`": 170,
        "tags.`dataset`": 100,
        "tags.`device`": 100,
        "tags.`champion`": 165,
    },
)
LOSS_AND_CRF = View(
    "loss-and-crf",
    "Loss and CRF",
    _columns("metrics", "test/dice", "validation/tuned_dice", "tuned/threshold", "tuned/min_lesion_ml")
    + _columns("metrics", "tuned/crf_used", "tuned/crf_weight_bilateral", "tuned/crf_theta_alpha_mm")
    + _columns("params", "cfg.loss.cross_entropy", "cfg.loss.dice", "cfg.training.learning_rate"),
    search="metrics.`tuned/threshold` >= 0",
)
TRIALS = View(
    "trials",
    "Search trials",
    _columns("metrics", "trial/value", "trial/network_dice", "trial/share_trained")
    + _columns("tags", "study", "outcome"),
    order_by="metrics.`trial/value`",
    search="tags.stage = 'trial'",
)
CASE_IMAGE = "validation/one case"
CASE = View(
    "case",
    "A validation case becoming better",
    (),
    order_by="metrics.`validation/best_dice`",  # by another column than time, the list is flat and shows children
    search="tags.stage = 'train'",
    image=CASE_IMAGE,
)
VIEWS = (RESULTS, LOSS_AND_CRF, TRIALS, CASE)


def set_up(experiment_id: str) -> None:
    """Give an experiment its kind, its description and its views; what somebody has set already stays."""
    client = mlflow.MlflowClient()
    known = client.get_experiment(experiment_id).tags
    wanted = {
        KIND: "custom_model_development",  # else its page opens with traces of language models
        NOTE: _note(experiment_id),
        **{f"{PREFIX}{view.key}": view.tag() for view in VIEWS},
    }
    for name, value in wanted.items():
        if not known.get(name):
            client.set_experiment_tag(experiment_id, name, value)


def _note(experiment_id: str) -> str:
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode="
    views = ", ".join(
        f"[{view.name}]({page}{'CHART' if view.image else 'TABLE'}&viewStateShareKey={view.key})" for view in VIEWS
    )
    return (
        f"3D stroke lesion segmentation. Open the list with the columns worth seeing: {views} "
        "(also under *Views* at the upper right).\n\n"
        "`main` is a whole experiment, with a child run for each stage: *train* (loss curves, a validation case "
        "becoming better), *postprocess* (threshold, smallest lesion and CRF, tuned on the validation cases) and "
        "*evaluate* (the test report). `search` is a study, with a child run for each trial, `crossvalidate` one with "
        "a child for each fold, which has these three in turn. Metrics are grouped by the cases they are measured on: "
        "`train/`, `validation/`, `test/` (all test cases; in `crossvalidate` all cases, out of fold), "
        "`test_lesion_cases/` (those with a lesion). Settings are the parameters `cfg.*`; `config.yaml` among the "
        "artifacts has them all."
    )
