"""What the tests of all families share: random checkpoints, and models of PyTorch beside ours."""

import pathlib

import jax
import ml_collections
import numpy as np
import optax
import safetensors.numpy

from model import batch as batch_lib
from model import losses, objectives
from training import huggingface, state
from training.huggingface import mapping


def build(model, objective, **knobs):
    """Returns our objective for two sections of a config, computing in float32."""
    sections = {"model": {**model, "dtype": "float32", **knobs}, "objective": objective}
    return objectives.build(ml_collections.ConfigDict(sections), platform="cpu")


def random_params(objective, seed=0):
    """Returns parameters without any 0 or 1, or two exchanged vectors would go unnoticed."""
    init = state.Init(objective, optax.identity())
    shapes = state.unbox(jax.eval_shape(init, jax.random.key(0)).params)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def leaves(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(v) for k, v in paths}


def assert_same_bits(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.dtype == theirs[path].dtype == np.float32
        assert value.shape == theirs[path].shape
        assert value.tobytes() == theirs[path].tobytes(), path


def change_tensors(folder, change):
    """Rewrites the weights of a published checkpoint with `change(tensors)`."""
    path = folder / "model.safetensors"
    tensors = {k: v.copy() for k, v in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(change(tensors), path)


class Oracle:
    """A model of `transformers` with random weights, and ours with the same ones."""

    def __init__(self, model, folder: pathlib.Path, **knobs):
        import torch

        self.torch_model = model.eval()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.ndim == 1:  # 0 or 1 would hide two exchanged vectors
                    norm_scale = "LayerNorm.weight" in name or name.endswith("ln_f.weight")
                    norm_scale |= "ln_" in name or "layer_norm" in name
                    value.normal_(1.0 if norm_scale else 0.0, 0.3)
                else:
                    value.normal_(0.0, 0.25)
        model.save_pretrained(folder)
        self.published = huggingface.load(folder)
        self.objective = build(self.published.model, self.published.objective, **knobs)

    def run(self, batch):
        """Returns (predictions, loss, gradients) of our model in one compilation."""
        batch_lib.check(batch)

        def loss(params):
            terms, _ = self.objective.apply({"params": params}, batch, train=False)
            means = {name: term.value for name, term in terms.items()}
            return losses.combine(means, self.objective.weights)

        @jax.jit
        def everything(params):
            apply = self.objective.apply
            predictions = apply({"params": params}, batch, method=self.objective.predict)
            return predictions, *jax.value_and_grad(loss)(params)

        return jax.tree.map(np.asarray, everything(self.published.params))

    def torch_gradients(self, loss):
        """Returns the gradients of a loss of the PyTorch model, under our names.

        Of parameters that the loss does not read they are 0. RoBERTa's token type has no place in
        ours.
        """
        loss.backward()
        gradients = {
            n: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
            for n, p in self.torch_model.named_parameters()
        }
        gradients.pop("roberta.embeddings.token_type_embeddings.weight", None)
        family = huggingface.FAMILIES[self.published.family]
        gradients = getattr(family, "adapt", dict)(gradients)
        sizes = huggingface.sizes(family, self.published.model)
        return mapping.from_published(family.TABLE, sizes, gradients, "the gradients").params


def assert_close(ours, theirs):
    """Checks to 1e-4 of the largest element."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def assert_gradients_close(ours, theirs):
    """Checks every parameter to 1e-4 of its largest element.

    A key's bias shifts all scores of a query alike: its gradient is 0, and what is computed is
    rounding. Below 1e-6 of the largest gradient of all, nothing is compared.
    """
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    noise = 1e-6 * max(np.abs(value).max() for value in theirs.values())
    for path, value in theirs.items():
        assert ours[path].shape == value.shape
        assert np.abs(ours[path] - value).max() <= 1e-4 * np.abs(value).max() + noise, path


def read_exported(kind, folder, **options):
    """Returns a folder of ours as a class of transformers reads it: whole, and in evaluation."""
    theirs, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return theirs.eval()


def assert_round_trip(folder, model, objective, params):
    """Exports, imports and exports again: equal sections, the same bits, the same files."""
    huggingface.save(folder / "a", model, objective, params)
    published = huggingface.load(folder / "a")
    assert (published.model, published.objective) == (model, objective)
    assert (published.missing, published.unexpected) == ([], [])
    assert_same_bits(published.params, params)

    huggingface.save(folder / "b", published.model, published.objective, published.params)
    for name in ("config.json", "model.safetensors"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
