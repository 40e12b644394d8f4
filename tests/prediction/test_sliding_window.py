import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from mlproject.errors import ModelError, SettingsError
from mlproject.prediction.sliding_window import PredictionSettings, predict_probability, resolve_device

CPU = torch.device("cpu")
PATCH = (16, 16, 16)


class FirstChannel(nn.Module):
    """Its logit at a voxel is the first channel there."""

    def forward(self, image):
        assert not self.training
        return image[:, :1]


class Ramp(nn.Module):
    """Its logit depends on the position in the window along the first axis alone."""

    def forward(self, image):
        return torch.linspace(-3, 3, image.shape[2]).reshape(1, 1, -1, 1, 1).expand(len(image), 1, *image.shape[2:])


class Seen(nn.Module):
    """Notes the batches that it is given."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(2, 1, 3, padding=1)
        self.batches = []

    def forward(self, image):
        self.batches.append(image)
        return self.convolution(image)


def image_of(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (2, *shape)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("window_batch", [1, 3])
@pytest.mark.parametrize(
    "shape",
    [(16, 16, 16), (9, 5, 1), (32, 32, 16), (17, 31, 20), (40, 7, 16)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_every_voxel_is_predicted_once_and_in_its_place(shape, window_batch, mirror):
    image = image_of(shape)
    settings = PredictionSettings(window_batch=window_batch, mirror=mirror)
    probability = predict_probability(FirstChannel(), image, PATCH, settings, CPU)
    assert probability.shape == shape
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, sigmoid(image[0]), atol=1e-5)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_any_overlap_covers_the_volume(overlap):
    image = image_of((19, 33, 16))
    probability = predict_probability(FirstChannel(), image, PATCH, PredictionSettings(overlap=overlap), CPU)
    np.testing.assert_allclose(probability, sigmoid(image[0]), atol=1e-5)


@pytest.mark.parametrize(("overlap", "windows"), [(0.0, 2), (0.5, 3), (0.75, 5)])
def test_the_overlap_sets_the_number_of_windows(overlap, windows):
    network = Seen()
    settings = PredictionSettings(overlap=overlap, window_batch=1)
    predict_probability(network, image_of((32, 16, 16)), PATCH, settings, CPU)
    assert len(network.batches) == windows


def test_overlapping_windows_are_averaged_as_probabilities_with_gaussian_weights():
    # Two windows, at 0 and 8; the second sees voxel i at its position i - 8.
    probability = predict_probability(Ramp(), image_of((24, 16, 16)), PATCH, PredictionSettings(overlap=0.5), CPU)
    ramp = sigmoid(np.linspace(-3, 3, 16))
    weight = np.exp(-((np.arange(16) - 7.5) ** 2) / (2 * (16 / 8) ** 2))
    weight = np.maximum(weight, 1e-3)
    expected = [(weight[i] * ramp[i] + weight[i - 8] * ramp[i - 8]) / (weight[i] + weight[i - 8]) for i in range(8, 16)]
    np.testing.assert_allclose(probability[8:16, 8, 8], expected, atol=1e-4)
    np.testing.assert_allclose(probability[:8, 8, 8], ramp[:8], atol=1e-5)


def test_mirroring_averages_over_all_eight_copies():
    probability = predict_probability(Ramp(), image_of(PATCH), PATCH, PredictionSettings(mirror=True), CPU)
    np.testing.assert_allclose(probability, 0.5, atol=1e-6)  # ramp and mirrored ramp cancel
    network = Seen()
    predict_probability(network, image_of(PATCH), PATCH, PredictionSettings(mirror=True, window_batch=3), CPU)
    assert [len(batch) for batch in network.batches] == [3, 3, 2]
    assert len({tuple(window.numpy().ravel()) for batch in network.batches for window in batch}) == 8


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5])
@pytest.mark.parametrize("shape", [(33, 20, 47), (16, 11, 40)], ids=["large", "small on an axis"])
def test_windows_lie_and_are_weighted_as_monai_does_it(shape, overlap):
    image, network = image_of(shape), nn.Conv3d(2, 1, 7, padding=3)
    expected = sliding_window_inference(
        torch.from_numpy(image[None]), PATCH, 4, lambda x: network(x).sigmoid(), overlap=overlap, mode="gaussian"
    )
    probability = predict_probability(network, image, PATCH, PredictionSettings(overlap=overlap), CPU)
    np.testing.assert_allclose(probability, expected[0, 0].detach(), atol=1e-6)


def test_windows_without_brain_are_passed_over_and_the_rest_is_the_same():
    image, brain = image_of((16, 16, 80)), np.zeros((16, 16, 80), bool)
    brain[2:14, 3:12, 5:20] = True
    network, settings = Seen(), PredictionSettings(window_batch=1)
    whole = predict_probability(network, image, PATCH, settings, CPU)
    assert len(network.batches) == 9
    network.batches.clear()
    probability = predict_probability(network, image, PATCH, settings, CPU, brain)
    assert len(network.batches) == 3
    np.testing.assert_array_equal(probability, np.where(brain, whole, 0))


def test_no_window_is_left_alone_on_a_cpu():
    network = Seen()
    predict_probability(network, image_of((40, 16, 16)), PATCH, PredictionSettings(window_batch=3), CPU)
    assert [len(batch) for batch in network.batches] == [4]


def test_a_small_volume_is_padded_with_the_background():
    network = Seen()
    image = image_of((10, 16, 16)) + 50
    predict_probability(network, image, PATCH, PredictionSettings(), CPU)
    (batch,) = network.batches
    assert batch.shape == (1, 2, *PATCH)
    assert batch[:, :, :3].abs().max() == batch[:, :, 13:].abs().max() == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_network_comes_back_in_its_mode_and_without_gradients(training):
    network = nn.Sequential(nn.Conv3d(2, 1, 1), nn.Dropout(0.9)).train(training)
    image = image_of(PATCH)
    first, second = (predict_probability(network, image, PATCH, PredictionSettings(), CPU) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert network.training is training
    assert network[1].training is training


def test_the_mode_comes_back_after_a_failure_too():
    network = nn.Conv3d(3, 1, 1)
    with pytest.raises(RuntimeError):
        predict_probability(network, image_of(PATCH), PATCH, PredictionSettings(), CPU)
    assert network.training


def test_windows_arrive_in_the_memory_format_of_the_network():
    image = image_of((16, 16, 24))
    plain, last = Seen(), Seen().to(memory_format=torch.channels_last_3d)
    last.load_state_dict(plain.state_dict())
    settings = PredictionSettings()
    expected = predict_probability(plain, image, PATCH, settings, CPU)
    np.testing.assert_allclose(predict_probability(last, image, PATCH, settings, CPU), expected, atol=1e-5)
    assert all(batch.is_contiguous() for batch in plain.batches)
    assert all(batch.is_contiguous(memory_format=torch.channels_last_3d) for batch in last.batches)


def test_a_read_only_memory_map_is_accepted_and_left_as_it_is(tmp_path, recwarn):
    image = image_of((18, 16, 16))
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    probability = predict_probability(FirstChannel(), mapped, PATCH, PredictionSettings(), CPU)
    np.testing.assert_allclose(probability, sigmoid(image[0]), atol=1e-5)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_a_network_that_answers_nan_is_refused():
    network = nn.Conv3d(2, 1, 1)
    nn.init.constant_(network.bias, float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        predict_probability(network, image_of(PATCH), PATCH, PredictionSettings(), CPU)


@pytest.mark.parametrize("changes", [{"overlap": 1.0}, {"overlap": -0.1}, {"window_batch": 0}, {"device": "gpu"}])
def test_settings_out_of_range_are_refused_by_name(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        PredictionSettings(**changes)


@pytest.mark.parametrize(
    ("setting", "gpus", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda", 0, None),
        ("cuda:1", 1, None),
    ],
)
def test_the_device_is_one_that_is_there(monkeypatch, setting, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if device is None:
        with pytest.raises(SettingsError, match=f"{setting}.*{gpus} CUDA GPUs"):
            resolve_device(setting)
    else:
        assert resolve_device(setting) == torch.device(device)
