"""The report's tables and curves as CSV and JSON files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

Summaries = Mapping[str, Mapping[str, pd.DataFrame]]


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], lesions: pd.DataFrame, summaries: Summaries) -> None:
    """Write per_case and lesions as CSV and JSON (a list of rows), and summary.csv."""
    per_case = pd.concat(tables, names=["variant", "row"]).reset_index("variant")
    for name, table in (("per_case", per_case), ("lesions", lesions)):
        table.to_csv(folder / f"{name}.csv", index=False)
        write_json(folder / f"{name}.json", table.to_dict("records"))
    groups = {group: pd.concat(variants, names=["variant"]) for group, variants in summaries.items()}
    pd.concat(groups, names=["group"]).to_csv(folder / "summary.csv")


def summaries_as_dict(summaries: Summaries) -> dict[str, Any]:
    """Group → variant → metric → its numbers."""
    return {
        group: {variant: table.to_dict("index") for variant, table in variants.items()}
        for group, variants in summaries.items()
    }


def write_json(path: Path, content: Any) -> None:
    """Strict JSON: null where a number is undefined."""
    text = json.dumps(_nan_as_none(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _nan_as_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_as_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_as_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
