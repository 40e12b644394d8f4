"""How a whole volume is predicted. Imports nothing heavy, so that --help is quick."""

import re
from dataclasses import dataclass

from mlproject.errors import SettingsError


@dataclass(frozen=True)
class PredictionSettings:
    """How a whole volume is predicted window by window.

    Attributes:
        overlap: Share of a window's side that the next one covers again, 0 to 0.9; more is smoother, slower.
        mirror: Average over the 8 mirrored copies of each window (test-time augmentation); 8 times slower.
        window_batch: Windows in one pass of the network; 2 suits a CPU, more a GPU, at the price of memory.
        device: Where the network runs: auto (a GPU if there is one), cpu, cuda, or cuda:N.
    """

    overlap: float = 0.5
    mirror: bool = False
    window_batch: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.9:
            raise SettingsError(f"overlap is {self.overlap}: it must be 0 to 0.9; 0.5 is a good value")
        if self.window_batch < 1:
            raise SettingsError(f"window_batch is {self.window_batch}: it must be at least 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise SettingsError(f"device is {self.device!r}: it must be auto, cpu, cuda, or cuda:N (as in cuda:0)")
