"""What a train step will need and how long it will take, from the program that the compiler makes.

The step is the one of train.py, compiled for devices that may be elsewhere (topologies.py), from
shapes alone: no text is read and no weight is made.
"""

import dataclasses
import hashlib
import importlib.metadata
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from jaxtyping import PyTree

from data_pipeline import loader, shapes
from training import chips, digests, hlo, interconnect, sharding
from training import setup as setup_lib

_PACKAGES = ("jax", "jaxlib", "flax", "libtpu")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device; None: the compiler refused, and says only how much it needed in all.

    Attributes:
      parameters, optimizer: of the state.
      batch: the rows, and what layouts pad all of these with.
      gradients: like the parameters that are trained; all of them live when their norm is known.
      activations: all other temporaries, where most is alive.
      outputs: what is not written in place of the donated state.
      code: the program.
      needed: all together, as the compiler has it.
      temporaries_reported: XLA's own number, which on a TPU has more than is alive at a time.
      limit: what the device has; None: not in training/chips.py.
      fits: whether there is room; None if the limit is not known.
    """

    parameters: int
    optimizer: int
    batch: int | None
    gradients: int
    activations: int | None
    outputs: int | None
    code: int | None
    needed: int
    temporaries_reported: int | None
    limit: int | None
    fits: bool | None


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step by each of the roofs, at the speeds of the data sheets.

    Attributes:
      compute: of the model's operations, nothing computed twice.
      recompute: of the parameter products that the backward pass computes again: a forward pass, or
        none. The cheap rest, attention's products with it, is not counted.
      memory: from and to the HBM.
      interconnect: of the collectives, one after another.
    """

    compute: float
    recompute: float
    memory: float
    interconnect: float

    @property
    def least(self) -> float:
        """If each goes on beside the others, and nothing is computed twice."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def most(self) -> float:
        """If none does."""
        return self.compute + self.recompute + self.memory + self.interconnect

    @property
    def bottleneck(self) -> str:
        """The highest roof."""
        names = ("compute", "memory", "interconnect")
        return max(names, key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler and the data sheets say about a config.

    Attributes:
      device: its kind, in JAX's words.
      mesh: devices by axis.
      parameters: how many there are.
      steps: full ones; a batch that grows makes fewer of them than config.total_steps.
      tokens: of a full batch, padding included.
      flops: of the model in a step, forward and backward, over all devices.
      memory: see there.
      communication: none if the compiler refused, and so for what follows.
      traffic: bytes from and to the HBM of a device in a step; loops counted as often as they run.
      traffic_counted_once: XLA's own number, every loop counted once.
      times: None for a device that is not in training/chips.py.
      refusal: what the compiler said where the step does not fit; "": it compiled.
      program: a hash of the lowered step: that of train.py has the same.
      versions: of the libraries.
    """

    device: str
    mesh: dict[str, int]
    parameters: int
    batch_size: int
    microbatches: int
    steps: float
    tokens: int
    flops: float
    memory: Memory
    communication: list[interconnect.Communication]
    traffic: float | None
    traffic_counted_once: float | None
    times: Times | None
    refusal: str
    program: str
    versions: dict[str, str]

    @property
    def devices(self) -> int:
        """How many."""
        return math.prod(self.mesh.values())

    def days(self, seconds: float) -> float:
        """Returns how long all steps take, at so many seconds each."""
        return self.steps * seconds / 86400

    def utilization(self, seconds: float) -> float:
        """Returns the model's share of the peak (MFU), at so many seconds a step."""
        return self.times.compute / seconds

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, and what follows from it, in JSON's types."""
        result = dataclasses.asdict(self)
        result["devices"] = self.devices
        if self.times:
            least, most = self.times.least, self.times.most
            result["times"] |= {"least": least, "most": most, "bottleneck": self.times.bottleneck}
            result["days"] = [self.days(least), self.days(most)]
            result["chip_hours"] = [24 * self.devices * days for days in result["days"]]
            result["mfu"] = [self.utilization(most), self.utilization(least)]
        result["advice"] = advice(self)
        return result


def inputs(setup: setup_lib.Setup, config: ml_collections.ConfigDict) -> tuple:
    """Returns the state, the batch and the key of a config's train step, as shapes."""
    rows = loader.batch_sharding(setup.mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype, sharding=rows)
        for name, x in shapes.example(config).items()
    }
    with setup.placed():
        state = setup.abstract()
    dtype = jax.eval_shape(jax.random.key, config.seed).dtype
    key = jax.ShapeDtypeStruct((), dtype, sharding=sharding.replicated(setup.mesh))
    return state, batch, key


def lower(setup: setup_lib.Setup, state, batch, key) -> jax.stages.Lowered:
    """Returns the train step for these inputs, lowered for the mesh of its setup."""
    with setup.placed():
        return setup.train_step(state).lower(state, batch, key)


def make(
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device] | None = None,
    *,
    without_weights: bool = False,
) -> Plan:
    """Compiles a config's train step, and reads what comes out.

    Args:
      config: a whole config; completed as train.py does.
      devices: to compile for; default: those of this machine.
      without_weights: whether to plan for the page's own teacher where none is given.

    Raises:
      UserError: for what train.py would refuse before it reads the text.
    """
    setup = setup_lib.prepare(config, devices, without_weights=without_weights)
    mesh, objective = setup.mesh, setup.objective
    state, batch, key = inputs(setup, config)
    lowered = lower(setup, state, batch, key)
    row = {name: x.shape for name, x in batch.items()}
    kind = mesh.devices.flat[0].device_kind
    flops = objective.flops(row)

    compiled, refusal = None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = str(error).strip()
    communication, traffic, once, times = [], None, None, None
    if compiled:
        program = hlo.Program(compiled.as_text(), mesh.size, config.microbatches)
        communication = interconnect.add_up(program.collectives(), mesh)
        traffic = program.traffic()
        once = compiled.cost_analysis()["bytes accessed"]
        again = config.model.get("reversible") or config.model.get("remat") == "full"
        times = _times(kind, flops / mesh.size, again, traffic, communication)
    return Plan(
        device=kind,
        mesh=dict(mesh.shape),
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        batch_size=config.batch_size,
        microbatches=config.microbatches,
        steps=setup.sizes.before(config.total_steps) / setup.sizes.full,
        tokens=math.prod(row["tokens"]),
        flops=flops,
        memory=_memory(state, setup.frozen, compiled and compiled.memory_analysis(), kind, refusal),
        communication=communication,
        traffic=traffic,
        traffic_counted_once=once,
        times=times,
        refusal=refusal,
        program=hashlib.blake2b(lowered.as_text().encode(), digest_size=8).hexdigest(),
        versions=_versions(),
    )


def _times(kind, flops, again, traffic, communication) -> Times | None:
    chip, peak = chips.memory(kind), chips.peak_flops(kind)
    if chip is None or peak is None:
        return None
    compute = flops / peak
    return Times(
        compute=compute,
        recompute=compute / 3 if again else 0.0,
        memory=traffic / chip.bandwidth,
        interconnect=sum(c.seconds for c in communication),
    )


def _memory(state, frozen, stats, kind: str, refusal: str) -> Memory:
    """Divides what a device holds into what it is for."""
    chip = chips.memory(kind)
    parameters, whole = _local_bytes(state.params), _local_bytes(state)
    named = digests.named_leaves(state.params)
    trained = _local_bytes([x for path, x in named.items() if not frozen(path)])
    limit = None if chip is None else int(chip.size)
    if stats is None:
        needed, limit = refused_bytes(refusal) or (whole + trained, limit)
        return Memory(
            parameters=parameters,
            optimizer=whole - parameters,
            batch=None,
            gradients=trained,
            activations=None,
            outputs=None,
            code=None,
            needed=needed,
            temporaries_reported=None,
            limit=limit,
            fits=False,
        )
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    if kind.startswith("TPU"):
        # What the compiler compares with the chip is the peak, arguments and outputs included: 68
        # rows of GPT-2 124M compile for a v5e, whose 15.75 GiB are more than their peak of 15.28
        # and less than arguments and temporaries, 18.26; 72 are refused, for 16.09 GiB. (In other
        # compilers' statistics the peak leaves temporaries out.)
        temporaries = stats.peak_memory_in_bytes - arguments - outputs
    gradients = min(trained, temporaries)
    needed = arguments + temporaries + outputs + stats.generated_code_size_in_bytes
    return Memory(
        parameters=parameters,
        optimizer=whole - parameters,
        batch=arguments - whole,
        gradients=gradients,
        activations=temporaries - gradients,
        outputs=outputs,
        code=stats.generated_code_size_in_bytes,
        needed=needed,
        temporaries_reported=stats.temp_size_in_bytes,
        limit=limit,
        fits=None if limit is None else needed <= limit,
    )


def refused_bytes(refusal: str) -> tuple[int, int] | None:
    """Returns what the compiler says it needed and had: "(27.68G) exceeds available HBM (15.75G)".

    None if it says that in other words.
    """
    found = re.search(
        r"\(?([\d.]+)([KMG])\)? (?:exceeds available HBM|of) \(?([\d.]+)([KMG])", refusal
    )
    if found is None:
        return None
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(float(found[1]) * units[found[2]]), int(float(found[3]) * units[found[4]])


def _local_bytes(tree: PyTree) -> int:
    """Returns the bytes of a tree's arrays that lie on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def advice(plan: Plan) -> list[str]:
    """Returns what to change in a config that does not fit, the best first; [] if it fits."""
    m = plan.memory
    if m.fits is not False or m.limit is None:
        return []
    result = []
    state = m.parameters + m.optimizer + m.gradients
    copies = plan.mesh["data"]
    rest = m.needed - state
    if state > m.limit / 3 and copies > 1:
        result.append(
            f"Parameters, optimizer and gradients take {state / 2**30:.1f} GiB on each chip, and "
            f"lie whole {copies} times: give them more chips with --config.mesh.data=1 "
            f"--config.mesh.fsdp={copies * plan.mesh['fsdp']}."
        )
    rows = plan.batch_size // (plan.microbatches * copies * plan.mesh["fsdp"])
    if rest > state and rows > 1:
        factor = next(f for f in range(2, rows + 1) if rows % f == 0)
        result.append(
            f"A chip computes {rows} rows at a time: --config.microbatches="
            f"{plan.microbatches * factor} makes that {rows // factor}, and what is kept for the "
            "backward pass shrinks with them."
        )
    if rest > state:
        result.append(
            "Keep less for the backward pass: --config.model.remat=full, and for causal_lm more "
            "--config.objective.logit_chunks."
        )
    if not result or state > m.limit:
        result.append(
            f"Use more chips than {plan.devices}, or such with more memory than "
            f"{m.limit / 2**30:.0f} GiB; --config.mesh.fsdp divides the state over them."
        )
    return result


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # libtpu is an extra
    return found
