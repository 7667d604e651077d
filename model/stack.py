"""The stack of layers: one scan over stacked parameters, or layer by layer for decoding.

`B` rows, `T` tokens, `S` keys, `M` tokens of an encoder, `D` width, `H` heads, `K` head width,
`N` layers, `G` groups of layers.
"""

import functools
import operator
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from model import attention, layers, transformer


class Stack(nn.Module):
    """N blocks as one scan over stacked parameters: compile time does not grow with depth.

    A parameter has a first axis N or, where the layers of a group share it, G. One turn of the scan
    is a period of the layers' bands, for most networks one layer.
    """

    config: transformer.TransformerConfig
    types: layers.Numerics
    cross_attention: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        visible: attention.Visible,
        *,
        train: bool,
        cache: attention.Cache | None = None,
        bias: Float[Array, "1 H T S"] | None = None,
        cross: transformer.Cross | None = None,
        return_layers: bool = False,
        return_scores: bool = False,
    ) -> transformer.Output:
        """Applies all layers. With a cache, the keys and values of x are written behind it.

        Args:
          x: [B T D].
          visible: who may look at whom.
          train: whether there is dropout.
          cache: of the tokens before these; its memory, if it has one, is what `cross` lacks.
          bias: of every layer's scores.
          cross: for cross-attention.
          return_layers: whether x after every layer is wanted too.
          return_scores: likewise.
        """
        c = self.config
        # Applied to one layer's parameters.
        block = transformer.Block(c, self.types, train, parent=None)
        init = functools.partial(init_blocks, block, self.cross_attention)
        params = layers.params(self, "blocks", init)
        if not c.scan_layers:
            params = apart(params, c.depth)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        length = None if cache is None else cache.length

        if return_scores:
            visible = visible.replace(segment_ids=None)  # a kernel would not have them
        by_band = [attention.within(visible, band, length) for band in c.bands]

        def layer(visible, x, inputs):
            params, stored, memory, index = inputs
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index)}
            x, (stored, x, scores) = block.apply(
                {"params": params},
                x,
                stored,
                visible,
                length,
                bias,
                cross,
                memory,
                rngs=rngs,
            )
            outputs = (stored, x if return_layers else None, scores if return_scores else None)
            return x, outputs

        layer = transformer.rematerialized(layer, c)
        stored = None if cache is None else (cache.keys, cache.values)
        memory = None if cache is None or cache.memory is None else cache.memory[:2]
        if isinstance(params, tuple):
            x, outputs = loop(layer, by_band, x, params, stored, memory)
        else:
            x, outputs = _scan(c, layer, by_band, x, params, together(stored), together(memory))
        stored, after_layers, scores = outputs
        if cache is not None:
            keys, values = (tuple(of_layers) for of_layers in stored)
            cache = cache._replace(keys=keys, values=values, length=length + x.shape[1])
        return transformer.Output(x, after_layers, scores, cache)

    def keys_and_values(self, hidden: Float[Array, "B M D"]) -> tuple[Array, Array]:
        """Returns what every layer's cross-attention looks at, each N times [B M H K]."""
        params = self.get_variable("params", "blocks")["cross_attention"]
        attend = transformer.Attention(self.config, self.types, parent=None)

        def one(params):
            return attend.apply({"params": params}, hidden, method="keys_and_values")

        # Layers that share their parameters have equal keys and values.
        copies = self.config.depth // len(params["key"]["kernel"])
        both = jax.lax.map(one, params)
        return tuple(tuple(jnp.repeat(y, copies, axis=0)) for y in both)


def together(layers_apart):
    """Returns ([N ...], ...) from ((N times [...]), ...)."""
    return None if layers_apart is None else tuple(jnp.stack(x) for x in layers_apart)


def _scan(config, layer, by_band, x, params, stored, memory):
    """Applies the layers by scans over stacked parameters; returns x and the stacked outputs."""
    shared = {
        name: value for name, value in params.items() if name in transformer.SHARING[config.sharing]
    }
    own = {name: value for name, value in params.items() if name not in shared}

    def one(shared, x, inputs, place=0):
        own, *others = inputs
        return layer(by_band[place], x, ({**shared, **own}, *others))

    def period(shared, x, inputs):
        outputs = []
        for i in range(len(by_band)):
            x, output = one(shared, x, jax.tree.map(operator.itemgetter(i), inputs), i)
            outputs.append(output)
        return x, jax.tree.map(lambda *of_layers: jnp.stack(of_layers), *outputs)

    def group(x, inputs):
        shared, layers_of_group = inputs
        if len(by_band) == 1:  # without periods, whose cut costs a copy of the parameters
            return jax.lax.scan(functools.partial(one, shared), x, layers_of_group)
        cut = lambda p: p.reshape(-1, len(by_band), *p.shape[1:])  # noqa: E731
        inputs = jax.tree.map(cut, layers_of_group)
        x, outputs = jax.lax.scan(functools.partial(period, shared), x, inputs)
        return x, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), outputs)

    inputs = (own, stored, memory, jnp.arange(config.depth))
    if config.groups == 1:
        return group(x, (jax.tree.map(lambda p: p[0], shared), inputs))
    cut = lambda p: p.reshape(config.groups, -1, *p.shape[1:])  # noqa: E731
    x, outputs = jax.lax.scan(group, x, (shared, jax.tree.map(cut, inputs)))
    return x, jax.tree.map(lambda y: y.reshape(config.depth, *y.shape[2:]), outputs)


def loop(layer, by_band, x, params, stored, memory):
    """Applies the layers one by one, none of them copied; returns what `_scan` does."""
    outputs = []
    for i, own in enumerate(params):
        of_layer = [y and tuple(part[i] for part in y) for y in (stored, memory)]
        x, output = layer(by_band[i % len(by_band)], x, (own, *of_layer, i))
        outputs.append(output)
    stored, after_layers, scores = zip(*outputs, strict=True)
    stored = None if stored[0] is None else tuple(zip(*stored, strict=True))
    stack = lambda ys: None if ys[0] is None else jnp.stack(ys)  # noqa: E731
    return x, (stored, stack(after_layers), stack(scores))


def by_layer(params: PyTree, depth: int) -> PyTree:
    """Returns parameters in which the blocks of each `stack` are a tuple of layers.

    They are for decoding: a loop over tokens would copy every layer out of its stack for each
    token, which costs more than to read it (GPT-2 124M in float32 on two CPU cores, a row at a
    time: 8 tokens/s instead of 22).

    Args:
      params: of a network, or of an objective.
      depth: N.
    """
    if not isinstance(params, Mapping):
        return params
    split = {name: by_layer(value, depth) for name, value in params.items() if name != "stack"}
    if "stack" in params:
        blocks = params["stack"]["blocks"]
        split["stack"] = {"blocks": apart(blocks, depth)}
    return split


def apart(blocks: PyTree, depth: int) -> tuple:
    """Returns the parameters of each layer; those of a group that share one get it all.

    Args:
      blocks: stacked, with a first axis N or G; or what this returned.
      depth: N.
    """
    if isinstance(blocks, tuple):
        return blocks
    # Of a split the gradient is one concatenation; of indexing, a sum of N arrays of all layers.
    cut = lambda p: [x[0] for x in jnp.split(p, len(p))]  # noqa: E731
    leaves, structure = jax.tree.flatten(blocks)
    leaves = [cut(p) for p in leaves]
    return tuple(
        structure.unflatten([parts[i * len(parts) // depth] for parts in leaves])
        for i in range(depth)
    )


def init_stacked(init: Callable[[Array], PyTree], key: Array, count: int) -> PyTree:
    """Returns the boxed parameters of `count` layers, stacked on a first axis.

    Args:
      init: makes the boxed parameters of one layer from a key.
      key: of all of them.
      count: how many.
    """
    return jax.tree.map(
        lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
        jax.vmap(init)(jax.random.split(key, count)),
        is_leaf=lambda box: isinstance(box, nn.Partitioned),
    )


def init_blocks(block: transformer.Block, cross_attention: bool, key: Array):
    """Returns the parameters of all layers, boxed with their axis names."""
    c = block.config
    x = jnp.zeros((1, 1, c.width), block.types.compute)
    visible = attention.Visible(jnp.ones((1, 1, 1, 1), bool))
    cross = transformer.Cross(visible, x) if cross_attention else None

    def one(key):
        return block.init({"params": key}, x, None, visible, None, None, cross)["params"]

    own = init_stacked(one, key, c.depth)
    shared = transformer.SHARING[c.sharing]
    if not shared:
        return own
    once = init_stacked(one, key, c.groups)
    return {name: (once if name in shared else own)[name] for name in own}
