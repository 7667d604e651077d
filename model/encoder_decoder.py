"""The encoder-decoder with relative positions (T5, section 2.1).

`B` rows, `T` tokens of the encoder, `U` of the decoder, `D` width, `V` vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Array, Float

import errors
from model import attention, layers, placement, positions, stack, transformer


@dataclasses.dataclass(frozen=True)
class Config(transformer.TransformerConfig):
    """The knobs; `depth` is that of each stack, `max_positions` only bounds what it is given."""

    relative_buckets: int = 32
    relative_distance: int = 128  # from here on all distances are one bucket
    embed_init_std: float = 1.0  # of the token table
    tied: bool = True  # logits by the token table, of scaled hidden states; else by a kernel

    def __post_init__(self):
        """Checks the buckets.

        Raises:
          UserError: for numbers that leave a bucket without a distance.
        """
        buckets, distance = self.relative_buckets, self.relative_distance
        if buckets < 4 or buckets % 4:
            raise errors.UserError(
                f"config.model.relative_buckets={buckets} must be a multiple of 4: half of them "
                "for either side, and half of those for one distance each."
            )
        if distance <= buckets // 2:
            raise errors.UserError(
                f"config.model.relative_distance={distance} must be above half of "
                f"relative_buckets, {buckets // 2}."
            )


class Side(nn.Module):
    """One of the two stacks, with the table of relative positions that its layers share."""

    config: Config
    types: layers.Numerics
    decodes: bool  # whether it is causal and has cross-attention

    def setup(self):
        """Declares table, stack and the norm behind a pre-norm stack."""
        c = self.config
        self.relative = positions.RelativeBias(
            c.heads, c.relative_buckets, c.relative_distance, bidirectional=not self.decodes
        )
        self.stack = stack.Stack(c, self.types, cross_attention=self.decodes)
        self.input_dropout, self.output_dropout = (layers.Dropout(c.dropout) for _ in range(2))
        if c.norm_first:
            self.norm = layers.NORMS[c.norm](c.norm_eps, self.types)

    def __call__(self, x, ids, *, train, cache=None, cross=None) -> transformer.Output:
        """Returns the stack's output, normalized.

        Args:
          x: embeddings [B T D].
          ids: their segment ids [B T].
          train: whether there is dropout.
          cache: of the tokens before these, or None.
          cross: what the decoder looks at besides.
        """
        x = placement.stream(x)
        offset = 0 if cache is None else cache.length
        visible, cache = attention.among(ids, cache, causal=self.decodes)
        output = self.stack(
            self.input_dropout(x, train=train),
            visible,
            train=train,
            cache=cache,
            bias=self.relative(*visible.allowed.shape[-2:], offset),
            cross=cross,
        )
        hidden = self.norm(output.hidden) if self.config.norm_first else output.hidden
        return output._replace(hidden=self.output_dropout(hidden, train=train))


class EncoderDecoder(nn.Module):
    """An encoder that sees both sides, and a decoder that sees to the left and the encoder."""

    config: Config
    types: layers.Numerics
    Config = Config
    UNUSED = ("token_types", "embed_width", "causal", "bands")

    def setup(self):
        """Declares the token table, which both sides read, and the sides."""
        c = self.config
        init = nn.initializers.normal(c.embed_init_std)
        self.tokens = layers.Embed(c.vocab_size, c.width, init, self.types)
        self.encoder = Side(c, self.types, decodes=False)
        self.decoder = Side(c, self.types, decodes=True)
        if not c.tied:
            axes, init = ("embed", "vocab_table"), layers.fan_in(1.0)
            self.head = layers.Dense((c.vocab_size,), axes, init, self.types, bias=False)

    def __call__(self, batch, *, train: bool) -> transformer.Output:
        """Returns the decoder's output [B U D].

        Reads tokens and segment_ids [B T], decoder_tokens and decoder_segment_ids [B U]. A packed
        example has the same number on both sides.
        """
        hidden = self.encode(batch, train=train)
        ids = batch["decoder_segment_ids"]
        seen = attention.Visible(attention.mask(ids, batch["segment_ids"], causal=False))
        x = self.tokens(batch["decoder_tokens"])
        return self.decoder(x, ids, train=train, cross=transformer.Cross(seen, hidden))

    def encode(self, batch, *, train: bool) -> Float[Array, "B T D"]:
        """Returns the encoder's hidden states; reads tokens and segment_ids."""
        return self.encoder(self.tokens(batch["tokens"]), batch["segment_ids"], train=train).hidden

    def begin(self, batch, room: int) -> attention.Cache:
        """Returns a cache for `room` tokens of the decoder, with the encoder's keys and values.

        Args:
          batch: tokens and segment_ids [B T] of the encoder.
          room: most tokens of the decoder.
        """
        hidden = self.encode(batch, train=False)
        both = jax.tree.map(
            lambda y: y.astype(self.types.attention), self.decoder.stack.keys_and_values(hidden)
        )
        memory = attention.Memory(*both, batch["segment_ids"])
        cache = transformer.empty_cache(self.config, self.types, len(batch["tokens"]), room)
        return cache._replace(memory=memory)

    def extend(self, tokens, ids, cache: attention.Cache) -> transformer.Output:
        """Returns the decoder's output for tokens and segment ids [B U] that continue the cache."""
        seen = attention.Visible(attention.mask(ids, cache.memory.segment_ids, causal=False))
        cross = transformer.Cross(seen, None)
        return self.decoder(self.tokens(tokens), ids, train=False, cache=cache, cross=cross)

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Scores of the next token."""
        if self.config.tied:
            return self.tokens.logits(hidden * self.config.width**-0.5)
        return self.head(hidden)


def flops(config: Config, rows: int, length: int, decoder_length: int) -> float:
    """Returns the operations of both stacks' products, forward."""
    heads = config.heads * config.head_width
    # Query and output of each decoder token, key and value of each encoder token.
    kernels = config.depth * config.width * 2 * heads * (length + decoder_length)
    attention_products = config.depth * 2 * heads * length * decoder_length
    sides = sum(transformer.flops(config, rows, n) for n in (length, decoder_length))
    return sides + 2.0 * rows * (kernels + attention_products)
