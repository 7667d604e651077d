"""ERNIE's table of entities lies in parts on the mesh, and only what is looked up moves."""

import re

import batches
import jax
import numpy as np
import tiny
from test_step import Run

from training import paths, setup


def test_a_table_of_millions_stays_where_it_lies(devices):
    """5 M vectors of width 100, frozen: each device has an eighth, and no moments of it."""
    c = tiny.config("ernie", **{"model.entities": 5_040_986, "model.entity_width": 100})
    c.model.entity_heads = 4
    c.optim.frozen = ("knowledge/entities/",)
    c.mesh.update(data=1, fsdp=4, tensor=2)
    made = setup.prepare(c, devices)
    with made.placed():
        abstract = made.abstract()
    table = abstract.params["network"]["knowledge"]["entities"]["table"]
    assert table.shape == (5_041_024, 100)
    assert table.sharding.shard_shape(table.shape) == (5_041_024 // 8, 100)
    assert not [x for x in jax.tree.leaves(abstract.opt_state) if x.shape == table.shape]


def test_lookups_gather_no_table(devices):
    c = tiny.config("ernie", **{"model.entities": 8191, "model.entity_width": 20})
    c.optim.frozen = ("knowledge/entities/",)
    run = Run(c, (2, 2, 2), devices)
    frozen = paths.path_matcher("", c.optim.frozen)
    table = run.state.params["network"]["knowledge"]["entities"]["table"]
    assert table.sharding.shard_shape(table.shape) == (2048, 20)
    batch = batches.entity_lm(16, 16, 4, tiny.VOCAB, padding=2)
    _, compiled, batch = run.compile(batch, frozen)
    text = compiled.as_text()
    assert re.search(r"f32\[2048,20\]", text)
    for rows in (4096, 8192):  # of more devices than one
        assert not re.search(rf"\[{rows},20\]", text)
    state, _ = compiled(run.state, batch, jax.random.key(1))
    after = state.params["network"]["knowledge"]["entities"]["table"]
    np.testing.assert_array_equal(after, table)
