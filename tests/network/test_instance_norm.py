import pytest
import torch
from torch import nn

from mlproject.network.architectures import NetworkSettings, build_network
from mlproject.network.instance_norm import InstanceNorm

LAST = torch.channels_last_3d


@pytest.fixture
def norms() -> tuple[InstanceNorm, nn.InstanceNorm3d]:
    """Ours and PyTorch's with the same weights."""
    torch.manual_seed(0)
    ours, stock = InstanceNorm(6, affine=True).double(), nn.InstanceNorm3d(6, affine=True).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def image() -> torch.Tensor:
    return torch.randn(2, 6, 7, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 40


@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_pytorchs_in_values_and_gradients(
    norms: tuple[InstanceNorm, nn.InstanceNorm3d], memory_format: torch.memory_format, training: bool
) -> None:
    results, gradients = [], []
    for norm in norms:
        x = image().contiguous(memory_format=memory_format).requires_grad_()
        result = nn.functional.leaky_relu(norm.train(training)(x), 0.1, inplace=True)  # as the DynUNet does
        weights = torch.linspace(-1, 1, result.numel()).reshape(result.shape)
        (result * weights).sum().backward()
        results.append(result.detach())
        gradients.append([x.grad, *(parameter.grad for parameter in norm.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
    for ours, stock in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-9)


def test_it_is_as_exact_in_float32(norms: tuple[InstanceNorm, nn.InstanceNorm3d]) -> None:
    expected = norms[1](image())
    for norm in norms:
        result = norm.float()(image().float().contiguous(memory_format=LAST))
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=5e-5)


def test_it_stays_in_the_memory_format(norms: tuple[InstanceNorm, nn.InstanceNorm3d]) -> None:
    x = image().contiguous(memory_format=LAST).requires_grad_()
    result = norms[0](x)
    result.sum().backward()
    assert x.grad is not None
    assert result.is_contiguous(memory_format=LAST) and x.grad.is_contiguous(memory_format=LAST)


def test_the_dynunet_has_it_everywhere() -> None:
    norms = [m for m in build_network(NetworkSettings(), 2, (32, 32, 32)).modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == 14 and all(isinstance(norm, InstanceNorm) for norm in norms)
