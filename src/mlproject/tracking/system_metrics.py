"""The machine's load as metrics of a run."""

# mypy: allow-untyped-calls

import logging
import time
from collections.abc import Callable, Mapping

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from mlproject.errors import UserError
from mlproject.training.progress import Point

logger = logging.getLogger(__name__)


class SystemMetrics(SystemMetricsMonitor):
    """MLflow's sampler, whose samples go the way of all that is logged.

    Its own way asks the server after every sample, and ends for good where that does not answer.
    """

    def __init__(self, run_id: str, log: Callable[[Point], None], go_on: bool) -> None:
        """Sample for a run; `go_on`: it has samples already, whose steps are counted on."""
        super().__init__(run_id, resume_logging=go_on)
        self._log = log

    def monitor(self) -> None:
        """Sample until `finish`."""
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                self._shutdown_event.wait(self.sampling_interval)
            try:
                self.publish_metrics(self.aggregate_metrics())
            except UserError as error:  # a full disk
                logger.warning("the machine's load is not logged any more: %s", error)
                return

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log one sample."""
        named = {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}
        self._log(Point(self._logging_step, time.time_ns() // 1_000_000, named))
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
