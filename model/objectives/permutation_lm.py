"""Permutation language modeling (XLNet, sections 2.2 and 2.3)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from model import heads, losses, xlnet


class PermutationLM(nn.Module):
    """Predicts P tokens of each row, each from those that rank below it.

    The memory is made from the tokens before the row by the parameters at hand, so that a step is a
    function of parameters and batch alone. The released code keeps what the step before computed,
    with its older parameters and for its own batch (train_gpu.py).
    """

    network: nn.Module
    weights = losses.ONCE
    continues = True  # a prompt and what follows it are one text, of max_positions together

    def setup(self):
        """Declares the output bias."""
        self.output = heads.TokenScores(self.network.config)

    def __call__(self, batch, *, train: bool):
        """Returns the loss term and further metrics; reads targets and weights [B P]."""
        logits = self._at_masked_positions(batch, train)
        targets, weights = batch["targets"], batch["weights"]
        terms = {"permutation_lm": losses.mean(losses.cross_entropy(logits, targets), weights)}
        return terms, {"accuracy": losses.mean(losses.correct(logits, targets), weights)}

    def _at_masked_positions(self, batch, train):
        memory = None
        if "memory_tokens" in batch:
            before = {
                "tokens": batch["memory_tokens"],
                "segment_ids": batch["memory_segment_ids"],
                **{name: batch[name] for name in ("reversed",) if name in batch},
            }
            memory = self.network.remember(before)
        queries = xlnet.Queries.gather(batch, batch["masked_positions"])
        output = self.network(batch, train=train, queries=queries, memory=memory)
        return self.output(output.hidden, self.network.embedder.tokens)

    def predict(self, batch, cache: xlnet.Cache | None = None):
        """Returns `logits`, and `cache` where the batch does not say what is to be predicted.

        With masked_positions the logits [B P V] are theirs, by the order in `rank`. Without, those
        of each next token [B T V], in the order from left to right.

        Args:
          batch: tokens and segment_ids [B T], or what training reads.
          cache: of the tokens before these, or None.
        """
        if "masked_positions" in batch:
            return {"logits": self._at_masked_positions(batch, train=False)}
        ids = batch["segment_ids"]
        places = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
        rank = places if cache is None else places + cache.length
        queries = xlnet.Queries(places + 1, rank + 1, ids, jnp.zeros_like(ids))
        batch = {"tokens": batch["tokens"], "segment_ids": ids, "rank": rank}
        output = self.network(batch, train=False, queries=queries, cache=cache)
        logits = self.output(output.hidden, self.network.embedder.tokens)
        return {"logits": logits, "cache": output.cache}

    def begin(self, batch, room: int):
        """Returns a cache of all but the last token, that one [B], and its position [B].

        Args:
          batch: the prompts, padded on the left: tokens, positions and segment_ids, each [B T].
          room: most new tokens.
        """
        tokens, ids = batch["tokens"], batch["segment_ids"]
        rows, length = tokens.shape
        cache = self.network.empty_cache(rows, length - 1 + room)
        before = {"tokens": tokens[:, :-1], "segment_ids": ids[:, :-1]}
        cache = self.network(before, train=False, cache=cache).cache
        return cache, tokens[:, -1], batch["positions"][:, -1]

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes.

        The memory is computed forward only.
        """
        config, (rows, length) = self.network.config, shapes["tokens"]
        queries = shapes["targets"][1]
        memory = shapes.get("memory_tokens", (rows, 0))[1]
        head = 2.0 * rows * queries * config.width * config.vocab_size
        stack = stack_flops(config, rows, length, queries, memory)
        return 3 * (stack + head) + stack_flops(config, rows, memory, 0, 0)


def stack_flops(config: xlnet.Config, rows: int, tokens: int, queries: int, memory: int) -> float:
    """Returns the operations of the stack's products, forward.

    Args:
      config: the sizes.
      rows: B.
      tokens: T.
      queries: P.
      memory: M.
    """
    heads = config.heads * config.head_width
    keys = memory + tokens
    distances = keys + tokens
    both = tokens + queries
    kernels = config.width * (both * (2 * heads + 2 * config.mlp_width) + keys * 2 * heads)
    products = both * (2 * keys + distances) * heads  # content and values, then distances
    return 2.0 * config.depth * (rows * (kernels + products) + distances * config.width * heads)
