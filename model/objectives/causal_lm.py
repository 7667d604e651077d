"""Left-to-right language modeling (GPT-2, section 2)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from model import attention, heads, losses


class CausalLM(nn.Module):
    """Predicts every next token."""

    network: nn.Module
    logit_chunks: int  # slices of tokens for which logits exist at a time
    weights = losses.ONCE
    continues = True  # a prompt and what follows it are one text, of max_positions together

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

    def predict(self, batch, cache: attention.Cache | None = None):
        """Returns `logits` of what follows each token, and the `cache` that continues them.

        The logits are [B T V], or [B P V] of what follows the tokens at masked_positions.

        Args:
          batch: tokens, positions and segment_ids, each [B T]; perhaps masked_positions [B P].
          cache: of the tokens before these, or None.
        """
        output = self.network(batch, train=False, cache=cache)
        hidden = output.hidden
        if "masked_positions" in batch:
            hidden = heads.gather(hidden, batch["masked_positions"])
        return {"logits": self._logits(hidden), "cache": output.cache}

    def begin(self, batch, room: int):
        """Returns a cache of all but the last token, that one [B], and its position [B].

        Args:
          batch: the prompts, padded on the left: tokens, positions and segment_ids, each [B T].
          room: most new tokens.
        """
        rows, length = batch["tokens"].shape
        cache = self.network.empty_cache(rows, length - 1 + room)
        before = {name: value[:, :-1] for name, value in batch.items()}
        cache = self.network(before, train=False, cache=cache).cache
        return cache, batch["tokens"][:, -1], batch["positions"][:, -1]

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes.

        Attention counts what is computed, masked or not, as MFU is usually reported.
        """
        return 3 * self.network.flops(*shapes["tokens"])
