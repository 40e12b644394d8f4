"""What each entry point can be told."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from mlproject.data.case import DataSettings
from mlproject.data.patches import PatchSettings
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.errors import SettingsError
from mlproject.network.architectures import NetworkSettings
from mlproject.network.losses import LossSettings
from mlproject.prediction.sliding_window import PredictionSettings
from mlproject.tracking.runs import TrackingSettings
from mlproject.training.settings import TrainingSettings
from mlproject.tuning.crf_search import CrfChoiceSettings, CrfSearchSettings
from mlproject.tuning.study import StudySettings


@dataclass(frozen=True)
class Experiment:
    """One experiment: data, model, training, postprocessing and tracking. One YAML in conf/ holds these.

    Attributes:
        work_dir: folder for what outlives a process: prepared cases, checkpoints, demo data.
        data: where the cases are and how they are split.
        preprocessing: grid and intensities.
        patches: what the network is trained on.
        network: its architecture.
        loss: what is minimised.
        training: the optimisation and its budget.
        prediction: the sliding window.
        crf_search: how threshold, smallest lesion and CRF are chosen on the validation cases.
        crf: whether the CRF that was found is used.
        tracking: names on the MLflow server.
    """

    work_dir: str = "~/.stroke-lesion"
    data: DataSettings = field(default_factory=DataSettings)
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    crf_search: CrfSearchSettings = field(default_factory=CrfSearchSettings)
    crf: CrfChoiceSettings = field(default_factory=CrfChoiceSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    @property
    def work_path(self) -> Path:
        """`work_dir`, absolute."""
        return Path(self.work_dir).expanduser().absolute()

    @property
    def cache_path(self) -> Path:
        """Where prepared cases are kept."""
        return self.work_path / "cache"

    def run_path(self, run_id: str) -> Path:
        """Where a run's checkpoints are kept."""
        return self.work_path / "runs" / run_id

    def resolved(self) -> Self:
        """The same with absolute paths, which mean the same from any folder, and a place for the demo's cases."""
        data = self.data
        if data.layout == "demo" and not data.root:
            data = replace(data, root=str(self.work_path / "demo"))
        if data.root:
            data = replace(data, root=str(data.root_path))
        if data.split_file is not None:
            data = replace(data, split_file=str(Path(data.split_file).expanduser().absolute()))
        return replace(self, work_dir=str(self.work_path), data=data)


@dataclass(frozen=True)
class SearchSettings(Experiment):
    """Search the settings with which the whole chain (network, threshold, CRF) is best on the validation cases.

    Attributes:
        search: the study and its space.
    """

    search: StudySettings = field(default_factory=StudySettings)


@dataclass(frozen=True)
class PostprocessSettings(Experiment):
    """Tune threshold, smallest lesion and CRF of a trained run on its own validation cases.

    Attributes:
        run: id of the training run (or of the `main` run around it).
    """

    run: str = ""

    def __post_init__(self) -> None:
        if not self.run:
            raise SettingsError("run is empty: give the id of a training run, for instance run=5f3c...")


@dataclass(frozen=True)
class EvaluateSettings(Experiment):
    """Measure a model on the labelled cases of a data set.

    Attributes:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model or a folder.
        cases: unseen leaves out the cases that the model was trained or tuned on; all keeps them.
    """

    model: str = ""
    cases: Literal["unseen", "all"] = "unseen"

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model is empty: give a model, for instance model=models:/stroke-lesion@champion")


@dataclass(frozen=True)
class PredictSettings:
    """Segment one case with a model, in the way the server does.

    Attributes:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model or a folder.
        images: the file of each channel, as images.dwi FILE.
        output: the mask's file; its ending gives the format.
        probability: the probability's file; none if empty.
        threshold: probability from which a voxel is lesion; the tuned one if null.
        crf: use the model's CRF.
        overwrite: replace files that exist.
    """

    model: str = ""
    images: dict[str, str] = field(default_factory=dict)
    output: str = ""
    probability: str = ""
    threshold: float | None = None
    crf: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        missing = [name for name in ("model", "images", "output") if not getattr(self, name)]
        if missing:
            raise SettingsError(
                f"not given: {', '.join(missing)}. An example: --model models:/stroke-lesion@champion "
                "--images.dwi dwi.nii.gz --images.adc adc.nii.gz --output mask.nii.gz"
            )
