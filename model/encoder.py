"""The bidirectional Transformer encoder (BERT, section 3)."""

import flax.linen as nn

from model import attention, layers, transformer


class Encoder(nn.Module):
    """Embeddings, normalized; then the stack, in which every token sees its whole segment."""

    config: transformer.TransformerConfig
    types: layers.Numerics

    def setup(self):
        """Declares the embedder and the stack."""
        self.embedder = transformer.Embedder(self.config, self.types)
        self.norm = layers.Norm(self.config.norm_eps, self.types)
        self.dropout = layers.Dropout(self.config.dropout)
        self.stack = transformer.Stack(self.config, self.types)

    def __call__(self, batch, *, train: bool, return_layers: bool = False) -> transformer.Output:
        """Reads tokens, token_types, positions and segment_ids, each [B T]."""
        x = self.dropout(self.norm(self.embedder(batch)), train=train)
        ids = batch["segment_ids"]
        allowed = attention.mask(ids, ids, causal=False)
        return self.stack(x, allowed, train=train, return_layers=return_layers)
