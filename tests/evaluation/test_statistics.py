import math
import warnings

import numpy as np
import pytest

from mlproject.evaluation.statistics import (
    bootstrap_interval,
    corrected_together,
    paired_difference,
    paired_t_p,
    t_interval,
)


def test_interval_is_about_the_normal_one_for_many_cases():
    values = np.random.default_rng(0).normal(0.7, 0.1, size=300)
    low, high = bootstrap_interval(values)
    standard_error = values.std(ddof=1) / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)


def test_interval_depends_on_seed_and_level_alone():
    values = [0.1, 0.5, 0.6, 0.8, 0.83, 0.9]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(list(values), seed=3)
    assert bootstrap_interval(values, seed=3, resamples=200) != bootstrap_interval(values, seed=4, resamples=200)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("values", [[], [0.8]])
def test_fewer_than_two_cases_have_no_interval(values):
    assert all(math.isnan(end) for end in bootstrap_interval(values))


def test_equal_cases_have_an_interval_of_no_width():
    assert bootstrap_interval([0.8, 0.8, 0.8]) == pytest.approx((0.8, 0.8))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_undefined_values_are_refused(bad):
    with pytest.raises(ValueError, match="undefined"):
        bootstrap_interval([0.5, bad])
    with pytest.raises(ValueError, match="undefined"):
        paired_difference([0.5, 0.5], [0.5, bad])


def test_difference_is_second_minus_first_with_the_exact_p():
    a = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    b = [0.11, 0.22, 0.33, 0.44, 0.55, 0.66]
    difference = paired_difference(a, b)
    assert difference.cases == 6
    assert difference.mean == pytest.approx(0.035)
    assert 0 < difference.low < 0.035 < difference.high
    assert difference.wilcoxon_p == pytest.approx(2 / 2**6)  # six of six signs agree, two-sided
    assert difference.significant
    back = paired_difference(b, a)
    assert (back.mean, back.wilcoxon_p) == pytest.approx((-0.035, 2 / 2**6))
    assert back.significant


def test_five_cases_that_all_agree_are_not_significant():
    difference = paired_difference([0.1] * 5, [0.11, 0.12, 0.13, 0.14, 0.15])
    assert difference.low > 0
    assert difference.wilcoxon_p == pytest.approx(0.0625)
    assert not difference.significant


def test_variants_that_do_not_differ():
    difference = paired_difference([0.3, 0.5, 0.9], [0.3, 0.5, 0.9])
    assert (difference.mean, difference.low, difference.high, difference.wilcoxon_p) == (0, 0, 0, 1)
    assert not difference.significant


def test_unclear_differences_are_not_significant():
    rng = np.random.default_rng(1)
    a = rng.uniform(0.4, 0.9, size=20)
    assert not paired_difference(a, a + rng.normal(0, 0.05, size=20)).significant


@pytest.mark.parametrize("cases", range(8))
@pytest.mark.parametrize("changed", [0, 1, 2, 8])
def test_small_numbers_of_cases_neither_warn_nor_claim(cases, changed):
    a = np.linspace(0.2, 0.8, cases)
    b = a + 0.01 * (np.arange(cases) < changed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        difference = paired_difference(a, b)
    assert difference.cases == cases
    assert math.isnan(difference.low) == (cases < 2)
    assert math.isnan(difference.mean) == (cases == 0)
    assert 0 < difference.wilcoxon_p <= 1 or (cases == 0 and math.isnan(difference.wilcoxon_p))
    assert difference.significant == (min(cases, changed) >= 6)


@pytest.mark.parametrize("equal", [0, 10, 15, 200])
def test_cases_that_do_not_differ_do_not_make_the_others_significant(equal):
    gains = [0.01, 0.02, 0.03, 0.04, 0.05] + [0.0] * equal
    difference = paired_difference(np.zeros(len(gains)), gains)
    assert difference.wilcoxon_p == pytest.approx(0.0625)
    assert not difference.significant


def test_differences_that_are_corrected_together_are_corrected_by_holms_method():
    clear, unclear = paired_difference([0.0] * 7, np.linspace(0.1, 0.2, 7)), paired_difference([0.0], [0.1])
    nothing = paired_difference([], [])
    corrected = corrected_together({"clear": clear, "unclear": unclear, "clear too": clear, "no cases": nothing})
    assert clear.significant and (clear.tests, clear.corrected_p) == (1, 2 / 2**7)
    assert {name: one.tests for name, one in corrected.items()} == dict.fromkeys(corrected, 3)
    assert corrected["clear"].wilcoxon_p == 2 / 2**7
    assert corrected["clear"].corrected_p == corrected["clear too"].corrected_p == 3 * 2 / 2**7
    assert corrected["unclear"].corrected_p == 1 and math.isnan(corrected["no cases"].corrected_p)
    assert corrected["clear"].significant


@pytest.mark.parametrize(("tests", "cases", "too_few"), [(1, 5, True), (1, 6, False), (3, 6, True), (3, 7, False)])
def test_too_few_cases_could_not_show_any_difference(tests, cases, too_few):
    difference = paired_difference([0.0] * cases, [0.1, -0.1] * (cases // 2) + [0.0] * (cases % 2))
    corrected = corrected_together(dict.fromkeys(range(tests), difference))[0]
    assert corrected.too_few == too_few
    assert corrected.smallest_p == tests * 2 ** (1 - cases)


def test_different_numbers_of_cases_are_refused():
    with pytest.raises(ValueError, match="same cases"):
        paired_difference([0.1, 0.2], [0.1])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], 0.0741799),  # t = 2 / (1 / sqrt 3) = 3.4641, two degrees of freedom
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0.0741799),
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([0.0, 1.0], [0.5, 1.5], 0.0),  # always by as much
        ([1.0], [2.0], float("nan")),
    ],
)
def test_paired_t(a: list[float], b: list[float], expected: float) -> None:
    assert paired_t_p(a, b) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    with pytest.raises(ValueError, match="pairs"):
        paired_t_p(a, [*b, 0.0])


def test_t_interval_of_three_trainings_and_of_one():
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's t of 2 degrees of freedom
    assert t_interval([0.0, 0.01, 0.02]) == pytest.approx((0.01 - half, 0.01 + half), abs=1e-6)
    assert all(math.isnan(end) for end in t_interval([0.5]))
