"""--help: every setting of every stage with its type, default and meaning, within the terminal's width."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from mlproject import cli, config, usage


@dataclass(frozen=True)
class Loss:
    """What is minimised.

    Attributes:
        dice, cross_entropy: weight of the term.
        kind: soft takes probabilities,
            hard masks.
    """

    dice: float = 1.0
    cross_entropy: float = 0.5
    kind: Literal["soft", "hard"] = "soft"


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        channels: images of a case.
        loss: what is minimised.
    """

    channels: tuple[str, ...] = ("dwi", "adc")
    loss: Loss = field(default_factory=Loss)


@dataclass(frozen=True)
class Settings(Base):
    """Measure something.

    Attributes:
        model: which one.
        threshold: probability from which a voxel is lesion; the tuned one if null.
    """

    model: str = ""
    threshold: float | None = None


def test_name_type_default_and_meaning() -> None:
    assert {s.name: (s.kind, s.default, s.meaning) for s in usage.settings_of(Settings)} == {
        "channels": ("[text, ...]", "[dwi, adc]", "images of a case."),
        "model": ("text", "", "which one."),
        "threshold": ("float or null", "null", "probability from which a voxel is lesion; the tuned one if null."),
        "loss.dice": ("float", "1.0", "weight of the term."),
        "loss.cross_entropy": ("float", "0.5", "weight of the term."),
        "loss.kind": ("soft|hard", "soft", "soft takes probabilities, hard masks."),
    }


@pytest.mark.parametrize("stage", cli.STAGES)
def test_every_setting_of_every_stage_is_explained(stage: str) -> None:
    settings = getattr(import_module("mlproject.stages.settings"), cli.STAGES[stage][1])
    shown = {setting.name: setting for setting in usage.settings_of(settings)}
    assert {name for name, _ in config.leaves(settings) if config.is_taken(settings, name)} <= set(shown)
    assert [setting.name for setting in shown.values() if not setting.meaning] == []


@pytest.mark.parametrize("width", [70, 80, 120])
def test_help_keeps_to_the_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["search", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--search.trials  int   default: 40" in printed and "--training.steps" in printed
    assert not [line for line in printed.splitlines() if len(line) > width and " " in line.strip()]


def test_overview_says_all_that_a_new_user_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    words = [*cli.STAGES, *usage.OPTIONS, "MLFLOW_TRACKING_URI", "STROKE_LESION_STUDY_DATABASE", "128 + n"]
    assert [word for word in words if word not in printed] == []
    assert len(re.findall(r"python src/run\.py [a-z]+ --", printed)) == 3


def test_options_are_those_of_the_command_line() -> None:
    assert {name.removeprefix("--") for name in usage.OPTIONS} == set(cli.Options.__dataclass_fields__)


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "--training.stepz", "3"]])
def test_help_and_refused_settings_do_not_wait_for_the_heavy_libraries(arguments: list[str]) -> None:
    source = Path(cli.__file__).parents[1]
    script = (
        f"import sys; sys.path.insert(0, {str(source)!r}); from mlproject import cli; code = cli.main({arguments}); "
        "assert not {'torch', 'mlflow', 'monai', 'torchio'} & set(sys.modules), code"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
