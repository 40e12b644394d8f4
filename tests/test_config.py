from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mlproject import config
from mlproject.errors import SettingsError


@dataclass(frozen=True)
class Loss:
    dice: float = 1.0
    kind: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        if self.dice < 0:
            raise SettingsError(f"loss.dice must be at least 0, got {self.dice}")


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    spacing_mm: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ("dwi",)
    images: dict[str, str] = field(default_factory=dict)
    loss: Loss = field(default_factory=Loss)


def load(*arguments: str, folder: Path = Path()) -> Settings:
    return config.load(Settings, arguments, [folder], "main")


def test_file_first_command_line_over_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 3\nloss:\n  dice: 0.5\n  kind: hard\n")
    # As MLflow appends an undeclared -P: after what the entry point's command gives.
    found = load("--config", "a.yaml", "--loss.dice", "0.7", folder=tmp_path)
    assert found == Settings(seed=3, loss=Loss(0.7, "hard"))
    assert load("--loss.dice", "0.7", "--config", "a.yaml", folder=tmp_path) == found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--loss.dice=1e-3"], Settings(loss=Loss(0.001))),
        (["--spacing_mm", "[2, 2, 2.5]"], Settings(spacing_mm=(2.0, 2.0, 2.5))),
        (["--channels", "[dwi, adc]"], Settings(channels=("dwi", "adc"))),
        (["--images.dwi", "a b.nii", "--images.adc", "c"], Settings(images={"dwi": "a b.nii", "adc": "c"})),
    ],
)
def test_values(arguments: list[str], expected: Settings) -> None:
    assert load(*arguments) == expected


@dataclass(frozen=True)
class Switches:
    force: bool = False
    crf: bool | None = None
    seed: int = 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--force"], Switches(force=True)),
        (["--force", "--seed", "3"], Switches(force=True, seed=3)),
        (["--seed", "3", "--force"], Switches(force=True, seed=3)),
        (["--force", "--crf"], Switches(force=True, crf=True)),
        (["--force", "false", "--crf=true"], Switches(crf=True)),
        (["--crf", "null"], Switches()),
    ],
)
def test_a_truth_value_without_a_value_is_true(arguments: list[str], expected: Switches) -> None:
    assert config.load(Switches, arguments, [], "main") == expected


def test_negative_value_is_not_taken_for_an_option() -> None:
    with pytest.raises(SettingsError, match=r"loss\.dice must be at least 0, got -0\.001"):
        load("--loss.dice", "-1e-3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss.dise", "1"], r"'loss\.dise' \(on the command line\): did you mean 'loss\.dice'"),
        (["--dice", "1"], r"did you mean 'loss\.dice'"),
        (["--qqqq", "1"], "valid names: seed"),
        (["--seed", "1.5"], "seed: expected int, got 1.5"),
        (["--loss.kind", "medium"], r"loss\.kind: expected Literal\['soft', 'hard'\], got medium"),
        (["--config", "none.yaml"], "no configuration file 'none.yaml'"),
        (["seed=3"], "'seed=3' is not a setting"),
        (["--seed"], "seed"),
    ],
)
def test_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        load(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss:\n  dise: 1\n", r"'loss\.dise' \(in .*a\.yaml\): did you mean 'loss\.dice'"),
        ("- 1\n", "must hold settings"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load("--config", "a.yaml", folder=tmp_path)


def test_dump_is_read_back(tmp_path: Path) -> None:
    settings = Settings(7, (1.0, 2.0, 3.0), ("a", "b"), {"a": "x y"}, Loss(0.25, "hard"))
    (tmp_path / "a.yaml").write_text(config.dump(settings))
    assert load("--config", "a.yaml", folder=tmp_path) == settings
    assert config.from_tree(Settings, config.to_tree(settings), "here") == settings


def test_flatten() -> None:
    flat = config.flatten(config.to_tree(Settings(images={"dwi": "x"})))
    assert flat == {
        "seed": 0,
        "spacing_mm": None,
        "channels": ["dwi"],
        "images.dwi": "x",
        "loss.dice": 1.0,
        "loss.kind": "soft",
    }
