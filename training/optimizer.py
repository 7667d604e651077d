"""OPTIMIZERS and SCHEDULES, and which parameters decay or stay frozen, told by their paths."""

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import errors
from training import matrices
from training.paths import map_with_path, path_matcher

Schedule = Callable[[Array], Array]


def constant(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """Linear warm-up to lr, then lr."""
    del total, final
    return lambda step: lr * _ramp(step, warmup)


def linear(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """Linear warm-up to lr, then linear to final * lr at the last step."""

    def schedule(step):
        left = jnp.clip((total - step) / max(total - warmup, 1), 0.0, 1.0)
        return lr * jnp.where(step < warmup, _ramp(step, warmup), final + (1 - final) * left)

    return schedule


def linear_from_start(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """BERT's: the decay counts from step 0, so that lr drops at the end of the warm-up.

    lr * step / warmup, then lr * (1 - step / total) (optimization.py).
    """

    def schedule(step):
        left = jnp.clip(1 - step / max(total, 1), 0.0, 1.0)
        return lr * jnp.where(step < warmup, _ramp(step, warmup), final + (1 - final) * left)

    return schedule


def cosine(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """Linear warm-up to lr, then half a cosine to final * lr at the last step (GPT-3, app. B)."""

    def schedule(step):
        done = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
        decayed = final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return lr * jnp.where(step < warmup, _ramp(step, warmup), decayed)

    return schedule


def inverse_square_root(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """lr / sqrt(max(step, warmup)): flat where others warm up (T5, section 3.1.2)."""
    del total, final
    return lambda step: lr * jax.lax.rsqrt(jnp.maximum(step, max(warmup, 1)).astype(jnp.float32))


def noam(lr: float, warmup: int, total: int, final: float) -> Schedule:
    """lr * min(1, step / warmup) / sqrt(max(step, warmup)) (Vaswani et al., 2017, section 5.3).

    The highest rate is lr / sqrt(warmup).
    """
    del total, final

    def schedule(step):
        latest = jnp.maximum(jnp.asarray(step, jnp.float32), max(warmup, 1))
        return lr * _ramp(step, warmup) * jax.lax.rsqrt(latest)

    return schedule


def _ramp(step, warmup):
    return jnp.minimum(step / max(warmup, 1), 1.0) if warmup else jnp.ones(())


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "linear_from_start": linear_from_start,
    "cosine": cosine,
    "inverse_square_root": inverse_square_root,
    "noam": noam,
}


def adamw(config: Mapping) -> list[optax.GradientTransformation]:
    """Adam with decoupled weight decay, with or without the correction of the moments' bias."""
    return [_adam(config), _decay(config)]


def lamb(config: Mapping) -> list[optax.GradientTransformation]:
    """LAMB (You et al., 2020): Adam's update, scaled to the norm of each layer's parameter.

    What does not decay is not scaled either, as in ALBERT's lamb_optimizer.py.
    """
    exempt = path_matcher("config.optim.no_decay", config.no_decay)
    return [_adam(config), _decay(config), scale_by_layer_trust_ratio(exempt)]


def adafactor(config: Mapping) -> list[optax.GradientTransformation]:
    """Adafactor as T5 uses it: without momentum, so b1, b2 and eps, which are Adam's, say nothing.

    Shazeer and Stern, 2018, with the numbers of its section 9; T5, section 3.1.2.
    """
    return [matrices.scale_by_adafactor(), _decay(config)]


def lion(config: Mapping) -> list[optax.GradientTransformation]:
    """Lion (Chen et al., 2023): the sign of a mean of gradients. It has no eps: that says nothing.

    Its learning rate is 3 to 10 times smaller than Adam's, and its weight decay as much larger.
    """
    return [optax.scale_by_lion(config.b1, config.b2), _decay(config)]


def muon(config: Mapping) -> list[optax.GradientTransformation]:
    """Muon (Jordan et al., 2024): the momentum of each layer's matrices, made orthogonal.

    A stack's kernels are such matrices, one for each slice of the first axis; what else there is,
    tables and heads among it, gets Adam. Updates are scaled to what Adam's usually are, 0.2
    (Liu et al., 2025, section 2.2), so that its learning rate and weight decay are Adam's too.
    """

    def kind(path, leaf):
        return "muon" if "blocks/" in path and path.endswith("kernel") else "adam"

    both = {"muon": matrices.scale_by_muon(), "adam": _adam(config)}
    return [optax.partition(both, lambda params: map_with_path(kind, params)), _decay(config)]


OPTIMIZERS = {
    "adamw": adamw,
    "lamb": lamb,
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
}


def schedule(config: Mapping, total_steps: int) -> Schedule:
    """Returns the learning rate as a function of the step, from the `optim` section.

    Raises:
      UserError: for an unknown schedule or a warm-up longer than the run.
    """
    name = errors.one_of("config.optim.schedule", config.schedule, SCHEDULES)
    if not 0 <= config.warmup_steps <= max(total_steps, 1):
        raise errors.UserError(
            f"config.optim.warmup_steps={config.warmup_steps} must be between 0 and "
            f"config.total_steps={total_steps}."
        )
    end = config.decay_steps or total_steps
    return SCHEDULES[name](config.lr, config.warmup_steps, end, config.final_lr)


def build(config: Mapping, total_steps: int) -> optax.GradientTransformation:
    """Builds the optimizer of the `optim` section.

    Raises:
      UserError: for an unknown name or a pattern that is not a regular expression.
    """
    name = errors.one_of("config.optim.name", config.name, OPTIMIZERS)
    for field in ("lr", "weight_decay", "clip_norm", "eps"):
        if not config[field] >= 0:
            raise errors.UserError(f"config.optim.{field}={config[field]} must not be negative.")
    parts = OPTIMIZERS[name](config)
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if not 0 < config.layer_decay <= 1:
        raise errors.UserError(f"config.optim.layer_decay={config.layer_decay} must be in (0, 1].")
    if config.layer_decay != 1:
        parts.append(scale_by_layer_decay(config.layer_decay))
    if config.lr_factors:
        parts.append(scale_by_path(config.lr_factors))
    parts.append(optax.scale_by_learning_rate(schedule(config, total_steps)))
    chain = optax.chain(*parts)
    if not config.frozen:
        return chain
    frozen = path_matcher("config.optim.frozen", config.frozen)
    return optax.partition(
        {True: optax.set_to_zero(), False: chain},
        lambda params: map_with_path(lambda path, _: frozen(path), params),
    )


def _decay(config):
    exempt = path_matcher("config.optim.no_decay", config.no_decay)
    return optax.add_decayed_weights(
        config.weight_decay, lambda params: map_with_path(lambda path, _: not exempt(path), params)
    )


def _adam(config):
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return adam if config.bias_correction else _uncorrected(adam, config)


def _uncorrected(adam, config):
    """Adam without bias correction: m / (sqrt(v) + eps) (BERT, optimization.py)."""

    def update(updates, state, params=None):
        del params
        moments = lambda old, new, rate, power: jax.tree.map(  # noqa: E731
            lambda o, n: rate * o + (1 - rate) * n**power, old, new
        )
        mu = moments(state.mu, updates, config.b1, 1)
        nu = moments(state.nu, updates, config.b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + config.eps), mu, nu)
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(adam.init, update)


def scale_by_layer_trust_ratio(exempt: Callable[[str], bool]) -> optax.GradientTransformation:
    """Scales each update to |parameter| / |update|, layer by layer (LAMB, algorithm 2).

    A stack's parameters hold all layers in one array [N ...], recognized by "blocks" in the path;
    each of the N slices gets a ratio of its own. A ratio with a zero norm is 1.

    Args:
      exempt: whether the parameter at a path keeps its update as it is.
    """

    def ratio(path, update, param):
        if exempt(path):
            return update
        axes = tuple(range(1 if "blocks/" in path else 0, update.ndim))
        norm = lambda x: jnp.sqrt(jnp.square(x).sum(axes, keepdims=True))  # noqa: E731
        p, u = norm(param), norm(update)
        return update * jnp.where((p > 0) & (u > 0), p / jnp.where(u > 0, u, 1.0), 1.0)

    def update(updates, state, params):
        paths = map_with_path(lambda path, _: path, updates)
        return jax.tree.map(ratio, paths, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_path(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Scales the updates of some parameters.

    Args:
      factors: (regular expression, factor) pairs; of those that are found in a parameter's path the
        first one counts.

    Raises:
      UserError: if they are not such pairs.
    """
    try:
        pairs = [(pattern, float(factor)) for pattern, factor in factors]
    except (TypeError, ValueError) as error:
        raise errors.UserError(
            f"config.optim.lr_factors={factors} must be pairs of a regular expression and a number."
        ) from error
    found = [(path_matcher("config.optim.lr_factors", (p,)), factor) for p, factor in pairs]

    def scale(path, update):
        return update * next((factor for matches, factor in found if matches(path)), 1.0)

    def update(updates, state, params=None):
        del params
        return map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_layer_decay(decay: float) -> optax.GradientTransformation:
    """Scales updates by decay^k, k growing with the distance from the heads (ELECTRA, appendix B).

    As in its optimization.py: k is 0 for the heads, 2 for the last of N layers and one more for
    each layer before it, and N + 2 for the embeddings. Layers are recognized by "blocks" in the
    path and are slices of the first axis; layers with shared parameters count as one.

    Its `init` raises a UserError unless the layers are one stack: an encoder-decoder has two, and a
    Reformer's layers are stacked by their kinds.
    """

    def init(params):
        paths = jax.tree.leaves(map_with_path(lambda path, _: path, params))
        stacks = {path.partition("/blocks/")[0] for path in paths if "/blocks/" in path}
        if len(stacks) != 1 or not stacks.pop().endswith("/stack"):
            raise errors.UserError(
                f"config.optim.layer_decay={decay} needs a network whose layers are one stack: set "
                "it to 1."
            )
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        sizes = map_with_path(lambda path, u: len(u) if "/blocks/" in path else 0, updates)
        N = max(jax.tree.leaves(sizes))

        def scale(path, u):
            if "/blocks/" in path:
                k = len(u) + 1 - jnp.arange(len(u), dtype=jnp.float32)
                return u * (decay**k).reshape(-1, *[1] * (u.ndim - 1))
            embeds = re.search(r"/(embedder|embed_norm|project|tokens)/", path)
            return u * decay ** (N + 2) if embeds else u

        return map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)
