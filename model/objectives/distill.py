"""A small encoder learns from a large one, on text or on a task (DistilBERT, TinyBERT).

`B` rows, `T` tokens, `S` keys, `P` predictions per row, `H` heads, `D` width, `M` layers of the
student, `N` of the teacher.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import errors
from model import attention, heads, layers, losses, transformer

# The teacher's layer, counted from 1, that layer m of the student learns from (TinyBERT, 3.1, 4.5).
MAPPINGS = {
    "uniform": lambda m, M, N: m * (N // M),
    "top": lambda m, M, N: m + N - M,
    "bottom": lambda m, M, N: m,
}
TERMS = ("soft", "masked_lm", "cosine", "embedding", "hidden", "attention")


class Distill(nn.Module):
    """Any of six losses of a student against a frozen teacher, each with its weight.

    soft        KL divergence of the distributions at a temperature: of all tokens, or of a task's
                classes, where it is TinyBERT's prediction loss but for a constant; of a regression
                the squared error to the teacher's score
    masked_lm   cross-entropy of the masked tokens; the one that needs no teacher, and text
    cosine      1 - cos of the last hidden states (DistilBERT, section 2)
    embedding   squared error of the embeddings, the student's projected
    hidden      squared error of hidden states, summed over the student's layers, likewise
    attention   squared error of attention scores before softmax, likewise (TinyBERT, section 3.1)

    A loss of weight 0 is not computed. The teacher is never in training mode and gets no gradient;
    `optim.frozen` keeps it out of the optimizer.
    """

    network: nn.Module  # the student
    teacher: nn.Module  # a masked-LM objective, or with classes a classification
    classes: int  # of a task, as in `Classification`; 0: text
    weights: Mapping[str, float]
    temperature: float
    mapping: str
    # One projection with a bias for embeddings and all layers, as TinyBERT's code has it; the paper
    # has one for the embeddings and one for the layers, without biases.
    shared_projection: bool
    logit_chunks: int  # of the soft loss: slices of tokens for which logits exist at a time

    def setup(self):
        """Declares the student's head and projections."""
        config, types = self.network.config, self.network.types
        self._check(config, self.teacher.network.config)
        if self.classes and self._uses("soft"):
            self.pooler = heads.Pooler(config, types)
            self.task_classifier = heads.Classifier(self.classes, config, types)
        elif self._uses("soft", "masked_lm"):
            self.masked_lm = heads.MaskedLM(config, types)
        init = layers.INITIALIZERS[config.init](config.init_std)
        width, bias = (self.teacher.network.config.width,), self.shared_projection

        def projection():
            return layers.Dense(width, ("embed", "features"), init, types, bias=bias)

        if self._uses("hidden") or (self._uses("embedding") and self.shared_projection):
            self.project_hidden = projection()
        if self._uses("embedding") and not self.shared_projection:
            self.project_embedding = projection()

    def _uses(self, *terms: str) -> bool:
        return any(self.weights[term] for term in terms)

    def _check(self, student, teacher):
        if set(self.weights) != set(TERMS) or min(self.weights.values()) < 0:
            raise errors.UserError(
                f"config.objective.weights must hold a number of at least 0 for each of "
                f"{', '.join(TERMS)}."
            )
        errors.one_of("config.objective.mapping", self.mapping, MAPPINGS)
        if self.classes and self._uses("masked_lm"):
            raise errors.UserError(
                "config.objective.weights.masked_lm is for text: set it to 0 to distill a task."
            )
        if self.temperature <= 0:
            raise errors.UserError("config.objective.temperature must be above 0.")
        pairs = {
            "soft": ("vocab_size", self._uses("soft") and not self.classes),
            "cosine": ("width", self._uses("cosine")),
            "attention": ("heads", self._uses("attention")),
        }
        for term, (knob, used) in pairs.items():
            ours, theirs = getattr(student, knob), getattr(teacher, knob)
            if used and ours != theirs:
                raise errors.UserError(
                    f"config.model.{knob}={ours} must be the teacher's {theirs} for "
                    f"config.objective.weights.{term}: change it, or set this weight to 0."
                )
        if (
            self._uses("embedding")
            and student.table_width != student.width
            and (self.shared_projection)
        ):
            raise errors.UserError(
                "config.objective.shared_projection needs embeddings as wide as the student: leave "
                "config.model.embed_width at 0."
            )
        if self._uses("hidden", "attention") and (
            student.depth > teacher.depth
            or (self.mapping == "uniform" and teacher.depth % student.depth)
        ):
            raise errors.UserError(
                f"config.model.depth={student.depth} must divide the teacher's {teacher.depth} "
                'for config.objective.mapping="uniform", and be no more for the others.'
            )

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms and further metrics."""
        wanted = dict(return_layers=self._uses("hidden"), return_scores=self._uses("attention"))
        student, teacher = self.network, self.teacher.network
        x = student.embed(batch, train=train)
        ours = student.encode(x, batch, train=train, **wanted)
        y = teacher.embed(batch, train=False)
        theirs = teacher.encode(y, batch, train=False, **wanted)
        if self.is_initializing():  # the teacher's head, whether or not it is used here
            self.teacher(batch, train=False)
        y, theirs = jax.lax.stop_gradient((y, theirs))
        real = (batch["segment_ids"] > 0).astype(jnp.float32)

        terms, metrics = {}, {}
        if self._uses("soft") and self.classes:
            terms["soft"], metrics = self._task(ours.hidden, theirs.hidden, batch, train)
        elif self._uses("soft"):
            terms["soft"] = self._soft(ours.hidden, theirs.hidden, real)
        if self._uses("masked_lm"):
            logits = self._logits(ours.hidden, batch)
            targets, weights = batch["targets"], batch["weights"]
            terms["masked_lm"] = losses.mean(losses.cross_entropy(logits, targets), weights)
            metrics["accuracy"] = losses.mean(losses.correct(logits, targets), weights)
        if self._uses("cosine"):
            terms["cosine"] = losses.mean(losses.cosine_distance(ours.hidden, theirs.hidden), real)
        if self._uses("embedding"):
            shared = self.shared_projection
            projected = (self.project_hidden if shared else self.project_embedding)(x)
            terms["embedding"] = losses.mean(losses.squared_error(projected, y), real)
        if self._uses("hidden"):
            error = losses.squared_error(
                self.project_hidden(ours.layers), theirs.layers[self._layers()]
            )
            terms["hidden"] = losses.mean(error.sum(0), real)
        if self._uses("attention"):
            terms["attention"] = self._attention(ours.scores, theirs.scores, batch["segment_ids"])
        return terms, metrics

    def _layers(self):
        """The teacher's layers that the student's learn from, counted from 0, [M]."""
        M, N = self.network.config.depth, self.teacher.network.config.depth
        return jnp.array([MAPPINGS[self.mapping](m, M, N) - 1 for m in range(1, M + 1)])

    def _soft(self, ours, theirs, real):
        student_table = self.network.embedder.tokens
        teacher_table = self.teacher.network.embedder.tokens
        if self.is_initializing():
            self.masked_lm(ours[:, :1], student_table)

        def score(ours, theirs, weights):
            student = self.masked_lm(ours, student_table)
            teacher = jax.lax.stop_gradient(self.teacher.masked_lm(theirs, teacher_table))
            return (losses.mean(losses.kl_divergence(teacher, student, self.temperature), weights),)

        return losses.in_chunks(score, self.logit_chunks, ours, theirs, real)[0]

    def _task(self, ours, theirs, batch, train):
        """The loss of the task's predictions; what is measured is against the true labels.

        Without dropout behind the pooler, as in the code.
        """
        logits = self._task_logits(ours, batch)
        first = heads.gather(theirs, batch["pair_positions"][:, :1])
        teacher = self.teacher.task_classifier(self.teacher.pooler(first))[:, 0]
        teacher = jax.lax.stop_gradient(teacher)
        weights = batch["example_weights"]
        if self.classes == 1:
            loss = losses.mean(losses.squared_error(logits, teacher), weights)
            prediction, target, metrics = logits[:, 0], batch["score"], {}
        else:
            loss = losses.mean(losses.kl_divergence(teacher, logits, self.temperature), weights)
            prediction, target = jnp.argmax(logits, axis=-1), batch["label"]
            metrics = {"accuracy": losses.mean(losses.correct(logits, target), weights)}
        if not train:
            metrics["rows"] = losses.Rows(prediction, target, weights)
        return loss, metrics

    def _task_logits(self, hidden, batch):
        pooled = self.pooler(heads.gather(hidden, batch["pair_positions"][:, :1]))
        return self.task_classifier(pooled)[:, 0]

    def _attention(self, ours, theirs, ids):
        """The error of the scores between tokens that see each other, averaged over heads.

        The code sets the scores of masked keys to 0 in both models and divides by all of them; here
        they do not count at all.
        """
        seen = attention.mask(ids, ids, causal=False) & (ids > 0)[:, None, :, None]
        error = jnp.square(ours - theirs[self._layers()]).sum(0).mean(1)  # [B T S]
        return losses.mean(error, seen[:, 0])

    def _logits(self, hidden, batch):
        masked = heads.gather(hidden, batch["masked_positions"])
        return self.masked_lm(masked, self.network.embedder.tokens)

    def predict(self, batch) -> dict[str, Float[Array, "..."]]:
        """Returns the student's `logits`: [B P V] at masked_positions, or [B C] of a task.

        Raises:
          UserError: if nothing teaches the student to predict.
        """
        if not self._uses("soft", "masked_lm"):
            raise errors.UserError(
                "This student has no head, for neither soft nor masked_lm has a weight in "
                "config.objective.weights: there is nothing that it predicts."
            )
        hidden = self.network(batch, train=False).hidden
        if self.classes:
            return {"logits": self._task_logits(hidden, batch)}
        return {"logits": self._logits(hidden, batch)}

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products; forward only for the teacher."""
        config, teacher = self.network.config, self.teacher.network.config
        rows, length = shapes["tokens"]
        student_flops = transformer.flops(config, rows, length)
        teacher_flops = transformer.flops(teacher, rows, length)
        if self._uses("soft") and not self.classes:
            student_flops += heads.masked_lm_flops(config, rows * length)
            teacher_flops += heads.masked_lm_flops(teacher, rows * length)
        if self._uses("masked_lm"):
            student_flops += heads.masked_lm_flops(config, rows * shapes["targets"][1])
        if self._uses("hidden"):
            student_flops += 2.0 * config.depth * rows * length * config.width * teacher.width
        if self._uses("embedding"):
            student_flops += 2.0 * rows * length * config.table_width * teacher.width
        return 3 * student_flops + teacher_flops
