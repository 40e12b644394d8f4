"""The alias moves on evidence only: real models, logged, registered and run in processes of their own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import mlflow
import pytest
import torch

import tiny
from mlproject.data.cache import PreparedCache
from mlproject.data.case import Case, DataSettings
from mlproject.data.cases import find_cases
from mlproject.data.preprocessing import PreparedCase, PreprocessingSettings
from mlproject.errors import ModelError
from mlproject.network.architectures import build_network
from mlproject.prediction.segmenter import Segmenter, digests_of
from mlproject.tracking import registry
from mlproject.tracking.champion import Verdict, challenge

Pairs = list[tuple[Case, PreparedCase]]


@pytest.fixture
def pairs(tiny_isles: Path, tmp_path: Path) -> Pairs:
    cases = find_cases(DataSettings(root=str(tiny_isles)))[:4]
    cache = PreparedCache(tmp_path / "cache", PreprocessingSettings())
    return [(case, cache.load(case)) for case in cases]


@pytest.fixture
def version(tracking: Path) -> Callable[..., int]:
    """Registers a model that calls every brain voxel lesion (bias 20), or none (bias -20)."""

    def make(bias: float, seen: tuple[str, ...] = ()) -> int:
        network = build_network(tiny.NETWORK, 2, tiny.PATCHES.size)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            next(p for n, p in network.named_parameters() if n.endswith("output_block.conv.conv.bias")).fill_(bias)
        segmenter = Segmenter(tiny.description(seen=seen), network)
        run_id = mlflow.MlflowClient().create_run("0").info.run_id
        return registry.register(registry.log_model(segmenter, run_id), "m", ["dwi"])

    return make


def holder() -> int:
    return int(mlflow.MlflowClient().get_model_version_by_alias("m", "champion").version)


def test_better_one_takes_over_and_equal_one_does_not(version: Callable[..., int], pairs: Pairs) -> None:
    nothing = version(-20)
    assert challenge("m", nothing, pairs).moved and holder() == nothing  # the first, at once
    everything = version(20)
    verdict = challenge("m", everything, pairs)
    assert verdict.moved and holder() == everything
    assert verdict.difference is not None and verdict.difference.low > 0 and verdict.table is not None
    assert (verdict.table["champion"] == 0).all() and (verdict.table["challenger"] > 0).all()

    verdict = challenge("m", version(20), pairs[:2])  # equal is no evidence
    assert not verdict.moved and holder() == everything
    assert verdict.difference is not None and verdict.difference.mean == 0
    assert "does not replace version 2" in verdict.reason


def test_two_that_come_together_are_not_both_the_first(version: Callable[..., int], pairs: Pairs) -> None:
    versions = [version(-20), version(-20)]
    with ThreadPoolExecutor() as pool:
        verdicts = list(pool.map(lambda number: challenge("m", number, pairs[:2]), reversed(versions)))
    assert [verdict.moved for verdict in verdicts] == [False, True] and holder() == versions[0]
    assert "does not replace version 1" in verdicts[0].reason and "first champion" in verdicts[1].reason


def test_two_that_beat_the_champion_at_once_do_not_both_replace_it(
    version: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge("m", version(-20), [])
    challengers, both_have_compared = [version(20), version(20)], Barrier(2)

    def compare(_name: str, challenger: int, champion: int, *_: object) -> Verdict:
        if champion == 1:
            both_have_compared.wait()
        return Verdict(moved=champion == 1, reason=f"{challenger} against {champion}")

    monkeypatch.setattr("mlproject.tracking.champion._compare", compare)
    with ThreadPoolExecutor() as pool:
        verdicts = dict(zip(challengers, pool.map(lambda number: challenge("m", number, []), challengers), strict=True))
    (loser,) = set(challengers) - {holder()}
    assert verdicts[holder()].reason == f"{holder()} against 1"
    assert not verdicts[loser].moved and verdicts[loser].reason == f"{loser} against {holder()}"


def test_cases_that_either_has_seen_do_not_count(version: Callable[..., int], pairs: Pairs) -> None:
    first, second = (tuple(digests_of([prepared])) for _, prepared in pairs[:2])
    challenge("m", version(-20, seen=first[:1]), pairs)  # one channel seen is the case seen
    verdict = challenge("m", version(20, seen=second), pairs[:2])
    assert not verdict.moved and holder() == 1 and verdict.difference is None
    assert "no case with a label" in verdict.reason


def test_a_model_of_another_format_is_refused(version: Callable[..., int], tmp_path: Path) -> None:
    version(20)
    folder = registry.fetch("models:/m/1", tmp_path / "fetched")
    file = folder / "artifacts" / "model" / "model.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 0'))
    with pytest.raises(ModelError, match="format 0, this software reads 1"):
        Segmenter.load(folder / "artifacts" / "model")
