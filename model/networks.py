"""NETWORKS: from a name in a config to a network."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn

import errors
from model import decoder, encoder, encoder_decoder, ernie, layers, reformer, transformer, xlnet

NETWORKS = {
    "encoder": encoder.Encoder,
    "decoder": decoder.Decoder,
    "encoder_decoder": encoder_decoder.EncoderDecoder,
    "ernie": ernie.Ernie,
    "reformer": reformer.Reformer,
    "xlnet": xlnet.XLNet,
}


def build(config: Mapping, platform: str) -> nn.Module:
    """Builds the network `config.name` with the other keys as its knobs.

    Args:
      config: the `model` section of a config.
      platform: the backend to compute on ("cpu", "gpu", "tpu"), see `layers.numerics`.

    Raises:
      UserError: for an unknown name or knob, or sizes that do not fit each other.
    """
    knobs = dict(config)
    network = NETWORKS[errors.one_of("config.model.name", knobs.pop("name", ""), NETWORKS)]
    fields = {field.name for field in dataclasses.fields(network.Config)}
    for name in knobs:
        errors.one_of("key in config.model:", name, fields)
    if missing := {"vocab_size", "width", "depth", "heads", "mlp_width"} - set(knobs):
        raise errors.UserError(f"config.model lacks {', '.join(sorted(missing))}.")
    for name, value in knobs.items():
        if isinstance(value, list):  # of a config.json
            knobs[name] = tuple(value)
    knobs = network.Config(**knobs)
    errors.one_of("config.model.activation", knobs.activation, layers.ACTIVATIONS)
    errors.one_of("config.model.init", knobs.init, layers.INITIALIZERS)
    errors.one_of("config.model.norm", knobs.norm, layers.NORMS)
    errors.one_of("config.model.remat", knobs.remat, transformer.REMAT)
    errors.one_of("config.model.gpu_attention", knobs.gpu_attention, transformer.GPU_ATTENTION)
    errors.one_of("config.model.sharing", knobs.sharing, transformer.SHARING)
    errors.one_of("config.model.dtype", knobs.dtype, ("bfloat16", "float16", "float32"))
    for name in ("vocab_size", "width", "depth", "heads", "mlp_width", "max_positions"):
        if getattr(knobs, name) < 1:
            raise errors.UserError(f"config.model.{name} must be at least 1.")
    if not knobs.head_size and knobs.width % knobs.heads:
        raise errors.UserError(
            f"config.model.width={knobs.width} must be a multiple of config.model.heads="
            f"{knobs.heads}, or config.model.head_size be set."
        )
    if knobs.groups < 1 or knobs.depth % knobs.groups:
        raise errors.UserError(
            f"config.model.groups={knobs.groups} must divide config.model.depth={knobs.depth}."
        )
    if knobs.groups > 1 and knobs.sharing == "none":
        raise errors.UserError(
            f"config.model.groups={knobs.groups} groups nothing: set config.model.sharing to what "
            "the layers of a group share, or groups to 1."
        )
    bands = knobs.bands
    if not bands or min(bands) < 0 or (knobs.depth // knobs.groups) % len(bands):
        raise errors.UserError(
            f"config.model.bands={bands} must be one or several numbers of at least 0, as many as "
            f"divide the {knobs.depth // knobs.groups} layers."
        )
    for name in network.UNUSED:
        value, default = getattr(knobs, name), network.Config.__dataclass_fields__[name].default
        if value != default:
            raise errors.UserError(
                f"config.model.{name}={value!r} has no effect on the network "
                f"{config['name']}: leave it {default!r}."
            )
    if knobs.embed_width < 0:
        raise errors.UserError("config.model.embed_width must be at least 1, or 0: the width.")
    if knobs.head_size < 0:
        raise errors.UserError("config.model.head_size must be at least 1, or 0: width / heads.")
    for name in ("dropout", "attention_dropout", "mlp_dropout"):
        if not 0 <= getattr(knobs, name) < 1:
            raise errors.UserError(f"config.model.{name} must be in [0, 1).")
    return network(knobs, layers.numerics(knobs.dtype, platform, knobs.gpu_attention))
