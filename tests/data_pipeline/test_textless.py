"""The copy task and images: rows that no text gives."""

import importlib
import pickle

import numpy as np
import pytest

from data_pipeline import pipeline
from errors import UserError
from model import batch as batch_lib


def load(arg, **overrides):
    config = importlib.import_module("configs.reformer").get_config(arg)
    config.update_from_flattened_dict(overrides)
    return config


def test_a_word_is_copied_and_only_the_copy_counts():
    config = load("copy", **{"data.length": 16, "data.copy.symbols": 5})
    data = pipeline.prepare_data(config)
    batch = data.train.batch(range(200))
    batch_lib.check(batch)
    tokens = batch["tokens"]
    np.testing.assert_array_equal(tokens[:, :8], tokens[:, 8:])
    assert (tokens[:, 0] == 0).all() and set(np.unique(tokens[:, 1:8])) == {1, 2, 3, 4, 5}
    assert len(np.unique(tokens, axis=0)) > 190
    counted = np.flatnonzero(batch["weights"][0])
    np.testing.assert_array_equal(counted, np.arange(8, 15))
    np.testing.assert_array_equal(batch["targets"][:, 8:15], tokens[:, 9:])
    again = pickle.loads(pickle.dumps(data.train)).batch([7, 3])
    np.testing.assert_array_equal(again["tokens"], tokens[[7, 3]])
    other = pipeline.prepare_data(load("copy", seed=1, **{"data.length": 16})).train.batch([0])
    assert (other["tokens"] != tokens[0]).any()


def test_held_out_words_are_others_and_end():
    data = pipeline.prepare_data(load("copy", **{"data.length": 16}))
    held_out = data.valid.batch(range(1020, 1028))
    assert (held_out["weights"].sum(1) == [7] * 4 + [0] * 4).all()
    assert (held_out["segment_ids"][4:] == 0).all()
    # The training rows of the same places, whose keys are the same.
    same_places = data.train.pipeline.read([b"train"], np.array([5], np.uint64))
    assert (
        data.valid.pipeline.read([b"valid"], np.array([5], np.uint64))["tokens"]
        != same_places["tokens"]
    ).any()


def images(tmp_path, suffix, shape=(40, 2, 3, 3)):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / f"images{suffix}"
    np.save(path, pixels) if suffix == ".npy" else np.savez(path, pixels)
    return path, pixels.reshape(len(pixels), -1)


def image_data(path, **overrides):
    options = {"data.source": str(path), "data.length": 18, "data.valid_fraction": 0.3}
    return pipeline.prepare_data(load("imagenet64", **options | overrides))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_byte_of_an_image_is_predicted_once(tmp_path, suffix):
    path, pixels = images(tmp_path, suffix)
    data = image_data(path)
    assert len(data.train) + len(data.valid) == 40
    batch = data.train.batch(range(len(data.train)))
    batch_lib.check(batch)
    held_out = data.valid.batch(range(len(data.valid) + 1))
    found = np.concatenate([batch["targets"], held_out["targets"][:-1]])
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(pixels, axis=0))
    np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    assert (batch["tokens"][:, 0] == 0).all() and batch["weights"].all()
    assert not held_out["weights"][-1].any()
    pickle.loads(pickle.dumps(data.train)).batch([0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.length": 27}, r"holds uint8 \[40, 2, 3, 3\], but data.length=27"),
        ({"data.source": "absent.npy"}, "must be a file .npy or .npz"),
        ({"data.source": ""}, "Give the images of imagenet64"),
        ({"data.valid_fraction": 1e-9}, "none falls into valid"),
        ({"model.vocab_size": 255}, "must be at least 256"),
        ({"batch_size": 64}, "fewer than batch_size=64"),
    ],
)
def test_wrong_images_are_told(tmp_path, overrides, message):
    path, _ = images(tmp_path, ".npy")
    with pytest.raises(UserError, match=message):
        image_data(path, **overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.length": 15}, "must be even"),
        ({"data.copy.symbols": 1}, "must be at least 2"),
        ({"data.copy.symbols": 128}, "vocab_size=128 must be at least 129"),
    ],
)
def test_wrong_copies_are_told(overrides, message):
    with pytest.raises(UserError, match=message):
        pipeline.prepare_data(load("copy", **overrides))
