"""EasyQuant: symmetric scales, searched layer by layer for the direction of the layer's output.

For every operator, with what it reads and returns in the float network:

1. s₀ = max|x| / (2^(k−1) − ½) for its weights and for each input.
2. The weights' scale is the one of 100 between 0.5·s₀ and 1.2·s₀ with which the output's angle to the float
   output is smallest, the inputs being quantized with s₀.
3. The same for each input, the weights being quantized as found.

Convolutions have a scale an output channel, linear maps one for all their weights (three where queries, keys
and values are one map), products of attention one a head. All operators read float samples, as in PTQ4ViT's
own EasyQuant baseline; the paper feeds each layer from the quantized layers before it.

What the paper does not know is treated alike: inputs of sums, products and means are searched as those of
layers are. Inputs of convolutions are quantized too; PTQ4ViT's baseline leaves them in float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.core.console import progress_bar
from pocketvit.quantization.calibration import Calibration, Sample, samples
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.objectives import Cosine, Objective
from pocketvit.quantization.operators import Convolution, Linear, MatMul, Norm, Operator
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer, check_bits
from pocketvit.quantization.search import factors, search_input, search_weight
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["EASYQUANT", "Part", "alternate", "cover", "scale_searches", "symmetric"]

_ALPHA, _BETA, _COUNT, _ROUNDS = 0.5, 1.2, 100, 1

Part = int | None
"""What of an operator is quantized: an input by its index, or its weights: `None`."""


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Choose the quantizers of `operators`."""
    grid = factors(_ALPHA, _BETA, _COUNT)
    found = samples(network, calibration, operators)
    with progress_bar() as bar:
        for operator, sample in bar.track(found, total=len(operators), description="searching"):
            cover(operator, sample, spec)
            searches = scale_searches(operator, sample, Cosine(sample.output), grid)
            alternate(operator, searches, rounds=_ROUNDS)


def symmetric(
    x: Tensor, *, bits: int, axis: int | None = None, blocks: int | None = None
) -> UniformQuantizer:
    """Signed integers with s₀ = max|x| / (2^(bits−1) − ½), zero point 0.

    Args:
        axis: a scale for each index of this dimension.
        blocks: as many scales along `axis`, each for a run of neighbours.

    Raises:
        ConfigError: this width is not supported.
    """
    check_bits(bits)
    half = 2 ** (bits - 1)
    if axis is None:
        largest = x.abs().max()
    else:
        largest = x.movedim(axis, 0).flatten(1).abs().amax(dim=1)
        largest = largest if blocks is None else _over_blocks(largest, blocks, torch.amax)
    return UniformQuantizer(scale=largest.double() / (half - 0.5), qmin=-half, qmax=half - 1, axis=axis)


def cover(operator: Operator, sample: Sample, spec: QuantizationSpec) -> None:
    """Give an operator symmetric quantizers that cover all it read: where every search begins."""
    if operator.weight is not None and not isinstance(operator, Norm):
        blocks = _row_blocks(operator)
        by_row = isinstance(operator, Convolution) or blocks is not None
        operator.weight_quantizer = symmetric(
            operator.weight,
            bits=spec.weight_bits(operator.name),
            axis=operator.weight_axis if by_row else None,
            blocks=blocks,
        )
    for index, x in enumerate(sample.inputs):
        has_heads = isinstance(operator, MatMul) and x.dim() == 4 and x.shape[1] == sample.output.shape[1]
        bits = spec.activation_bits(operator.name)
        operator.set_input(index, symmetric(x, bits=bits, axis=1 if has_heads else None))


def scale_searches(
    operator: Operator, sample: Sample, objective: Objective, grid: Sequence[float]
) -> dict[Part, Callable[[], Quantizer]]:
    """A search for each quantizer an operator has, weights first: of factors on its present scale."""
    searches: dict[Part, Callable[[], Quantizer]] = {}
    weights = operator.weight_quantizer
    if isinstance(weights, UniformQuantizer):
        blocks = _row_blocks(operator)
        judge = objective if blocks is None else _ByBlock(objective, blocks)
        searches[None] = lambda: search_weight(operator, sample, judge, base=weights, grid=grid)[0]
    for index, base in enumerate(operator.input_quantizers):
        if isinstance(base, UniformQuantizer):
            searches[index] = _input_search(operator, index, sample, objective, base, grid)
    return searches


def alternate(operator: Operator, searches: Mapping[Part, Callable[[], Quantizer]], *, rounds: int) -> None:
    """Search one part after the other, the rest quantized as found so far, for so many rounds.

    A part is not searched again while nothing else has changed: it would find the same.
    """
    due = set(searches)
    for _ in range(rounds):
        for part, search in searches.items():
            if part in due:
                due.discard(part)
                if _put(operator, part, search()):
                    due |= searches.keys() - {part}


def _input_search(
    operator: Operator,
    index: int,
    sample: Sample,
    objective: Objective,
    base: UniformQuantizer,
    grid: Sequence[float],
) -> Callable[[], Quantizer]:
    return lambda: search_input(operator, index, sample, objective, base=base, grid=grid)[0]


def _put(operator: Operator, part: Part, quantizer: Quantizer) -> bool:
    """Quantize a part so from now on; whether that is anything new."""
    before = operator.weight_quantizer if part is None else operator.input_quantizers[part]
    if part is None:
        operator.weight_quantizer = quantizer
    else:
        operator.set_input(part, quantizer)
    if type(before) is not type(quantizer):
        return True
    assert before is not None
    now = quantizer.state_dict()
    return any(not torch.equal(value, now[key]) for key, value in before.state_dict().items())


def _row_blocks(operator: Operator) -> int | None:
    """3 for a linear map that makes queries, keys and values at once, which have a scale each."""
    if not isinstance(operator, Linear) or operator.weight is None:
        return None
    rows, columns = operator.weight.shape
    return 3 if operator.module.endswith("qkv") and rows == 3 * columns else None


class _ByBlock(Objective):
    """Scores of single rows, averaged over the rows that share a scale."""

    def __init__(self, objective: Objective, blocks: int) -> None:
        super().__init__(objective.target)
        self.objective, self.blocks = objective, blocks

    @override
    def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
        return _over_blocks(self.objective(output, keep=keep), self.blocks, torch.mean)


def _over_blocks(rows: Tensor, blocks: int, reduce: Callable[..., Tensor]) -> Tensor:
    """What `reduce` makes of each block of rows, in every one of its rows."""
    return reduce(rows.unflatten(0, (blocks, -1)), dim=1).repeat_interleave(len(rows) // blocks)


EASYQUANT = Method(
    name="easyquant",
    calibrate=calibrate,
    title="scales searched for the direction of each layer's output (simulated: a scale a head)",
    source="Wu et al., arXiv 2006.16669; as in PTQ4ViT's baseline, convolution inputs quantized too",
    integer=False,
)
