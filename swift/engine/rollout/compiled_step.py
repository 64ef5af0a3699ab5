"""The decode step compiled as one graph, and on a GPU captured as a CUDA graph.

A step of a large model launches hundreds of small kernels, and a GPU waits for the launches. With fixed shapes the
whole step is compiled (``fullgraph``, so a graph break is an error) and replayed as one launch.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from swift.engine.graphs import WatchedGraphs
from swift.engine.rollout.decoding import StepFunction, eager_step
from swift.engine.rollout.group_cache import GroupCache


def compiled_step(device: torch.device) -> StepFunction:
    """A `StepFunction` for one rollout on ``device``."""
    return CapturedStep(_compiled()) if device.type == "cuda" else _compiled()


@cache
def _compiled() -> StepFunction:
    compiled = torch.compile(eager_step, fullgraph=True, dynamic=True)
    consequence = "steps of other shapes are not compiled; --compile_rollout false compiles none"
    return WatchedGraphs(compiled, eager_step, "the decode step", consequence)


class CapturedStep:
    """Captures ``step`` as a CUDA graph when the cache's memory has changed, and replays it otherwise.

    A step writes its keys and values to a place that the cache chooses beforehand, so the passes that warm up and
    capture it may repeat it.
    """

    def __init__(self, step: StepFunction) -> None:
        self.step = step
        self.version: int | None = None

    def __call__(self, model: nn.Module, tokens: Tensor, positions: Tensor, cache: GroupCache) -> Tensor:
        """Logits [M, V] of the next tokens. They are overwritten by the next call."""
        if cache.version != self.version:
            self._capture(model, tokens, positions, cache)
        self.tokens.copy_(tokens)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.logits

    def _capture(self, model: nn.Module, tokens: Tensor, positions: Tensor, cache: GroupCache) -> None:
        self.tokens, self.positions = tokens.clone(), positions.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.step(model, self.tokens, self.positions, cache)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self.step(model, self.tokens, self.positions, cache)
        self.version = cache.version
