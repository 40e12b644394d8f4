import json
import mmap
import sys
import types

import numpy as np
import pytest
from bench import memory_child, prediction, preprocessing, run
from bench.cases import SMALL_SHAPE, imitated_cases, prepared_case
from bench.crf_peers import authors, plain
from bench.crf_search import _choice_row
from bench.growth import write_table
from bench.row import Row

from mlproject.data.cases import DataSettings, find_cases
from mlproject.data.dataset import open_dataset
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.data.synthetic import write_dataset
from mlproject.data.volumes import read_volume
from mlproject.prediction.crf import CrfSettings, refine
from mlproject.tuning.crf_finalists import native_dice_grid


def row(samples, target=4.0, better=">="):
    return Row("ours", "peer", "x", samples, target, better, "1 s against 5 s")


@pytest.fixture(scope="module")
def maps():
    return imitated_cases((32, 36, 26))


def test_the_median_decides_whether_a_goal_is_reached():
    assert row((1.0, 5.0, 100.0)).reached is True
    assert row((1.0, 3.0, 100.0)).reached is False
    assert row((1.0, 4.0, 100.0)).reached is True
    assert row((1.0, 5.0, 100.0), better="<=").reached is False
    assert row((5.0,), target=None).reached is None
    assert row((1.0, 5.0, 100.0)).cells()[2:6] == ("5 x", "1 to 100", ">= 4 x", "yes")


def test_an_amount_and_a_plain_number_have_their_units():
    amount = Row("memory", "none", "GiB", (3.0,), 4.0, "<=", "")
    assert amount.cells()[2:6] == ("3 GiB", "", "<= 4 GiB", "yes")
    assert Row("difference", "peer", "", (1e-5,), 1e-3, "<=", "").cells()[2:5] == ("1e-05", "", "<= 0.001")


def test_the_table_and_the_json_file_say_the_same(tmp_path, monkeypatch, capsys):
    module = types.ModuleType("bench.pretended")
    module.rows = lambda: [row((1.0, 3.0, 5.0)), row((7.0,))]
    monkeypatch.setitem(sys.modules, "bench.pretended", module)
    monkeypatch.setattr("os.environ", {})
    run.main(["pretended", "--json", str(tmp_path / "bench.json")])
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [(entry["value"], entry["reached"]) for entry in rows] == [(3.0, False), (7.0, True)]
    printed = capsys.readouterr().out
    assert "3 x" in printed and "NO" in printed and "7 x" in printed


def test_the_plain_peer_is_the_same_crf_as_ours(maps):
    settings = CrfSettings(region="brain")
    for entry in maps:
        case = entry.case
        ours = refine(entry.probability, case.image, case.brain, case.geometry.spacing_mm, settings)
        difference = np.abs(plain(entry, settings, case.brain) - ours)
        moved = np.abs(ours - entry.probability)
        assert difference.mean() < 0.1 * moved.mean()  # the lattice's origin is another
        assert (difference[~case.brain] == 0).all()


def test_the_authors_crf_is_the_plain_one_with_one_reach_in_voxels_for_both_terms(maps):
    assert maps[0].case.geometry.spacing_mm == pytest.approx((5, 5, 5))
    same = CrfSettings(10.0, 10.0, 0.75, weight_gaussian=2, weight_bilateral=2, iterations=5)
    everywhere = np.ones_like(maps[0].case.brain)
    expected = plain(maps[0], same, everywhere)
    np.testing.assert_allclose(authors(maps[0], sdims=2.0, schan=0.75), expected, atol=1e-5)


def test_the_choice_is_scored_by_the_plain_loops_dice():
    search, loop = np.full((2, 3, 2, 4), 0.5), np.full((2, 3, 2, 4), 0.6)
    search[1, 2, 0, 3] = 0.9
    loop[1, 2, 0, 3], loop[0, 0, 1, 1] = 0.7, 0.75
    result = _choice_row(search, loop)
    assert result.value == pytest.approx(0.05)
    assert result.reached is False
    assert "12 settings" in result.against


def test_the_imitated_network_is_fair_and_sure_of_itself_far_from_lesions(maps):
    for entry, again in zip(maps, imitated_cases((32, 36, 26)), strict=True):
        np.testing.assert_array_equal(entry.probability, again.probability)
        assert entry.probability.shape == entry.case.brain.shape == (32, 36, 26)
        assert (entry.probability[entry.case.brain] < 0.01).mean() > 0.7


def test_the_imitated_network_leaves_work_for_a_crf():
    grids = [native_dice_grid(entry.probability, entry) for entry in imitated_cases(SMALL_SHAPE)]
    assert 0.7 < np.mean(grids, axis=0)[:, 0].max() < 0.9


def test_monais_window_gives_what_ours_gives():
    network, case = prediction.decided_network(), prepared_case(1, (24, 28, 20), 6.0)
    ours, theirs = (make(network)(case)[case.brain] for make in (prediction.ours, prediction.monai))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert theirs.std() > 0.05  # it would be no proof otherwise


def test_the_plain_preparation_is_ours_without_its_margin(tmp_path):
    write_dataset(tmp_path / "data", 2, shape=(40, 44, 32), channels=("dwi", "adc"))
    for case in find_cases(DataSettings(root=str(tmp_path / "data"))):
        expected = prepare(read_volume(case), PreprocessingSettings(crop_margin_mm=0))
        preprocessing.save(preprocessing.prepared(case), tmp_path / case.name)
        np.testing.assert_allclose(np.load(tmp_path / case.name / "image.npy"), expected.image, atol=1e-3)
        np.testing.assert_array_equal(np.load(tmp_path / case.name / "label.npy")[0], expected.label)


def test_a_peak_of_memory_is_seen_though_it_is_over():
    before = memory_child._now()
    with mmap.mmap(-1, 2**26) as block:  # a tensor may get room that the process holds already
        np.frombuffer(block, np.uint8)[:] = 1
    assert 0.9 * 2**26 < memory_child._peak() - before < 2**27


def test_no_two_cases_that_cost_grows_with_are_alike(tmp_path):
    data = DataSettings("table", str(write_table(tmp_path, 20)), ("dwi", "adc"))
    open_dataset(data, PreprocessingSettings(), tmp_path / "cache")
    assert len([path for path in (tmp_path / "cache").iterdir() if len(path.name) == 64]) == 20
