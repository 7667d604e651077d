"""The left-to-right Transformer decoder without cross-attention (GPT-2, section 2.3)."""

import flax.linen as nn
from jaxtyping import Array, Float

from model import attention, layers, stack, transformer


class Decoder(nn.Module):
    """Embeddings, then the stack, in which a token sees itself and what is before it."""

    config: transformer.TransformerConfig
    types: layers.Numerics
    Config = transformer.TransformerConfig
    UNUSED = ("embed_width", "causal")

    def setup(self):
        """Declares the embedder, the stack and the norm behind a pre-norm stack."""
        self.embedder = transformer.Embedder(self.config, self.types)
        self.dropout = layers.Dropout(self.config.dropout)
        self.stack = stack.Stack(self.config, self.types)
        if self.config.norm_first:
            self.norm = layers.NORMS[self.config.norm](self.config.norm_eps, self.types)

    def __call__(
        self, batch, *, train: bool, cache: attention.Cache | None = None, return_layers=False
    ) -> transformer.Output:
        """Reads tokens, positions and segment_ids, each [B T]; with a cache they continue it.

        Without a cache and bands there may be branches [B T], whose positions go on from the text
        that they continue.
        """
        x = self.dropout(self.embedder(batch), train=train)
        visible, cache = attention.among(batch["segment_ids"], cache, causal=True)
        if "branches" in batch:
            own = attention.same_branch(batch["branches"])
            visible = attention.Visible(visible.allowed & own)
        output = self.stack(x, visible, train=train, cache=cache, return_layers=return_layers)
        if self.config.norm_first:
            output = output._replace(hidden=self.norm(output.hidden))
        return output

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Scores of the next token, tied to the token embeddings."""
        return self.embedder.tokens.logits(hidden)

    def empty_cache(self, rows: int, length: int) -> attention.Cache:
        """Returns a cache with room for `length` tokens in each of `rows` rows."""
        return transformer.empty_cache(self.config, self.types, rows, length)

    def flops(self, rows: int, length: int) -> float:
        """Returns the operations of the products, forward, for B x T tokens, with the head."""
        head = 2.0 * rows * length * self.config.width * self.config.vocab_size
        return transformer.flops(self.config, rows, length) + head
