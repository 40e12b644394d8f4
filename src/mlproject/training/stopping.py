"""Leaving a validation in mid-case when the fit shall stop: a large case takes minutes on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


class _Left(Exception):
    """The fit shall stop."""


@contextmanager
def left_if(stop: Callable[[], bool], network: nn.Module) -> Iterator[None]:
    """Within: `stop` is asked before each pass of the network; where it answers True, what is within is left."""

    def ask(*_: object) -> None:
        if stop():
            raise _Left

    hook = network.register_forward_pre_hook(ask)
    try:
        yield
    except _Left:
        pass
    finally:
        hook.remove()
