"""Golden actions: correctly rounded network outputs, equal on every processor.

A kernel chooses the order of its sums, and the approximation behind its tanh, by the processor. So each float64 here
carries a bound of its rounding error (running error analysis; Higham 2002, section 3.3). Outputs are rounded to 22 bits
after the binary point, or to 22 significant bits above 1. Where the bound allows two roundings, decimal arithmetic of
50 digits, which IEEE 754-2008 defines to the last digit, decides between them.
"""

import decimal
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, Policy
from thetaprime.models.spec import CONTEXT

_BITS: Final = 22
# Twice the unit roundoff of float64: it also covers the rounding of the bounds themselves.
_ROUNDOFF: Final = 2.0**-52
# Vector libraries compute tanh and exp to 4 units in the last place.
_FUNCTION_ROUNDOFF: Final = 8 * _ROUNDOFF
_DIGITS: Final = decimal.Context(
    prec=50, rounding=decimal.ROUND_HALF_EVEN, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[]
)

_Array = npt.NDArray[Any]
_decimal: Any = np.frompyfunc(decimal.Decimal, 1, 1)
_decimal_exp: Any = np.frompyfunc(decimal.Decimal.exp, 1, 1)
_decimal_sqrt: Any = np.frompyfunc(decimal.Decimal.sqrt, 1, 1)
_decimal_log: Any = np.frompyfunc(decimal.Decimal.ln, 1, 1)
_nearest_integer: Any = np.frompyfunc(decimal.Decimal.to_integral_value, 1, 1)
_maximum: Any = np.maximum
_minimum: Any = np.minimum
_erf: Any = np.frompyfunc(math.erf, 1, 1)
_PI: Final = decimal.Decimal("3.1415926535897932384626433832795028841971693993751058209749")
# Beyond, the error function differs from ±1 after the 50th digit.
_FARTHEST_ERF: Final = 11


def _erf_of_decimal(value: decimal.Decimal) -> decimal.Decimal:
    """The error function by a series of positive terms (Abramowitz & Stegun 1964, Eq. 7.1.6)."""
    if not abs(value) < _FARTHEST_ERF:
        return value if value.is_nan() else decimal.Decimal(1).copy_sign(value)
    square, term = value * value, value
    total, count = term, 0
    while abs(term) > abs(total) * decimal.Decimal("1e-52"):
        count += 1
        term = term * 2 * square / (2 * count + 1)
        total += term
    return 2 / _PI.sqrt() * (-square).exp() * total


_decimal_erf: Any = np.frompyfunc(_erf_of_decimal, 1, 1)


class Float64:
    """A float64 array with a bound of each number's rounding error.

    Attributes:
        value: the numbers.
        error: at least the distance of each number from the exact result; infinite for an undecided index.
    """

    def __init__(self, value: _Array, error: _Array | float = 0.0) -> None:
        self.value, self.error = value, error

    @classmethod
    def of(cls, exact: _Array) -> Self:
        """Wraps float32 numbers or integers."""
        return cls(exact.astype(np.float64) if exact.dtype.kind == "f" else exact)

    @property
    def T(self) -> "Float64":  # noqa: N802
        """The transposed matrix, of exact numbers."""
        return Float64(self.value.T)

    def __add__(self, other: Self) -> "Float64":
        value = self.value + other.value
        return Float64(value, self.error + other.error + _ROUNDOFF * np.abs(value))

    def __sub__(self, other: Self) -> "Float64":
        value = self.value - other.value
        return Float64(value, self.error + other.error + _ROUNDOFF * np.abs(value))

    def __mul__(self, other: Self) -> "Float64":
        value = self.value * other.value
        propagated = np.abs(self.value) * other.error + self.error * (np.abs(other.value) + other.error)
        return Float64(value, propagated + _ROUNDOFF * np.abs(value))

    def __truediv__(self, other: Self) -> "Float64":
        value = self.value / other.value
        propagated = (self.error + np.abs(value) * other.error) / np.maximum(np.abs(other.value) - other.error, 0.0)
        return Float64(value, propagated + _ROUNDOFF * np.abs(value))

    def __matmul__(self, exact: Self) -> "Float64":
        """The product with a matrix or vector of exact numbers, for sums in any order."""
        terms = self.value.shape[-1]
        error = (self.error + terms * _ROUNDOFF * np.abs(self.value)) @ np.abs(exact.value)
        return Float64(self.value @ exact.value, error)

    def product(self, other: Self) -> "Float64":
        """The matrix product of numbers that may both be rounded."""
        left, right = self._bounds(), other._bounds()
        size, terms = np.abs(self.value), self.value.shape[-1]
        error = left @ (np.abs(other.value) + right) + size @ right
        return Float64(self.value @ other.value, error + terms * _ROUNDOFF * (size @ np.abs(other.value)))

    def as_float(self) -> "Float64":
        """Integers of up to 53 bits, as numbers."""
        return Float64(self.value.astype(np.float64), self.error)

    def moved(self, move: Callable[[_Array], _Array]) -> "Float64":
        """The numbers in another order, shape or selection."""
        return Float64(move(self.value), move(self._bounds()))

    @staticmethod
    def joined(parts: "Sequence[Float64]", axis: int) -> "Float64":
        """Values one after the other along an axis."""
        values, errors = zip(*((each.value, each._bounds()) for each in parts), strict=True)
        return Float64(np.concatenate(values, axis), np.concatenate(errors, axis))

    def mean(self, axes: tuple[int, ...], *, keepdims: bool) -> "Float64":
        """The mean over some axes."""
        terms = math.prod(self.value.shape[axis] for axis in axes)
        error = self._bounds() + (terms + 1) * _ROUNDOFF * np.abs(self.value)
        return Float64(self.value.mean(axes, keepdims=keepdims), error.mean(axes, keepdims=keepdims))

    def max(self, axes: tuple[int, ...], *, keepdims: bool) -> "Float64":
        """The largest number over some axes."""
        return Float64(self.value.max(axes, keepdims=keepdims), self._bounds().max(axes, keepdims=keepdims))

    def sqrt(self) -> "Float64":
        """The square root."""
        value = np.sqrt(self.value)
        return Float64(value, self.error / np.sqrt(np.maximum(self.value - self.error, 0.0)) + _ROUNDOFF * value)

    def log(self) -> "Float64":
        """The natural logarithm."""
        value = np.log(self.value)
        propagated = self.error / np.maximum(self.value - self.error, 0.0)
        return Float64(value, propagated + _FUNCTION_ROUNDOFF * np.abs(value))

    def sigmoid(self) -> "Float64":
        """The logistic function, whose slope is at most a quarter."""
        return Float64(1.0 / (1.0 + np.exp(-self.value)), self.error / 4.0 + _FUNCTION_ROUNDOFF)

    def erf(self) -> "Float64":
        """The error function, whose slope is at most 2/√π."""
        return Float64(_erf(self.value).astype(np.float64), 1.13 * self.error + _FUNCTION_ROUNDOFF)

    def _bounds(self) -> _Array:
        return np.broadcast_to(np.asarray(self.error, np.float64), self.value.shape)

    def maximum(self, other: Self) -> "Float64":
        """The larger of each two numbers."""
        return Float64(np.maximum(self.value, other.value), np.maximum(self.error, other.error))

    def minimum(self, other: Self) -> "Float64":
        """The smaller of each two numbers."""
        return Float64(np.minimum(self.value, other.value), np.maximum(self.error, other.error))

    def relu(self) -> "Float64":
        """The positive part."""
        return Float64(np.maximum(self.value, 0.0), self.error)

    def tanh(self) -> "Float64":
        """The hyperbolic tangent, whose slope is at most 1."""
        return Float64(np.tanh(self.value), self.error + _FUNCTION_ROUNDOFF)

    def exp(self) -> "Float64":
        """The exponential."""
        value = np.exp(self.value)
        return Float64(value, value * (np.expm1(self.error) + _FUNCTION_ROUNDOFF))

    def softmax(self) -> "Float64":
        """[K, A] -> [K, A]: the probabilities of logits."""
        # The largest logit as an exact number: every shift gives the same probabilities.
        weights = (self - Float64(self.value.max(axis=1, keepdims=True))).exp()
        ones = Float64(np.ones((self.value.shape[1], 1)))
        return weights / (weights @ ones)

    def argmax(self, *, keepdims: bool = False) -> "Float64":
        """[K, A] -> [K] or [K, 1]: the first index of the largest number."""
        index = self.value.argmax(axis=1, keepdims=True)
        error = np.broadcast_to(self.error, self.value.shape)
        gap = np.take_along_axis(self.value, index, 1) - self.value
        within = ~(gap > error + np.take_along_axis(error, index, 1))
        undecided = np.where(within.sum(axis=1, keepdims=True) > 1, np.inf, 0.0)
        return Float64(index, undecided) if keepdims else Float64(index[:, 0], undecided[:, 0])

    def rounded(self) -> tuple[_Array, npt.NDArray[np.bool_]]:
        """The numbers, float32 or int64, and whether the bound allows another rounding."""
        if self.value.dtype.kind == "i":
            return self.value, np.isinf(np.broadcast_to(self.error, self.value.shape))
        spacing = _spacing(self.value)
        scaled = self.value / spacing
        nearest = np.rint(scaled)
        # Written so that NaN is undecided.
        decided = np.abs(scaled - nearest) + self.error / spacing < 0.5
        return (nearest * spacing).astype(np.float32), ~decided


class Decimal50:
    """The same operations on decimal numbers of 50 digits."""

    def __init__(self, value: _Array) -> None:
        self.value = value

    @classmethod
    def of(cls, exact: _Array) -> Self:
        """Wraps float32 numbers or integers."""
        return cls(_decimal(exact.astype(object)) if exact.dtype.kind == "f" else exact)

    @property
    def T(self) -> Self:  # noqa: N802
        """The transposed matrix."""
        return type(self)(self.value.T)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.value + other.value)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.value - other.value)

    def __mul__(self, other: Self) -> Self:
        return type(self)(self.value * other.value)

    def __truediv__(self, other: Self) -> Self:
        return type(self)(self.value / other.value)

    def __matmul__(self, other: Self) -> Self:
        return type(self)(self.value @ other.value)

    def product(self, other: Self) -> Self:
        """The matrix product."""
        return type(self)(self.value @ other.value)

    def as_float(self) -> Self:
        """Integers, as numbers."""
        return type(self)(_decimal(self.value.astype(object)))

    def moved(self, move: Callable[[_Array], _Array]) -> Self:
        """The numbers in another order, shape or selection."""
        return type(self)(move(self.value))

    @staticmethod
    def joined(parts: "Sequence[Decimal50]", axis: int) -> "Decimal50":
        """Values one after the other along an axis."""
        return Decimal50(np.concatenate([each.value for each in parts], axis))

    def mean(self, axes: tuple[int, ...], *, keepdims: bool) -> Self:
        """The mean over some axes."""
        terms = math.prod(self.value.shape[axis] for axis in axes)
        return type(self)(self.value.sum(axes, keepdims=keepdims) / decimal.Decimal(terms))

    def max(self, axes: tuple[int, ...], *, keepdims: bool) -> Self:
        """The largest number over some axes."""
        return type(self)(self.value.max(axes, keepdims=keepdims))

    def sqrt(self) -> Self:
        """The square root."""
        return type(self)(_decimal_sqrt(self.value))

    def log(self) -> Self:
        """The natural logarithm."""
        return type(self)(_decimal_log(self.value))

    def sigmoid(self) -> Self:
        """The logistic function."""
        return type(self)(1 / (1 + _decimal_exp(-self.value)))

    def erf(self) -> Self:
        """The error function."""
        return type(self)(_decimal_erf(self.value))

    def maximum(self, other: Self) -> Self:
        """The larger of each two numbers."""
        return type(self)(_maximum(self.value, other.value))

    def minimum(self, other: Self) -> Self:
        """The smaller of each two numbers."""
        return type(self)(_minimum(self.value, other.value))

    def relu(self) -> Self:
        """The positive part."""
        return type(self)(_maximum(self.value, decimal.Decimal(0)))

    def tanh(self) -> Self:
        """The hyperbolic tangent."""
        # Beyond 60 it differs from 1 after the 50th digit.
        bounded = _minimum(_maximum(self.value, decimal.Decimal(-60)), decimal.Decimal(60))
        doubled = _decimal_exp(bounded * 2)
        return type(self)((doubled - 1) / (doubled + 1))

    def exp(self) -> Self:
        """The exponential."""
        return type(self)(_decimal_exp(self.value))

    def softmax(self) -> Self:
        """[K, A] -> [K, A]: the probabilities of logits."""
        weights = (self - type(self)(self.value.max(axis=1, keepdims=True))).exp()
        return weights / type(self)(weights.value.sum(axis=1, keepdims=True))

    def argmax(self, *, keepdims: bool = False) -> Self:
        """[K, A] -> [K] or [K, 1]: the first index of the largest number."""
        index = np.array([max(range(len(row)), key=row.__getitem__) for row in self.value.tolist()])
        return type(self)(index[:, None] if keepdims else index)

    def rounded(self) -> tuple[_Array, npt.NDArray[np.bool_]]:
        """The numbers, float32 or int64; every rounding is decided."""
        decided = np.zeros(self.value.shape, np.bool_)
        if self.value.dtype.kind == "i":
            return self.value, decided
        spacing = _spacing(self.value.astype(np.float64))
        exact_spacing = _decimal(spacing.astype(object))
        nearest = _nearest_integer(self.value / exact_spacing).astype(np.float64)
        return (nearest * spacing).astype(np.float32), decided


def _spacing(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The distance between neighbors among the rounded numbers, a power of 2."""
    spacing: npt.NDArray[np.float64] = np.ldexp(1.0, np.maximum(np.frexp(value)[1], 0) - _BITS)
    return spacing


Network = Callable[[type[Any], Mapping[str, _Array]], Mapping[str, Any]]
"""A number type and [K, ...] inputs by name -> [K, ...] outputs by name, in that number type."""


def evaluate_rounded(network: Network, inputs: Mapping[str, _Array]) -> dict[str, _Array]:
    """The outputs of a network of exact numbers, rounded alike on every processor.

    Args:
        network: computes each row of its outputs from the same row of its inputs.
        inputs: [K, ...] float32 or int64, by name.

    Returns:
        [K, ...] float32 or int64, by name.
    """
    # float32 turns what is beyond its range into infinity, as the network itself would.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        outputs = {name: value.rounded() for name, value in network(Float64, inputs).items()}
        found = {name: rounded for name, (rounded, _) in outputs.items()}
        undecided = np.any([flags.reshape(len(flags), -1).any(axis=1) for _, flags in outputs.values()], axis=0)
        if undecided.any():
            with decimal.localcontext(_DIGITS):
                exact = network(Decimal50, {name: value[undecided] for name, value in inputs.items()})
                for name, value in exact.items():
                    found[name][undecided] = value.rounded()[0]
    return found


def golden_actions(policy: Policy, parameters: Parameters, observations: npt.NDArray[np.float32]) -> _Array:
    """The deterministic action at each observation, as the environment takes it.

    Args:
        policy: the network.
        parameters: θ or a θ′, float32.
        observations: [K, O], flattened.

    Returns:
        [K, A] float32, or [K] int64 for discrete actions.
    """
    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    last = len(policy.layer_sizes) - 2

    def network(number: type[Any], inputs: Mapping[str, _Array]) -> dict[str, Any]:
        mean, factor = (number.of(each.numpy()) for each in policy.normalization)
        hidden = (number.of(inputs["observations"]) - mean) * factor
        for index in range(last + 1):
            bias = number.of(arrays[f"layers.{index}.bias"])
            if index == 0 and policy.spec.context_size:
                bias = bias + number.of(arrays[CONTEXT_WEIGHT]) @ number.of(arrays[CONTEXT])
            hidden = hidden @ number.of(arrays[f"layers.{index}.weight"]).T + bias
            if index < last:
                hidden = hidden.tanh() if policy.spec.activation == "tanh" else hidden.relu()
        if not policy.continuous:
            return {"actions": hidden.argmax() + number.of(np.array(policy.action_start))}
        clip, half, middle = (each.numpy() for each in policy.scaling)
        clipped = hidden.maximum(number.of(-clip)).minimum(number.of(clip))
        return {"actions": clipped * number.of(half) + number.of(middle)}

    return evaluate_rounded(network, {"observations": observations})["actions"]
