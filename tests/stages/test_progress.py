"""How far a step is: lines now and then without a terminal, a bar that fits on one, and the time left."""

import io

import pytest
from rich.console import Console

from mlproject.stages import progress
from mlproject.training.progress import Epoch, Progress, Validating


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its first place."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_short_step_prints_nothing_and_a_long_one_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress.track("reading", range(10), 10):
        clock[0] += 1
    assert capsys.readouterr().out == ""
    for _ in progress.track("reading", range(10), 10):
        clock[0] += 10
    assert capsys.readouterr().out.splitlines() == [
        f"reading  {done}0%, {left} left: {done} of 10"
        for done, left in ((2, "1:20"), (4, "1:00"), (6, "0:40"), (8, "0:20"))
    ]


def test_hours_print_few_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.track("training", range(10_000), 10_000):
        clock[0] += 10
    assert 40 < len(capsys.readouterr().out.splitlines()) < 100


def test_items_pass_and_an_error_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "console", screen)
    assert list(progress.track("reading", "abc", 3)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="bad"), progress.display("reading"):
        raise ValueError("bad")
    with progress.display("another"):  # two bars at once are refused by rich
        pass


@pytest.mark.parametrize("width", [40, 80])
def test_a_bar_has_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=width, color_system=None))
    with progress.training_display("training") as display:
        display.show(Progress(1200, 0.5, 0.4123, 12.3, 3725))
        display.shown.bar.refresh()  # type: ignore[union-attr]
    frames = [frame for frame in file.getvalue().split("\r") if "50 %" in frame]
    assert frames and all(len(frame.split("\x1b")[0].rstrip("\n")) <= width for frame in frames)
    assert "1:02:05 left" in frames[-1]


def test_a_fit_is_told_from_its_first_step_to_its_summary(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.training_display("trial 3") as display:
        for event in (
            Progress(10, 0.1, 0.9, 20.0, 90),
            Validating(20, 0.2, 2, 7),
            Epoch(1, 20, 0.2, (), 0.5, improved=True, stopped=False),
            Progress(30, 0.3, 0.8, 20.0, 70),
            Epoch(2, 40, 0.4, (), 0.4, improved=False, stopped=False),
            Progress(50, 0.5, 0.7, 20.0, 50),
        ):
            clock[0] += 20
            display.show(event)
    assert capsys.readouterr().out.splitlines() == [
        "trial 3  10%, 1:30 left: step 10, loss 0.900, not yet validated, 20.0 patches/s",
        "trial 3  20%, 1:30 left: step 20, validating, case 2 of 7",
        "trial 3  30%, 1:10 left: step 30, loss 0.800, Dice 0.500 (best), 20.0 patches/s",
        "trial 3  50%, 0:50 left: step 50, loss 0.700, Dice 0.400 (best 0.500), 20.0 patches/s",
        "trial 3: 50 steps, 2:00, best validation Dice 0.500",
    ]
