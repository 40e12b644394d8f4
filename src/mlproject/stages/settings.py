"""What each entry point can be told."""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from mlproject.data.case import DataSettings, LayoutName
from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.errors import SettingsError
from mlproject.network.settings import LossSettings, NetworkSettings
from mlproject.prediction.settings import PredictionSettings
from mlproject.stages.paper.settings import PaperSettings
from mlproject.tracking.settings import TrackingSettings
from mlproject.training.settings import TrainingSettings
from mlproject.tuning.crf_settings import CrfChoiceSettings, CrfSearchSettings
from mlproject.tuning.study import StudySettings

SPOOL = "spool"


@dataclass(frozen=True)
class InWorkDir:
    """What works in work_dir.

    Attributes:
        work_dir: folder for what outlives a process: prepared cases, copies from buckets, checkpoints, demo data, and
            what waits for the MLflow server.
    """

    work_dir: str = "~/.stroke-lesion"

    @property
    def work_path(self) -> Path:
        """`work_dir`, absolute."""
        return Path(self.work_dir).expanduser().absolute()

    @property
    def cache_path(self) -> Path:
        """Where prepared cases are kept, and copies of a bucket's objects."""
        return self.work_path / "cache"

    @property
    def spool_path(self) -> Path:
        """Where what runs have logged waits for the server."""
        return self.work_path / SPOOL


@dataclass(frozen=True)
class Experiment(InWorkDir):
    """One experiment: data, model, training, postprocessing and tracking. One YAML in conf/ holds these.

    Attributes:
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

    def run_path(self, run_id: str) -> Path:
        """Where a run's checkpoints are kept."""
        return self.work_path / "runs" / run_id

    def resolved(self) -> Self:
        """The same with absolute paths, which mean the same from any folder, and a place for the demo's cases."""
        data = self.data
        if data.layout == "demo" and not data.root:
            data = replace(data, root=str(self.work_path / "demo"))
        if data.root:
            data = replace(data, root=data.where)
        if data.split_file is not None:
            data = replace(data, split_file=str(Path(data.split_file).expanduser().absolute()))
        tracking = self.tracking
        if tracking.case_table is not None:
            tracking = replace(tracking, case_table=str(Path(tracking.case_table).expanduser().absolute()))
        return replace(self, work_dir=str(self.work_path), data=data, tracking=tracking)

    def alone(self) -> "Experiment":
        """The experiment without what a stage adds to it."""
        return Experiment(**{field.name: getattr(self, field.name) for field in fields(Experiment)})


@dataclass(frozen=True)
class DescribedData:
    """Where the data set is, and what is known of it.

    Attributes:
        root: folder of the data set, or the CSV file of the layout table, here or as s3://BUCKET/PREFIX.
        layout: how the files are named; null guesses from the files.
        channels: images of each case, the reference first; null takes those that most cases have, first the one on
            whose grid the labels lie.
        lesion_labels: values of the label that are lesion; null takes all but 0.
        label_name: what the label's file is called, where several could be it (layouts bids, atlas and folders).
        copies_gb: of a data set in a bucket: how many GB (10^9 bytes) the copies of objects may take in work_dir.
    """

    root: str = ""
    layout: LayoutName | None = None
    channels: tuple[str, ...] | None = None
    lesion_labels: tuple[int, ...] | None = None
    label_name: str | None = None
    copies_gb: float = DataSettings.copies_gb


@dataclass(frozen=True)
class DescribeSettings(InWorkDir):
    """Show what a data set holds before training, and write a configuration that fits it.

    Attributes:
        data: where the data set is, and what is known of it.
        output: YAML file for the proposed configuration, which must not exist; if empty, a new file in the current
            folder, named after the data set's folder.
        gpu_memory_gb: propose patches for a GPU with so much free memory, in GiB; null means this machine.
        processes: how many cases are read at a time, each by a process of its own; 0 is one a core, at most 8.
    """

    data: DescribedData = field(default_factory=DescribedData)
    output: str = ""
    gpu_memory_gb: float | None = None
    processes: int = 0

    def __post_init__(self) -> None:
        if self.gpu_memory_gb is not None and not 0 < self.gpu_memory_gb < 10_000:
            raise SettingsError(f"gpu_memory_gb={self.gpu_memory_gb:g}: give a size in GiB above 0, as 24, or null")
        if self.processes < 0:
            raise SettingsError(f"processes={self.processes}: give 1 or more, or 0 for one a core")


@dataclass(frozen=True)
class SearchSettings(Experiment):
    """Search the settings with which the whole chain (network, threshold, CRF) is best on the validation cases.

    Attributes:
        search: the study and its space.
    """

    search: StudySettings = field(default_factory=StudySettings)


@dataclass(frozen=True)
class ReproduceSettings(Experiment):
    """Test the paper's claims by experiments, each logged like every other run, and write down what came of them.

    Attributes:
        reproduce: the experiments and their budget.
    """

    reproduce: PaperSettings = field(default_factory=PaperSettings)

    def __post_init__(self) -> None:
        if self.training.steps is None:
            raise SettingsError("training.steps=null: `reproduce` compares trainings of as many steps; give a number")
        if self.training.nodes > 1 or self.training.resume:
            raise SettingsError(
                "`reproduce` trains on one machine: leave training.nodes and training.resume as they are; the same "
                "command goes on with what was stopped"
            )


@dataclass(frozen=True)
class CrossValidationSettings(Experiment):
    """Test every case once, by a network that has not seen it, and join the folds' networks into one model.

    Attributes:
        study: its name; a command with the same name and settings goes on with the study, another name begins one.
    """

    study: str = "crossvalidation"

    def __post_init__(self) -> None:
        if not self.data.folds:
            raise SettingsError("data.folds=0: `crossvalidate` needs the number of folds, as data.folds=5")
        if self.data.fold:
            raise SettingsError(f"data.fold={self.data.fold}: `crossvalidate` does all folds; leave it out")
        if self.training.nodes > 1:
            raise SettingsError(
                f"training.nodes={self.training.nodes}: `crossvalidate` trains on one machine; leave it at 1"
            )
        if not re.fullmatch(r"\w[\w.-]*", self.study):
            raise SettingsError(f"study={self.study!r}: give a name of letters, digits, dots and dashes")


@dataclass(frozen=True)
class PostprocessSettings(Experiment):
    """Tune threshold, smallest lesion and CRF of a trained run on its own validation cases.

    Attributes:
        run: id of the training run (or of the `main` run around it).
    """

    TAKES: ClassVar = (
        "run", "work_dir", "data.root", "data.copies_gb", "data.split_file", "prediction.device", "crf_search.", "crf.",
        "tracking.",
    )  # fmt: skip
    FIXED_BY: ClassVar = "the training run"

    run: str = ""

    def __post_init__(self) -> None:
        if not self.run:
            raise SettingsError("run is empty: give the id of a training run, for instance run=5f3c...")


@dataclass(frozen=True)
class EvaluateSettings(Experiment):
    """Measure a model on the labelled cases of a data set.

    Attributes:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, a run's id or a folder.
        compare: a second model, given in the same way: both are then compared on the cases that neither has seen.
        cases: unseen leaves out the cases that the model was trained or tuned on; all keeps them, and the
            report says how many they are.
    """

    TAKES: ClassVar = (
        "model", "compare", "cases", "work_dir", "data.layout", "data.root", "data.copies_gb", "data.lesion_labels",
        "data.label_name", "data.demo_cases", "prediction.device", "tracking.experiment", "tracking.case_names",
        "tracking.case_table", "tracking.system_metrics", "tracking.wait_s",
    )  # fmt: skip
    FIXED_BY: ClassVar = "the model"

    model: str = ""
    compare: str = ""
    cases: Literal["unseen", "all"] = "unseen"

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model is empty: give a model, for instance model=models:/stroke-lesion@champion")


@dataclass(frozen=True)
class ScanSettings:
    """Where the cases to segment are; their labels, if there are any, are not read.

    Attributes:
        layout: how the files are named; docs/data.md shows the tree of each layout.
        root: folder of the cases (the CSV file of the layout table), here or as s3://BUCKET/PREFIX.
        copies_gb: of a data set in a bucket: how many GB (10^9 bytes) the copies of objects may take in work_dir.
    """

    layout: LayoutName = "isles2022"
    root: str = ""
    copies_gb: float = DataSettings.copies_gb


@dataclass(frozen=True)
class CleanSettings(InWorkDir):
    """Show what work_dir holds and which of it no run needs any more; remove that where `remove` says so.

    Attributes:
        remove: remove what no run needs any more, and print each path before; false only shows it.
        older_than_days: days for which prepared cases, copies from buckets, probabilities, reports and demo data, which
            are made or fetched again where they are missing, must not have been used.
    """

    remove: bool = False
    older_than_days: float = 30.0

    def __post_init__(self) -> None:
        if not self.older_than_days >= 0:
            raise SettingsError(f"older_than_days={self.older_than_days}: give a number of days, 0 or more")


@dataclass(frozen=True)
class SyncSettings(InWorkDir):
    """Deliver what runs have logged while the MLflow server was gone; what it refused once is tried again."""


@dataclass(frozen=True)
class PredictSettings(InWorkDir):
    """Segment one case (`images`) or all cases of a folder (`data.root`) with a model, here or on a server.

    Attributes:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, a folder, or the http(s):// URL of a server.
        images: of one case: the file of each channel, as images.dwi FILE; here or as s3://BUCKET/KEY.
        data: of many cases: where they are.
        output: the mask's file, whose ending gives the format; of many cases the folder; here or s3://.
        probability: write the lesion probability, too, as NAME_probability beside the mask NAME.
        threshold: probability from which a voxel is lesion, between 0 and 1; the tuned one if null.
        crf: use the model's CRF.
        naming: how masks of many cases are called: case is CASE.nii.gz; submission is the name that the data
            set's challenge wants (layout isles2017).
        force: replace files that exist, and do again what another model or other settings made.
        parallel: requests that a server gets at once.
        timeout_s: seconds that a server has for one case.
    """

    model: str = ""
    images: dict[str, str] = field(default_factory=dict)
    data: ScanSettings = field(default_factory=ScanSettings)
    output: str = ""
    probability: bool = False
    threshold: float | None = None
    crf: bool = True
    naming: Literal["case", "submission"] = "case"
    force: bool = False
    parallel: int = 1
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        given = {"model": self.model, "images or data.root": self.images or self.data.root, "output": self.output}
        if missing := [name for name, value in given.items() if not value]:
            raise SettingsError(
                f"not given: {', '.join(missing)}. An example: --model models:/stroke-lesion@champion "
                "--images.dwi dwi.nii.gz --images.adc adc.nii.gz --output mask.nii.gz, or, for a folder of cases, "
                "--data.root CASES --data.layout isles2022 --output MASKS in place of images and output"
            )
        if self.images and self.data.root:
            raise SettingsError("both images and data.root are given: images is for one case, data.root for many")
        if self.images and self.naming != "case":
            raise SettingsError(f"naming={self.naming} is for the masks of data.root: leave it out with images")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise SettingsError(f"threshold={self.threshold}: give a probability between 0 and 1, both excluded")
        if self.parallel < 1 or (self.parallel > 1 and not self.on_server):
            raise SettingsError(
                f"parallel={self.parallel}: give 1 or more; more than 1 only where model is a server's URL"
            )
        if not self.timeout_s > 0:
            raise SettingsError(f"timeout_s={self.timeout_s}: give a number of seconds above 0")

    @property
    def on_server(self) -> bool:
        """Whether the model is behind a URL."""
        return self.model.lower().startswith(("http://", "https://"))
