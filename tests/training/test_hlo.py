"""Programs read from their text: how often what runs, which devices speak, what memory is moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from training import hlo, sharding

LAYERS, ROWS, WIDTH = 5, 64, 96


@pytest.fixture(scope="module")
def mesh(devices):
    return sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)


def compile_layers(mesh, unroll):
    """LAYERS layers of one product whose weights are gathered over fsdp."""

    def apply(weights, x):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, PartitionSpec())
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, weights, unroll=unroll)[0].sum()

    def given(shape, *spec):
        placed = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=placed)

    with jax.set_mesh(mesh):
        weights = given((LAYERS, WIDTH, WIDTH), None, "fsdp")
        return jax.jit(apply).lower(weights, given((ROWS, WIDTH), "data")).compile()


def test_a_loop_counts_as_often_as_it_runs(mesh):
    """As if it had been written out: the oracle is XLA's count of that program."""
    loop, straight = (compile_layers(mesh, unroll) for unroll in (1, LAYERS))
    program = hlo.Program(loop.as_text(), mesh.size)
    assert LAYERS in program.times.values()
    once = loop.cost_analysis()["bytes accessed"]
    assert program.traffic(loops=False) == pytest.approx(once, rel=0.05)
    whole = straight.cost_analysis()["bytes accessed"]
    assert once < 0.5 * whole
    assert program.traffic() == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("unroll", [1, LAYERS])
def test_collectives(mesh, unroll):
    program = hlo.Program(compile_layers(mesh, unroll).as_text(), mesh.size)
    (gather,) = [c for c in program.collectives() if c.kind == "all-gather"]
    assert hlo.axes_of(gather.group, mesh.shape) == ("fsdp",)
    assert (gather.count, gather.times) == ((1, LAYERS) if unroll == 1 else (LAYERS, LAYERS))
    assert gather.bytes == 4 * WIDTH * WIDTH
    (reduce,) = [c for c in program.collectives() if c.kind == "all-reduce"]
    assert hlo.axes_of(reduce.group, mesh.shape) == ("data",)
    assert (reduce.times, reduce.bytes) == (1, 4)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={}, to_apply=%add", range(8)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add", (0, 4)),
        ("replica_groups=[2,4]<=[8], dimensions={0}", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", (0, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%add", (0, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2,'a'=2] {'axis_1','a'}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['axis_0'=2,'a'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", (0, 1)),
        ("source_target_pairs={{0,0},{1,2},{2,1}}", (1, 2)),
    ],
)
def test_groups(text, group):
    assert hlo.group_of(f", channel_id=1, {text}", 8) == tuple(group)


def test_unknown_groups():
    with pytest.raises(ValueError, match="Unknown replica groups"):
        hlo.group_of("replica_groups=star{0}", 8)


def test_axes():
    shape = {"data": 2, "fsdp": 2, "tensor": 2}
    assert hlo.axes_of((0, 4), shape) == ("data",)
    assert hlo.axes_of((1, 3, 5, 7), shape) == ("data", "fsdp")
    assert hlo.axes_of((0, 7), shape) == ("data", "fsdp", "tensor")


# As libtpu writes: no trip counts, arrays in the memory of the core, reduce-scatter as a fusion.
TPU = """HloModule jit_f

%scatter (input.1: f32[128,8]) -> f32[64,8] {
  %input.1 = f32[128,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[128,8]{1,0:T(8,128)} all-reduce(%input.1), replica_groups=[1,2]<=[2]
  %constant.9 = s32[] constant(0)
  ROOT %ds.1 = f32[64,8]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %constant.9, %constant.9)
}

%body (p.1: (s32[], f32[128,8])) -> (s32[], f32[128,8]) {
  %p.1 = (s32[]{:T(128)}, f32[128,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = f32[128,8]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %near.1 = f32[128,8]{1,0:T(8,128)S(1)} negate(%x.1)
  %part.1 = f32[64,8]{1,0:T(8,128)} fusion(%near.1), kind=kCustom, calls=%scatter
  ROOT %t.1 = (s32[]{:T(128)}, f32[128,8]{1,0:T(8,128)}) tuple(%i.1, %x.1)
}

%end (p.2: (s32[], f32[128,8])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, f32[128,8]{1,0:T(8,128)}) parameter(0)
  %c.2 = s32[]{:T(128)} constant(END)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %c.2), direction=LT
}

ENTRY %main (a.1: (s32[], f32[128,8])) -> (s32[], f32[128,8]) {
  %a.1 = (s32[]{:T(128)}, f32[128,8]{1,0:T(8,128)}) parameter(0)
  ROOT %w.1 = (s32[]{:T(128)}, f32[128,8]{1,0:T(8,128)}) while(%a.1), condition=%end, body=%body
}
"""


def test_text_of_a_tpu():
    program = hlo.Program(TPU.replace("END", "12"), 2)
    (found,) = program.collectives()
    assert found == hlo.Collective("reduce-scatter", (0, 1), 4 * 128 * 8, count=1, times=12)
    # Read x and keep its negative on the chip, then write half of it.
    assert program.traffic() == 12 * (4 * 128 * 8 + 4 * 64 * 8)


def test_a_loop_whose_end_is_in_the_data():
    text = TPU.replace(
        "s32[]{:T(128)} constant(END)", "s32[]{:T(128)} get-tuple-element(%p.2), index=0"
    )
    assert hlo.Program(text, 2, unknown_trips=7).times["body"] == 7
    assert np.isclose(hlo.Program(text, 2).times["body"], 1)
