"""The bidirectional Transformer encoder (BERT, section 3)."""

import flax.linen as nn
from jaxtyping import Array, Float

from model import attention, layers, placement, stack, transformer


class Encoder(nn.Module):
    """Embeddings, normalized; then the stack, in which every token sees its whole segment."""

    config: transformer.TransformerConfig
    types: layers.Numerics
    Config = transformer.TransformerConfig
    UNUSED = ("bands",)

    def setup(self):
        """Declares the embedder, the projection of narrow embeddings, and the stack."""
        c = self.config
        self.embedder = transformer.Embedder(c, self.types)
        self.embed_norm = layers.NORMS[c.norm](c.norm_eps, self.types)
        self.dropout = layers.Dropout(c.dropout)
        if c.table_width != c.width:
            init = layers.INITIALIZERS[c.init](c.init_std)
            self.project = layers.Dense((c.width,), ("features", "embed"), init, self.types)
        self.stack = self.make_stack()

    def make_stack(self) -> nn.Module:
        """Returns the layers."""
        return stack.Stack(self.config, self.types)

    def __call__(self, batch, *, train: bool, **wanted) -> transformer.Output:
        """Reads tokens, token_types, positions and segment_ids, each [B T]; see `encode`."""
        return self.encode(self.embed(batch, train=train), batch, train=train, **wanted)

    def embed(
        self, batch, *, train: bool, tokens: layers.Embed | None = None
    ) -> Float[Array, "B T E"]:
        """Returns the normalized embeddings, by the token table `tokens` if one is given."""
        return self.dropout(self.embed_norm(self.embedder(batch, tokens)), train=train)

    def widened(self, x: Float[Array, "B T E"]) -> Float[Array, "B T D"]:
        """Returns embeddings in the width of the blocks."""
        c = self.config
        if c.table_width == c.width:
            return x
        return placement.leaving(self.project(placement.entering(x)))

    def encode(self, x: Float[Array, "B T E"], batch, *, train: bool, **wanted):
        """Returns the `Output` for embeddings x, which may be those of another encoder.

        Args:
          x: embeddings.
          batch: segment_ids [B T].
          train: whether there is dropout.
          **wanted: return_layers, return_scores, see `stack.Stack`.
        """
        x = self.widened(x)
        visible, _ = attention.among(batch["segment_ids"], causal=self.config.causal)
        return self.stack(x, visible, train=train, **wanted)
