"""The curves of a run, as its server has them."""

from collections.abc import Mapping

import mlflow
import pandas as pd


def history(run_id: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Curves of a run as one table: `step`, and for each metric the column named for it, NaN where not measured."""
    client = mlflow.MlflowClient()
    curves = {
        column: pd.Series({p.step: p.value for p in client.get_metric_history(run_id, metric)}, dtype=float)
        for metric, column in columns.items()
    }
    return pd.DataFrame(curves).rename_axis("step").reset_index()


def moments(run_id: str, metric: str) -> pd.Series:
    """When each step (index) of a metric was measured, in seconds since 1970."""
    points = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return pd.Series({point.step: point.timestamp / 1000 for point in points}, dtype=float).sort_index()
