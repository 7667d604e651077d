"""Left-to-right language modeling (GPT-2, section 2)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from model import attention, losses


class CausalLM(nn.Module):
    """Predicts every next token."""

    network: nn.Module
    logit_chunks: int  # slices of tokens for which logits exist at a time
    weights = losses.ONCE

    def __call__(self, batch, *, train: bool):
        """Returns the loss term and further metrics; reads targets and weights [B T]."""
        hidden = self.network(batch, train=train).hidden
        if self.is_initializing():
            self._logits(hidden[:, :1])  # inside the loop below no parameter can be made

        def score(hidden, targets, weights):
            logits = self._logits(hidden)
            loss = losses.mean(losses.cross_entropy(logits, targets), weights)
            return loss, losses.mean(losses.correct(logits, targets), weights)

        loss, accuracy = losses.in_chunks(
            score, self.logit_chunks, hidden, batch["targets"], batch["weights"]
        )
        return {"causal_lm": loss}, {"accuracy": accuracy}

    def _logits(self, hidden):
        logits = self.network.logits(hidden).astype(jnp.float32)
        return nn.with_logical_constraint(logits, ("act_batch", "act_length", "act_vocab"))

    def predict(self, batch, cache: attention.Cache | None = None, *, last_only: bool = False):
        """Returns `logits` [B T V] and the `cache` that continues it.

        Args:
          batch: tokens, positions and segment_ids, each [B T].
          cache: of the tokens before these, or None.
          last_only: whether only the last token's logits [B 1 V] are wanted.
        """
        output = self.network(batch, train=False, cache=cache)
        hidden = output.hidden[:, -1:] if last_only else output.hidden
        return {"logits": self._logits(hidden), "cache": output.cache}

    def empty_cache(self, rows: int, length: int) -> attention.Cache:
        """Returns a cache with room for `length` tokens in each of `rows` rows."""
        return self.network.empty_cache(rows, length)

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes.

        Attention counts in full, masked or not, as MFU is usually reported.
        """
        return 3 * self.network.flops(*shapes["tokens"])
