"""Which version of a registered model is the champion: the alias moves on evidence only."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from nibabel.nifti1 import Nifti1Image

from mlproject.data.cases import Case
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError, ModelError
from mlproject.evaluation.metrics import case_metrics
from mlproject.evaluation.statistics import PairedDifference, paired_difference
from mlproject.prediction.segmenter import digests_of
from mlproject.tracking.local_model import LocalModel
from mlproject.tracking.registry import CHAMPION, fetch, read_description

SECONDS_TO_CLAIM, SECONDS_TO_SETTLE = 10.0, 1.0


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a version became champion, and why.

    Attributes:
        moved: the alias points to the new version now.
        reason: one sentence.
        difference: Dice of the new version minus Dice of the champion, paired by case; None without a comparison.
        table: Dice of both, a row a case.
    """

    moved: bool
    reason: str
    difference: PairedDifference | None = None
    table: pd.DataFrame | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the run's artifacts; what is undefined is None."""
        difference = asdict(self.difference) if self.difference else {}
        defined = {name: None if math.isnan(value) else value for name, value in difference.items()}
        return {"moved": self.moved, "reason": self.reason, "difference": defined or None}


def challenge(name: str, version: int, cases: Sequence[tuple[Case, PreparedCase]]) -> Verdict:
    """Let a new version challenge the champion on those of the labelled cases that neither has seen.

    Each runs in a process of its own, with the code logged with it. The alias moves where the lower end of
    the 95 % bootstrap interval of the paired Dice difference is above zero; the first version becomes
    champion at once. Where another version has become champion meanwhile, it is challenged in turn.
    """
    client = mlflow.MlflowClient()
    _let_older_ones_first(name, version)
    verdict = Verdict(moved=False, reason=f"version {version} is the champion already")
    while (holder := _holder(name)) != version:
        verdict = Verdict(moved=True, reason=f"version {version} is the first champion of {name}")
        if holder:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                verdict = _compare(name, version, holder, cases, Path(folder))
        if not verdict.moved:
            break
        if _holder(name) == holder:  # else another challenger came between: that one is to be beaten
            client.set_registered_model_alias(name, CHAMPION, str(version))
            # MLflow sets an alias whatever it was. Who did so at the same moment has seen the same champion, and is
            # seen here: one of the two looks again, and challenges the other.
            time.sleep(SECONDS_TO_SETTLE)
    return verdict


def _holder(name: str) -> int:
    """The version that is champion; 0 where none is."""
    return int(mlflow.MlflowClient().get_registered_model(name).aliases.get(CHAMPION, 0))


def _let_older_ones_first(name: str, version: int) -> None:
    """Wait until there is a champion, or SECONDS_TO_CLAIM: runs may end together, the oldest version is the first."""
    until = time.monotonic() + (SECONDS_TO_CLAIM if version > 1 else 0)
    while not _holder(name) and time.monotonic() < until:
        time.sleep(0.5)


def _compare(name: str, version: int, holder: int, cases: Sequence[tuple[Case, PreparedCase]], folder: Path) -> Verdict:
    models = {v: fetch(f"models:/{name}/{v}", folder / f"version-{v}") for v in (version, holder)}
    # Not through ModelDescription: each may be of another format, which its own code alone reads.
    described = {v: read_description(path) for v, path in models.items()}
    seen = {digest for description in described.values() for digest in description["seen"]}
    needed = {channel for description in described.values() for channel in description["channels"]}
    unseen = [
        (case, prepared)
        for case, prepared in cases
        if not digests_of([prepared]) & seen and all(_takes(description, case) for description in described.values())
    ]
    if not unseen:
        return Verdict(
            moved=False,
            reason=f"version {holder} stays champion: there is no case with a label and the channels "
            f"{', '.join(sorted(needed))} that neither it nor version {version} has been trained or tuned on",
        )
    dice = {v: _dice_of(models[v], unseen, folder / f"answers-{v}") for v in models}
    table = pd.DataFrame({"case": [c.name for c, _ in unseen], "champion": dice[holder], "challenger": dice[version]})
    difference = paired_difference(np.array(dice[holder]), np.array(dice[version]))
    moved = difference.low > 0
    interval = (
        "too few to judge"
        if math.isnan(difference.low)
        else f"95 % interval {difference.low:+.4f} to {difference.high:+.4f}"
    )
    reason = (
        f"version {version} {'becomes champion in place of' if moved else 'does not replace'} version {holder}: "
        f"mean Dice difference {difference.mean:+.4f} on {difference.cases} case(s), {interval}"
    )
    return Verdict(moved, reason, difference, table)


def _takes(description: Mapping[str, Any], case: Case) -> bool:
    """Whether a model that describes itself so segments the case: it may lack what is zero to the model."""
    channels = description["channels"]
    if description.get("missing", "refuse") == "zero":
        return channels[0] in case.images and set(channels) <= set(case.channels)
    return set(channels) <= set(case.images)


def _dice_of(model: Path, cases: Sequence[tuple[Case, PreparedCase]], folder: Path) -> list[float]:
    dice = []
    with LocalModel(model) as running:
        for case, prepared in cases:
            asked = replace(case, images={c: case.images[c] for c in running.channels if c in case.images})
            answers = folder / case.name
            answers.mkdir(parents=True)
            try:
                mask = np.asarray(Nifti1Image.from_filename(running.segment(asked, {}, answers).mask).dataobj)
            except DataError as error:
                raise ModelError(f"the champion's rule cannot be applied: case {case.name}: {error}") from error
            assert prepared.native_label is not None
            dice.append(case_metrics(prepared.native_label, mask, prepared.geometry.native_spacing_mm)["dice"])
    return dice
