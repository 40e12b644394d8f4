"""What a case is, and the settings that say where cases are and how they are split."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal, Self

from mlproject.data.objects import SCHEME, BucketObject, state_of
from mlproject.data.storage import is_s3
from mlproject.errors import DataError, SettingsError

SplitName = Literal["train", "validation", "test"]
LayoutName = Literal["demo", "isles2017", "isles2022", "atlas", "bids", "nnunet", "msd", "folders", "table"]
Missing = Literal["refuse", "zero"]
LONGEST_CHANNEL, LONGEST_NAME = 60, 200  # bytes; what is written beside a case's name makes up to 255
ODD_KINDS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's kinds of control characters, of bytes that are no UTF-8, and of line breaks."""
TABLE_COLUMNS = ("case", "label", "split", "patient")


def is_plain(name: str, longest: int) -> bool:
    """Whether a name can be that of a file in any folder, and a word of any text, within so many bytes."""
    odd = any(unicodedata.category(character) in ODD_KINDS or character in "/\\" for character in name)
    return not odd and not name.startswith((".", "-")) and 0 < len(name.encode()) <= longest


@dataclass(frozen=True)
class Case:
    """One scan of one patient, as files on disk.

    Attributes:
        name: unique in its data set; also the name of what is written about the case.
        images: file of each channel, in the order of `DataSettings.channels`.
        label: file of the lesion mask, or None.
        patient: whom the scan shows; all of a patient's cases go to the same part of a split.
        split: the part that the data set itself assigns, or None.
        components: which volume of a 4-D file a channel is, from 0; a channel that is not named has a 3-D file.
        missing: channels that the case lacks (`DataSettings.missing`); they are not in `images`.
        order: all channels in their order, those that are missing too; () means those of `images`.
        lesion_labels: values of the label that are lesion; None means that it holds 0 and 1 alone.
        submission: stem of the file name that the data set's challenge wants for this case's mask, or "".
        no_submission: why there is no such name, where the data set's challenge wants one; or "".
        label_kind: what the label's file is called beside the case's name, where the layout finds it by that; or "".
        own_name: what the data set calls the case, where `name` is a pseudonym; or "".
        objects: of a case in a bucket: the object that each of its files is a copy of, here only once it is fetched,
            and the objects that belong to it (a.img to a.hdr).
        patient_named: whether the data set says whom the scan shows; else the case counts as a patient of its own.
    """

    name: str
    images: dict[str, Path]
    label: Path | None
    patient: str
    split: SplitName | None = None
    components: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    lesion_labels: tuple[int, ...] | None = None
    submission: str = ""
    no_submission: str = ""
    label_kind: str = ""
    own_name: str = ""
    objects: dict[Path, tuple[BucketObject, ...]] = field(default_factory=dict)
    patient_named: bool = True

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels in their order, those that are missing too."""
        return self.order or tuple(self.images)

    @property
    def places_of_missing(self) -> dict[str, int]:
        """The channels that the case lacks, and where among `channels` they would be."""
        return {name: place for place, name in enumerate(self.channels) if name in self.missing}

    @property
    def states_of_images(self) -> set[str]:
        """The states of the objects that the images are copies of: equal states are equal images."""
        return {state_of(self.objects[file]) for file in self.images.values() if file in self.objects}

    def said(self, text: str) -> str:
        """A text about the case's files, as it is to be told: about the objects that they are copies of."""
        for file, objects in self.objects.items():
            text = text.replace(str(file), objects[0].uri)
        return text


@dataclass(frozen=True)
class DataSettings:
    """Where the cases are and how they are split into train, validation and test.

    Attributes:
        layout: how the files are named: demo, isles2017, isles2022, atlas, bids, nnunet (raw format), msd, folders
            (one a case, or CASE_channel files) or table (a CSV file); docs/data.md shows the tree of each.
        root: folder of the data set, or the CSV file of the layout table, here or as s3://BUCKET/PREFIX; demo writes
            its cases there.
        channels: images of each case; the first is the reference, whose grid is the case's own grid.
        missing: what to do with a case that lacks a channel other than the first: refuse, or zero, which makes
            the channel 0 everywhere, the mean of z-scores.
        lesion_labels: values of the label that are lesion, as [1, 3]; null refuses labels that hold more than 0 and 1.
        label_name: what the label's file is called, where several could be it (layouts bids, atlas and folders).
        split_file: CSV with the columns case and split (train, validation or test); overrides the shares.
        validation_share: share of the patients that choose the checkpoint, the threshold and the CRF.
        test_share: share of the patients that only the evaluation sees.
        folds: cross-validation: the patients are dealt out into so many parts, and `fold` is the one to test on, in
            place of test_share; 0 for none.
        fold: which one, 0 to folds - 1.
        split_seed: another seed deals the patients out in another way.
        demo_cases: how many cases the layout demo makes.
        copies_gb: of a data set in a bucket: how many GB (10^9 bytes) the copies of objects may take in work_dir. Those
            that were not used for the longest time make room, never those that a command at work needs.
    """

    layout: LayoutName = "isles2022"
    root: str = ""
    channels: tuple[str, ...] = ("dwi", "adc")
    missing: Missing = "refuse"
    lesion_labels: tuple[int, ...] | None = None
    label_name: str | None = None
    split_file: str | None = None
    validation_share: float = 0.15
    test_share: float = 0.2
    folds: int = 0
    fold: int = 0
    split_seed: int = 0
    demo_cases: int = 24
    copies_gb: float = 200.0

    def __post_init__(self) -> None:
        if is_s3(self.root) and self.layout == "demo":
            raise SettingsError(f"data.root={self.root}: demo writes its cases into a folder of this machine; give one")
        if is_s3(self.root) and not self.root[len(SCHEME) :].partition("/")[0]:
            raise SettingsError(f"data.root={self.root} names no bucket: write s3://BUCKET/PREFIX")
        if self.split_file is not None and is_s3(self.split_file):
            raise SettingsError(f"data.split_file={self.split_file}: give a file of this machine; fetch it first")
        if not self.copies_gb > 0:
            raise SettingsError(f"data.copies_gb={self.copies_gb:g}: give a number of GB above 0, as 200")
        folded = [channel.casefold() for channel in self.channels]
        if not folded or "" in folded or len(set(folded)) < len(folded):
            raise SettingsError(
                f"data.channels={list(self.channels)}: give one name or more, each once (upper and lower "
                "case are the same), for example [dwi, adc]"
            )
        if taken := [channel for channel in self.channels if channel.casefold() in TABLE_COLUMNS]:
            raise SettingsError(f"data.channels={list(self.channels)}: {taken[0]} is no image; leave it out")
        if odd := [channel for channel in self.channels if not is_plain(channel, LONGEST_CHANNEL)]:
            raise SettingsError(
                f"data.channels: {odd[0]!r} cannot be the name of a column and of a file: give at most "
                f"{LONGEST_CHANNEL} bytes without slashes and line breaks, and no dot or dash at the beginning"
            )
        if self.lesion_labels is not None and (not self.lesion_labels or min(self.lesion_labels) < 1):
            raise SettingsError(
                f"data.lesion_labels={list(self.lesion_labels)}: give whole numbers above 0 (0 is background), as "
                "[1, 3], or null where the label holds 0 and 1 alone"
            )
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"data.{name}={getattr(self, name)}: give a share between 0 and 1, as 0.2")
        if not self.validation_share + self.test_share < 1:
            raise SettingsError(
                f"data.validation_share={self.validation_share} and data.test_share={self.test_share} leave "
                "nothing to train on: their sum must be below 1"
            )
        if self.folds < 0 or self.folds == 1:
            raise SettingsError(f"data.folds={self.folds}: give 2 or more, 5 for example, or 0 for no cross-validation")
        if not 0 <= self.fold < max(self.folds, 1):
            raise SettingsError(f"data.fold={self.fold}: give 0 to data.folds - 1 = {max(self.folds, 1) - 1}")
        if self.folds and self.split_file is not None:
            raise SettingsError(
                f"data.folds={self.folds} and data.split_file={self.split_file}: the file says which cases to test on "
                "already; set one of the two, the other to 0 or null"
            )
        if self.split_seed < 0:
            raise SettingsError(f"data.split_seed={self.split_seed}: give 0 or more")
        if self.demo_cases < 6:
            raise SettingsError(
                f"data.demo_cases={self.demo_cases}: give 6 or more, so that each part can have a lesion"
            )

    @property
    def root_path(self) -> Path:
        """`root`, of this machine, as an absolute path; `~` is the home folder."""
        return Path(self.root).expanduser().absolute()

    @property
    def where(self) -> str:
        """`root` in full: an absolute path, or s3://BUCKET/PREFIX."""
        return f"{SCHEME}{self.root[len(SCHEME) :].strip('/')}" if is_s3(self.root) else str(self.root_path)

    @property
    def folder(self) -> str:
        """`where`, or where that is a table its folder."""
        is_table = self.layout == "table" if is_s3(self.root) else not self.root_path.is_dir()
        return self.where.rpartition("/")[0] if is_table else self.where

    @property
    def name(self) -> str:
        """What people call the data set: the last part of `root`."""
        return PurePath(self.where).name


def kinds_of_labels(cases: Iterable[Case]) -> dict[str, int]:
    """What the cases' labels are called, in how many cases each, most first; empty where names say nothing."""
    return dict(Counter(case.label_kind for case in cases if case.label_kind).most_common())


class Fault(str):
    """One line that says what is wrong with a case.

    Attributes:
        case: the case's name.
        text: what is wrong, without the name.
    """

    case: str
    text: str

    def __new__(cls, case: str, text: str, where: str = "") -> Self:
        """The line "CASE: TEXT", or "WHERE: TEXT" where the case stands in a line of a table."""
        line = super().__new__(cls, f"{where or case}: {text}")
        line.case, line.text = case, text
        return line


class FaultsError(DataError):
    """Some of a data set's cases cannot be found whole.

    Attributes:
        faults: one line each; a `Fault` where a layout says what is wrong with one case.
        sound: the cases without a fault.
    """

    def __init__(self, text: str, faults: Sequence[str], sound: Sequence[Case]) -> None:
        super().__init__(text)
        self.faults, self.sound = tuple(faults), tuple(sound)


class NoCasesError(DataError):
    """The layout finds no case at all: the root or the layout may be the wrong one."""


def refuse_faults(where: Path | str, faults: Sequence[str], rule: str, sound: Sequence[Case] = ()) -> None:
    """Raise one FaultsError with all `faults` found in `where` and the `rule` they break, if there is any."""
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise FaultsError("\n  ".join([f"{where}: {count}. {rule}", *faults]), faults, sound)
