"""A target text from an input text (T5, section 2.1): the one objective of all its tasks."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from model import attention, encoder_decoder, losses
from model import batch as batch_lib


class Seq2SeqLM(nn.Module):
    """Predicts every next token of the target.

    The second term of the loss, log^2 Z with Z the softmax's denominator, keeps logits from
    drifting; its factor in the released code is 1e-4.
    """

    network: nn.Module
    logit_chunks: int  # slices of tokens for which logits exist at a time
    weights: Mapping[str, float]  # of z_loss
    continues = False  # a prompt is the encoder's, what answers it the decoder's

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms and further metrics; reads targets and weights [B U]."""
        hidden = self.network(batch, train=train).hidden
        if self.is_initializing():
            self._logits(hidden[:, :1])  # inside the loop below no parameter can be made

        def score(hidden, targets, weights):
            logits = self._logits(hidden)
            log_z = jax.nn.logsumexp(logits, axis=-1)
            loss = losses.mean(losses.cross_entropy(logits, targets), weights)
            accuracy = losses.mean(losses.correct(logits, targets), weights)
            return loss, losses.mean(jnp.square(log_z), weights), accuracy

        loss, z_loss, accuracy = losses.in_chunks(
            score, self.logit_chunks, hidden, batch["targets"], batch["weights"]
        )
        return {"seq2seq_lm": loss, "z_loss": z_loss}, {"accuracy": accuracy}

    def _logits(self, hidden):
        logits = self.network.logits(hidden).astype(jnp.float32)
        return nn.with_logical_constraint(logits, ("act_batch", "act_length", "act_vocab"))

    def predict(self, batch, cache: attention.Cache | None = None):
        """Returns `logits` [B U V] and the `cache` that continues it.

        Args:
          batch: what the network reads; with a cache, the decoder's next tokens as `tokens` and
            `segment_ids`, each [B U].
          cache: of the decoder's tokens before these, or None.
        """
        if cache is None:
            output = self.network(batch, train=False)
        else:
            output = self.network.extend(batch["tokens"], batch["segment_ids"], cache)
        return {"logits": self._logits(output.hidden), "cache": output.cache}

    def begin(self, batch, room: int):
        """Returns a cache for `room` tokens, the first token to feed [B] and its position [B].

        Args:
          batch: the prompts: tokens and segment_ids [B T].
          room: most new tokens.
        """
        start = jnp.full(len(batch["tokens"]), batch_lib.START, jnp.int32)
        return self.network.begin(batch, room), start, jnp.zeros_like(start)

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config, (rows, length) = self.network.config, shapes["tokens"]
        targets = shapes["targets"][1]
        head = 2.0 * rows * targets * config.width * config.vocab_size
        return 3 * (encoder_decoder.flops(config, rows, length, targets) + head)
