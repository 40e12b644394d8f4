"""What a case is, and the settings that say where cases are and how they are split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlproject.errors import DataError, SettingsError

SplitName = Literal["train", "validation", "test"]
TABLE_COLUMNS = ("case", "label", "split", "patient")


@dataclass(frozen=True)
class Case:
    """One scan of one patient, as files on disk.

    Attributes:
        name: unique in its data set; also the name of what is written about the case.
        images: file of each channel, in the order of `DataSettings.channels`.
        label: file of the lesion mask, or None.
        patient: whom the scan shows; all of a patient's cases go to the same part of a split.
        split: the part that the data set itself assigns, or None.
    """

    name: str
    images: dict[str, Path]
    label: Path | None
    patient: str
    split: SplitName | None = None


@dataclass(frozen=True)
class DataSettings:
    """Where the cases are and how they are split into train, validation and test.

    Attributes:
        layout: how the files are named: demo, isles2022, nnunet (raw format) or table (a CSV file).
        root: folder of the data set, or the CSV file of the layout table; demo writes its cases there.
        channels: images of each case; the first is the reference, whose grid is the case's own grid.
        split_file: CSV with the columns case and split (train, validation or test); overrides the shares.
        validation_share: share of the patients that choose the checkpoint, the threshold and the CRF.
        test_share: share of the patients that only the evaluation sees.
        split_seed: another seed deals the patients out in another way.
        demo_cases: how many cases the layout demo makes.
    """

    layout: Literal["demo", "isles2022", "nnunet", "table"] = "isles2022"
    root: str = ""
    channels: tuple[str, ...] = ("dwi", "adc")
    split_file: str | None = None
    validation_share: float = 0.15
    test_share: float = 0.2
    split_seed: int = 0
    demo_cases: int = 24

    def __post_init__(self) -> None:
        folded = [channel.casefold() for channel in self.channels]
        if not folded or "" in folded or len(set(folded)) < len(folded):
            raise SettingsError(
                f"data.channels={list(self.channels)}: give one name or more, each once (upper and lower "
                "case are the same), for example [dwi, adc]"
            )
        if taken := [channel for channel in self.channels if channel.casefold() in TABLE_COLUMNS]:
            raise SettingsError(f"data.channels={list(self.channels)}: {taken[0]} is no image; leave it out")
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"data.{name}={getattr(self, name)}: give a share between 0 and 1, as 0.2")
        if not self.validation_share + self.test_share < 1:
            raise SettingsError(
                f"data.validation_share={self.validation_share} and data.test_share={self.test_share} leave "
                "nothing to train on: their sum must be below 1"
            )
        if self.split_seed < 0:
            raise SettingsError(f"data.split_seed={self.split_seed}: give 0 or more")
        if self.demo_cases < 6:
            raise SettingsError(
                f"data.demo_cases={self.demo_cases}: give 6 or more, so that each part can have a lesion"
            )

    @property
    def root_path(self) -> Path:
        """`root` as an absolute path; `~` is the home folder."""
        return Path(self.root).expanduser().absolute()


def refuse_faults(where: Path, faults: Sequence[str], rule: str) -> None:
    """Raise one DataError with all `faults` found in `where` and the `rule` they break, if there is any."""
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError("\n  ".join([f"{where}: {count}. {rule}", *faults]))
