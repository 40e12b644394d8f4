import numpy as np
import pandas as pd
import pytest

from mlproject.evaluation.lesions import by_size, lesion_rows, size_names
from mlproject.evaluation.metrics import case_metrics


def masks():
    """Lesions of the reference: 8 voxels half found, and 1 missed. Predicted: 4 of the 8, and 2 touching corners."""
    reference, prediction = np.zeros((2, 12, 12, 12), np.uint8)
    reference[1:3, 1:3, 1:3] = 1
    reference[9, 9, 9] = 1
    prediction[1:3, 1:3, 1] = 1
    prediction[5, 5, 5] = prediction[6, 6, 6] = 1
    return reference, prediction


def test_each_component_is_a_row():
    rows = pd.DataFrame(lesion_rows(*masks(), voxel_ml=0.5)).sort_values(["side", "volume_ml"]).to_dict("records")
    assert rows == [
        {"side": "prediction", "volume_ml": 1.0, "touched": False, "overlap": 0.0},  # 26-connected: one component
        {"side": "prediction", "volume_ml": 2.0, "touched": True, "overlap": 1.0},
        {"side": "reference", "volume_ml": 0.5, "touched": False, "overlap": 0.0},
        {"side": "reference", "volume_ml": 4.0, "touched": True, "overlap": 0.5},
    ]


def test_rows_give_the_lesion_wise_f1():
    generator = np.random.default_rng(3)
    reference, prediction = (generator.random((2, 15, 15, 15)) < 0.03).astype(np.uint8)
    rows = pd.DataFrame(lesion_rows(reference, prediction, 1.0))
    found = rows.loc[rows["side"] == "reference", "touched"]
    false_alarms = int((~rows.loc[rows["side"] == "prediction", "touched"]).sum())
    f1 = found.sum() / (found.sum() + (false_alarms + (~found).sum()) / 2)
    assert f1 == pytest.approx(case_metrics(reference, prediction, (1, 1, 1))["lesion_f1"])


def test_two_empty_masks_have_no_rows():
    nothing = np.zeros((3, 3, 3), np.uint8)
    assert lesion_rows(nothing, nothing, 1.0) == []


def test_sizes_count_found_lesions_and_false_alarms():
    rows = [{"variant": "network", "case": "a"} | row for row in lesion_rows(*masks(), voxel_ml=0.5)]
    rows.append({"variant": "network", "case": "b", "side": "reference", "volume_ml": 0.99, "touched": True})
    rows.append({"variant": "network", "case": "b", "side": "prediction", "volume_ml": 0.99, "touched": True})
    table = by_size(pd.DataFrame(rows), ["network"], cases=4).set_index("size")
    assert list(table.index) == size_names() == ["below 0.1 ml", "0.1 to 1 ml", "1 to 10 ml", "10 ml or more"]
    assert table["lesions"].tolist() == [0, 2, 1, 0]
    assert table["found"].tolist() == [0, 1, 1, 0]
    assert table["false_alarms"].tolist() == [0, 0, 1, 0]  # of 1 ml: the limit belongs to the larger
    assert table.loc["1 to 10 ml", "false_alarms_per_case"] == 0.25
    # Wilson 1927: one of two is (0.0945, 0.9055); one of one (0.2065, 1).
    assert table.loc["0.1 to 1 ml", ["share", "low", "high"]].tolist() == pytest.approx([0.5, 0.0945, 0.9055], abs=1e-4)
    assert table.loc["1 to 10 ml", ["share", "low", "high"]].tolist() == pytest.approx([1, 0.2065, 1], abs=1e-4)
    assert table.loc["10 ml or more", ["share", "low", "high"]].isna().all()


def test_sizes_without_any_lesion():
    table = by_size(pd.DataFrame([], columns=["variant", "side", "volume_ml", "touched"]), ["a", "b"], cases=1)
    assert len(table) == 8
    assert not table[["lesions", "found", "false_alarms"]].to_numpy().any()
