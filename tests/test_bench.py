import json
import sys
import types

import numpy as np
import pytest
from bench import run
from bench.cases import SMALL_SHAPE, imitated_cases
from bench.crf_peers import authors, plain
from bench.crf_search import _choice_row
from bench.row import Row

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
