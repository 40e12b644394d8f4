"""What `describe` shows: the data set in a few tables, readable at 80 columns and as plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlproject.stages.console import console, facts, heading, new_table
from mlproject.stages.describe_summary import Row

NAMES_SHOWN = 5
GRIDS_SHOWN = 3
BAR = 30


def show(summary: Row) -> None:
    """Print what `describe_summary.summarise` returned."""
    also = [layout for layout in summary["layouts_that_fit"] if layout != summary["layout"]]
    patients = "" if summary["patients"] == summary["cases"] else f" of {summary['patients']} patients"
    facts(
        {
            "data set": summary["root"],
            "layout": summary["layout"] + (f" ({', '.join(also)} would fit, too)" if also else ""),
            "cases": f"{summary['cases']} read{patients}, {summary['usable']} can be used for training",
            "channels": ", ".join(summary["channels_used"]),
            "others": _found_in(summary),
            "labels": ", ".join(f"{kind} (in {count})" for kind, count in summary["labels_called"].items()),
        }
    )
    if summary["grids"]["spacing_mm"]:
        _show_channels(summary["channels"], summary["channels_used"][0], summary["cases"])
        _show_grids(summary["grids"], summary["brain"])
    if any(summary["lesions"]["load_groups"].values()):
        _show_lesions(summary["lesions"], summary["label_values"])
    _show_remarks(summary["remarks"])
    _show_faults(summary["faults"])


def _found_in(summary: Row) -> str:
    used = {name.casefold() for name in summary["channels_used"]}
    others = {name: count for name, count in summary["channels_found"].items() if name.casefold() not in used}
    return ", ".join(f"{name} (in {count})" for name, count in others.items())


def _show_channels(channels: Mapping[str, Row], reference: str, cases: int) -> None:
    heading("Channels: intensities in the brain, medians over the cases")
    table = new_table("channel", "cases", "1 %", "50 %", "99 %", "exact zeros", "negatives in")
    for name, row in channels.items():
        levels = [_number(row[level]) for level in ("percentile_1", "median", "percentile_99")]
        table.add_row(name, str(row["cases"]), *levels, _share(row["zero_share"]), str(len(row["negative_in"]) or "-"))
    console.print(table)
    for name, row in channels.items():
        if row["other_grids"]:
            count, grid = sum(row["other_grids"].values()), next(iter(row["other_grids"]))
            console.print(f"{name}: on another grid than {reference} in {_all(count, cases)}, resampled; often {grid}")
        if row["missing_in"]:
            console.print(f"{name}: missing in {_names(row['missing_in'])}")


def _show_grids(grids: Row, brain: Row) -> None:
    heading("Grids of the reference channel")
    shapes = [f"{shape} ({count})" for shape, count in grids["shapes"].items()]
    rest = len(shapes) - GRIDS_SHOWN
    facts(
        {
            "voxels": ", ".join(shapes[:GRIDS_SHOWN]) + (f" and {rest} other shapes" if rest > 0 else ""),
            "axes": ", ".join(f"{axes} ({count})" for axes, count in grids["orientations"].items()),
        }
    )
    table = new_table("along", "smallest mm", "median", "largest", "different", "voxels around the brain")
    for axis, row in grids["spacing_mm"].items():
        around = grids["brain_shape"][axis]
        sizes = [_number(row[name]) for name in ("min", "median", "max")]
        table.add_row(axis, *sizes, str(row["distinct"]), _range(around))
    console.print(table)
    console.print(f"brain mask: {_range(brain['volume_ml'])} ml")


def _show_lesions(lesions: Row, label_values: Sequence[float]) -> None:
    heading("Lesions")
    table = new_table("in the cases that have one", "smallest", "25 %", "median", "75 %", "largest")
    rows = {
        "load of a case, ml": lesions["load_ml"],
        "lesions of a case": lesions["count_per_case"],
        "a single lesion, ml": lesions["lesion_ml"],
    }
    for name, quantiles in rows.items():
        table.add_row(name, *(_number(value) for value in quantiles.values()))
    console.print(table)
    console.print()
    groups = lesions["load_groups"]
    bars = new_table("load", "cases", "")
    bars.columns[-1].justify = "left"
    most = max(groups.values())
    for name, count in groups.items():
        bars.add_row(name, str(count), "#" * round(BAR * count / most))
    console.print(bars)
    if set(label_values) - {0, 1}:
        console.print(f"label values: {', '.join(f'{value:g}' for value in label_values)}; all but 0 are counted here")


def _show_remarks(remarks: Sequence[Row]) -> None:
    if remarks:
        heading("To look at")
    for remark in remarks:
        console.print(f"- {remark['text']}: {_names(remark['cases'])}")


def _show_faults(faults: Sequence[str]) -> None:
    if faults:
        heading(f"Faults ({len(faults)}): these keep cases out of training")
    for fault in faults:
        console.print(f"- {fault}")


def _range(quantiles: Row) -> str:
    low, middle, high = (f"{quantiles[name]:.0f}" for name in ("min", "median", "max"))
    return low if low == high else f"{low} to {high}, median {middle}"


def _names(names: Sequence[str]) -> str:
    """A few names, and how many more."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _all(count: int, cases: int) -> str:
    return "every case" if count == cases else f"{count} of {cases} cases"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
