"""TransE learns what is regular in a graph, on any mesh alike, and goes on where it was stopped."""

import json

import numpy as np
import pytest
import runs

from configs import transe as page
from data_pipeline.knowledge import store, triples
from errors import UserError
from evaluation import link_prediction
from training import transe


def classes(count=24):
    """Entities of four classes, each class with a place of its own: one tells the other."""
    lines = [(f"e{i:02}", "isa", f"class{i % 4}") for i in range(count)]
    return lines + [(f"e{i:02}", "atlocation", f"place{i % 4}") for i in range(count)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    lines = ["\t".join(triple) + "\n" for triple in classes()]
    held_out = lines[29::5]
    (folder / "train.txt").write_text("".join(x for x in lines if x not in held_out))
    (folder / "test.txt").write_text("".join(held_out))
    return folder


def config(**overrides):
    c = page.get_config()
    c.epochs, c.batch_size = 40, 16
    c.model.update(width=16, norm="l2")
    c.optim.lr = 3e-2
    c.checkpoint.every = 1000
    c.update_from_flattened_dict(overrides)
    return c


ONE = {"mesh.data": -1, "mesh.tensor": 1, "log.every": 10}


def fit(c, graph, workdir):
    read = triples.read(graph / "train.txt", {"test": graph / "test.txt"}, "hrt")
    setup, seen = transe.prepare(c, read), []
    with setup.placed():
        report = lambda step, metrics: seen.append((step, metrics["loss"]))  # noqa: E731
        params = transe.train(c, setup, read.train, workdir, report)
        asked = link_prediction.queries(read.held_out["test"], [read.train, read.held_out["test"]])
        found = link_prediction.ranks(setup.objective, params, asked)
        return params, transe.vectors(setup, params), seen, found


def test_held_out_links_are_found_and_meshes_agree(graph, tmp_path, devices):
    whole = fit(config(**ONE), graph, tmp_path / "a")
    cut = fit(
        config(**ONE | {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}), graph, tmp_path / "b"
    )
    table = cut[0]["entities"]["table"]
    assert {s.data.shape for s in table.addressable_shards} == {(32, 16)}  # rows
    np.testing.assert_allclose([x[1] for x in cut[2]], [x[1] for x in whole[2]], rtol=1e-3)
    entities, relations = whole[1]
    assert entities.shape == (32, 16) and relations.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(entities, axis=1), 1, rtol=1e-5)
    assert whole[2][-1][1] < 0.5 * whole[2][0][1]
    assert whole[3][::2].mean() < 4  # of tails; a random order: 16


def test_the_script_saves_ranks_and_continues(graph, tmp_path):
    flags = [
        "--config=configs/transe.py",
        f"--output={tmp_path / 'out'}",
        f"--config.data.train={graph / 'train.txt'}",
        f"--config.data.test={graph / 'test.txt'}",
        *("--config.model.width=8", "--config.batch_size=16", "--config.mesh.tensor=1"),
        "--config.mesh.data=-1",
    ]
    flags[0] = f"--config={runs.ROOT}/configs/transe.py"
    printed = runs.script("train_transe.py", *flags, "--config.epochs=4")
    assert "44 triples, 32 entities, 2 relations" in printed and "hits@10" in printed
    saved = store.load(tmp_path / "out")
    assert saved.entities[:2] == ["class0", "class1"] and len(saved.entities) == 32
    assert saved.entity_vectors.shape == (32, 8) and saved.triples.shape == (44, 3)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results) == {"random", "frequency", "TransE"}
    # Finished: nothing is trained, and the vectors are the same.
    runs.script("train_transe.py", *flags, "--config.epochs=4")
    again = store.load(tmp_path / "out").entity_vectors
    np.testing.assert_array_equal(again, saved.entity_vectors)
    other = config(**ONE | {"model.width": 8, "batch_size": 8})
    with pytest.raises(
        UserError, match="was started on other triples or with another config.batch"
    ):
        fit(other, graph, tmp_path / "out")
    wrong = runs.script("train_transe.py", *flags, "--config.model.norm=l1", status=2)
    assert "another config.model:" in wrong


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.norm": "l3"}, "Unknown config.model.norm"),
        ({"model.margin": 0.0}, "config.model.margin=0.0 must be above 0"),
        ({"epochs": 0}, "config.epochs=0"),
        ({"batch_size": 64}, "fewer than config.batch_size=64"),
        ({"mesh.tensor": 3}, "config.mesh"),
    ],
)
def test_a_wrong_value_is_told(overrides, message, graph):
    read = triples.read(graph / "train.txt", {}, "hrt")
    with pytest.raises(UserError, match=message):
        transe.prepare(config(**overrides), read)
