"""Dense, Embed, Norm, Mlp and Dropout: the only file that names parameter axes.

Parameters are float32 and carry logical axis names, which `configs/common.py` maps to mesh axes.
`B` rows, `T` tokens, `D` width, `F` feed-forward width, `V` vocabulary.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PyTree

from model import placement

Initializer = Callable[..., Array]


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def fan_in(std: float) -> Initializer:
    """A normal distribution of std / sqrt(inputs): what is put out is as large as what came in."""
    return nn.initializers.variance_scaling(std**2, "fan_in", "normal")


# BERT's truncated normal is cut at two sigma and not rescaled (modeling.py create_initializer).
INITIALIZERS: dict[str, Callable[[float], Initializer]] = {
    "normal": nn.initializers.normal,
    "truncated_normal": nn.initializers.truncated_normal,
    "fan_in": fan_in,
}

PRODUCT = "product"  # the name of its results, for policies of what to save


class Numerics(NamedTuple):
    """The types that a network computes in. Parameters are float32, as are softmax and losses."""

    compute: jnp.dtype  # activations, and operands of products
    result: jnp.dtype  # what a product is asked to return, before it is cast to `compute`
    attention: jnp.dtype  # operands of the two products of attention
    kernel: str = "xla"  # of attention: see model/attention.py
    interpret: bool = False  # whether the kernel runs step by step, on any backend
    multiple: int = 1  # entries of a vocabulary, filled up to it where they are scored


def numerics(dtype: str, platform: str, gpu_attention: str = "flash") -> Numerics:
    """Chooses the types for computing in `dtype` on a backend ("cpu", "gpu", "tpu").

    An accelerator accumulates in float32 whatever it returns, so it is asked for `dtype`: the saved
    activations stay small. XLA's CPU backend is faster when asked for float32 (a feed-forward
    product of BERT-base, forward: 15 ms against 30), and has no bfloat16 product with float32
    result inside fusions, which attention needs (UNIMPLEMENTED).
    """
    compute = jnp.dtype(dtype)
    other = jnp.dtype("float32") if platform == "cpu" else compute
    # No GPU has a fast product into 50257 columns.
    multiple = 64 if platform == "gpu" else 1
    kernel = {"tpu": "splash", "gpu": gpu_attention}.get(platform, "xla")
    return Numerics(compute, other, other, kernel, multiple=multiple)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def product(
    x: Float[Array, "... k"],
    kernel: Float[Array, "k n"],
    bias: Float[Array, "n"] | None,
    types: Numerics,
    transposed: bool = False,
) -> Float[Array, "... n"]:
    """The one large matrix product: x kernel + bias, computed in `types.compute`.

    The gradient rule is explicit, for the automatic one leaves the fast path in bfloat16: the
    cotangent is cast once, behind a barrier that keeps XLA from fusing the cast into both
    consumers, and the gradients of kernel and bias leave it in float32.

    Args:
      x: in `types.compute`.
      kernel: float32; [n k] if `transposed`.
      bias: float32, or None.
      types: of the network.
      transposed: whether to compute x kernel^T instead.
    """
    return _product(x, kernel, bias, types, transposed)


def _product(x, kernel, bias, types, transposed):
    kernel = kernel.astype(types.compute)
    kn = "nk" if transposed else "kn"
    y = jnp.einsum(f"...k,{kn}->...n", x, kernel, preferred_element_type=types.result)
    y = y.astype(types.compute)
    return checkpoint_name(y if bias is None else y + bias.astype(types.compute), PRODUCT)


def _product_forward(x, kernel, bias, types, transposed):
    # Not by way of `product`: into that no policy of what to save would see (jax.checkpoint).
    return _product(x, kernel, bias, types, transposed), (x, kernel, bias)


def _product_backward(types, transposed, residuals, dy):
    x, kernel, bias = residuals
    dy = jax.lax.optimization_barrier(dy.astype(types.compute))
    kn = "nk" if transposed else "kn"
    low = kernel.astype(types.compute)
    dx = jnp.einsum(f"...n,{kn}->...k", dy, low, preferred_element_type=types.result)
    if types.compute == jnp.float32:
        # XLA's CPU backend sums over two axes by way of a transposed copy of x.
        x, dy = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
    d_kernel = jnp.einsum(f"...k,...n->{kn}", x, dy, preferred_element_type=jnp.float32)
    d_bias = None if bias is None else dy.astype(jnp.float32).sum(range(dy.ndim - 1))
    return dx.astype(types.compute), d_kernel.astype(kernel.dtype), d_bias


product.defvjp(_product_forward, _product_backward)


def param(module: nn.Module, name: str, init: Initializer, shape, axes: Sequence[str | None]):
    """Declares a float32 parameter of `module` with logical axis names."""
    if module.has_variable("params", name):
        init = nn.initializers.zeros  # Flax traces it for its shape: this is the quickest
    return module.param(name, nn.with_logical_partitioning(init, tuple(axes)), tuple(shape))


def params(module: nn.Module, name: str, init: Callable[[Array], PyTree]) -> PyTree:
    """Declares the parameters of layers that `module` applies itself; `init` makes them, boxed.

    Those that are there are taken as they are (stacked, or a tuple of layers): Flax would trace
    `init` again to compare shapes, which the layers do themselves.
    """
    if module.has_variable("params", name):
        return nn.meta.unbox(module.get_variable("params", name))
    return module.param(name, init)


class Dense(nn.Module):
    """y = x kernel + bias, over one or several input and output axes.

    `nn.DenseGeneral` cannot name three axes inside a mesh, hence this one. The initializer is asked
    for a matrix, so that it sees the number of inputs.
    """

    features: tuple[int, ...]  # sizes of the output axes
    axes: tuple[str, ...]  # names of the kernel's axes: inputs, then outputs
    initializer: Initializer
    types: Numerics
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Contracts the last axes of x, as many as `axes` has more than `features`."""
        rank = len(self.axes) - len(self.features)
        batch, inputs = x.shape[:-rank], x.shape[-rank:]
        matrix = math.prod(inputs), math.prod(self.features)

        def init(key, shape):
            return self.initializer(key, matrix).reshape(shape)

        kernel = param(self, "kernel", init, inputs + self.features, self.axes)
        flat = placement.at_rest(kernel, self.axes).reshape(matrix)
        bias = None
        if self.bias:
            zeros = nn.initializers.zeros
            bias = param(self, "bias", zeros, self.features, self.axes[rank:]).reshape(-1)
        y = product(x.reshape(*batch, -1), flat, bias, self.types)
        return y.reshape(*batch, *self.features)


class Embed(nn.Module):
    """A table of vectors, read by index and, where the output is tied to it, as a product."""

    entries: int
    width: int
    initializer: Initializer
    types: Numerics
    axis: str | None = "vocab_table"

    def setup(self):
        """Declares the table [V D]."""
        shape = self.entries, self.width
        self.table = param(self, "table", self.initializer, shape, self._axes)

    def __call__(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Looks vectors up; the result is in `types.compute`.

        The cast comes last, so that gradients of one entry are summed in float32.
        """
        return self.stored(index).astype(self.types.compute)

    def stored(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Looks vectors up in float32: of a large table nothing but these is read."""
        return jnp.take(self._gathered(), index, axis=0)

    def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Scores against every entry: x table^T, in `types.compute`.

        Each part of the mesh along the entries scores its own; a table that does not divide by
        them, or by `types.multiple`, gets further entries for as long as that takes.
        """
        table = placement.at_rest(self.table, self._axes)
        missing = -self.entries % math.lcm(placement.parts(self.axis), self.types.multiple)
        if missing:
            table = jnp.pad(table, ((0, missing), (0, 0)))
            table = nn.with_logical_constraint(table, self._axes)
        table = nn.with_logical_constraint(table, (self.axis, None))
        return product(placement.entering(x), table, None, self.types, True)[..., : self.entries]

    def _gathered(self) -> Float[Array, "V D"]:
        """The table with its width gathered over `fsdp`, over which the rows of a batch lie too.

        Without this step XLA rematerializes what is looked up.
        """
        table = placement.at_rest(self.table, self._axes)
        entries = None if self.entries % placement.parts(self.axis) else self.axis
        return nn.with_logical_constraint(table, (entries, "act_embed"))

    @property
    def _axes(self) -> tuple[str | None, str]:
        return self.axis, "embed_table"


class Norm(nn.Module):
    """Layer normalization over the last axis, computed in float32 (Ba et al., 2016)."""

    eps: float
    types: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns the normalized x in `types.compute`."""
        scale = param(self, "scale", nn.initializers.ones, x.shape[-1:], ("norm",))
        bias = param(self, "bias", nn.initializers.zeros, x.shape[-1:], ("norm",))
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * scale + bias).astype(self.types.compute)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2)) * scale in float32: neither a mean is taken off nor a bias added.

    Zhang and Sennrich, 2019; T5, section 2.1.
    """

    eps: float
    types: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Returns the normalized x in `types.compute`."""
        scale = param(self, "scale", nn.initializers.ones, x.shape[-1:], ("norm",))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * scale).astype(self.types.compute)


NORMS: dict[str, type[nn.Module]] = {"layer": Norm, "rms": RmsNorm}


class Mlp(nn.Module):
    """The position-wise feed-forward network: down(drop(activation(up(x)))).

    Gated, the activation is that of another product: activation(gate(x)) * up(x) (Shazeer, 2020).
    """

    width: int  # F
    activation: str
    initializer: Initializer
    out_initializer: Initializer  # of the product that adds to the residual stream
    types: Numerics
    bias: bool = True
    gated: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool) -> Float[Array, "B T D"]:
        """Applies the network to every token."""
        x = placement.entering(x)

        def widen(name):
            axes = ("embed", "mlp")
            dense = Dense((self.width,), axes, self.initializer, self.types, self.bias, name=name)
            return dense(x)

        activation = ACTIVATIONS[self.activation]
        h = activation(widen("gate")) * widen("up") if self.gated else activation(widen("up"))
        h = Dropout(self.dropout)(h, train=train)
        out = (x.shape[-1],), ("mlp", "embed")
        down = Dense(*out, self.out_initializer, self.types, self.bias, name="down")
        return placement.leaving(down(h))


class Drop(NamedTuple):
    """Dropout with its key: `layers.Dropout` applies it, and a kernel may do so on its own.

    The mask is an integer hash of (key, row, element), fused into its consumer: nothing is stored,
    and the mask does not depend on the mesh. The first axis counts the rows: it enters the hash
    separately, so that a row may have up to 2^32 elements.
    """

    rate: float
    key: Array

    def __call__(self, x: Array) -> Array:
        """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate)."""
        kept = hash_bits(self.key, x.shape) >= threshold(self.rate)
        return jnp.where(kept, x / jnp.asarray(1.0 - self.rate, x.dtype), jnp.zeros((), x.dtype))


class Dropout(nn.Module):
    """Dropout by a key of its own."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Applies `Drop`."""
        drop = self.drop(train=train)
        return x if drop is None else drop(x)

    def drop(self, *, train: bool) -> Drop | None:
        """Returns what is to be applied; None: nothing."""
        return Drop(self.rate, self.make_rng("dropout")) if train and self.rate else None


def threshold(rate: float) -> np.uint32:
    """Returns below which hashed bits an element is dropped."""
    return np.uint32(rate * 2**32)


def hash_bits(key: Array, shape: Sequence[int]) -> Array:
    """Returns uint32 [shape] of hashed bits: a pure function of the key and the element's index."""
    words = hash_words(key)
    strides = np.cumprod([1, *reversed(shape[2:])], dtype=np.uint64)[::-1]
    element = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(strides[: len(shape) - 1], start=1):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        element = element + index * np.uint32(stride % 2**32)
    row = jax.lax.broadcasted_iota(jnp.uint32, (shape[0],) + (1,) * (len(shape) - 1), 0)
    return hash_elements(words[-1], hash_rows(words, row), element)


def hash_words(key: Array) -> Int[Array, "words"]:
    """Returns what a key adds to the hash."""
    return jax.random.key_data(key).astype(jnp.uint32).reshape(-1)


def hash_rows(words: Int[Array, "words"], row: Int[Array, "..."]) -> Int[Array, "..."]:
    """Returns what rows add to the hash of their elements."""
    return _mix(_mix(row ^ words[0], 0x7FEB352D, 15) + words[-1], 0x846CA68B, 16)


def hash_elements(
    word: Int[Array, ""], row: Int[Array, "..."], element: Int[Array, "..."]
) -> Int[Array, "..."]:
    """Returns the bits of elements of rows: the last word of the key, `hash_rows`, the indices."""
    return _mix(_mix(element ^ word, 0x7FEB352D, 15) + row, 0x846CA68B, 16)


def _mix(x: Array, multiplier: int, shift: int) -> Array:
    """One multiply-xor-shift round on uint32; two of them are a good integer hash."""
    x = (x ^ (x >> 16)) * np.uint32(multiplier)
    return x ^ (x >> shift)
