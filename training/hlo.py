"""What a compiled program does, read from the text of its optimized HLO.

XLA's own cost analysis counts the body of a loop once, however often it runs; here every
instruction is counted as often as it runs. Understood are the texts of jaxlib 0.10 for TPU, GPU and
CPU. Letters: `n` devices of a group.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
    "collective-permute",
)
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
# They move nothing, or what they do is counted where it happens.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while"),
    *("conditional", "call", "partition-id", "replica-id", "domain", "opt-barrier"),
    *("add-dependency", "async-start", "async-update"),
}
_READS_A_PART = ("dynamic-slice", "slice", "gather")
_SAME_PLACE = ("bitcast", "reshape", "copy", "convert")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result."""

    bytes: float
    on_chip: bool  # in a memory of the chip's core, not in its HBM


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: str  # its type, as written
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def arrays(self) -> list[Array]:
        """Of the result."""
        return [
            Array(
                _item_bytes(kind) * math.prod(map(int, filter(None, sizes.split(",")))),
                "S(1)" in layout,
            )
            for kind, sizes, layout in _ARRAY.findall(self.result)
        ]

    @property
    def bytes(self) -> float:
        """Of the whole result."""
        return sum(array.bytes for array in self.arrays)

    def attribute(self, name: str) -> str | None:
        """Returns the computation that an attribute names."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
    """Equal communications of a program."""

    kind: str  # of KINDS
    group: tuple[int, ...]  # devices that speak with each other, by their place in the mesh
    bytes: float  # of one device's whole array: what is gathered, or is to be reduced
    count: int  # instructions in the text
    times: float  # that they run in a step, all together


class Program:
    """A compiled program, its loops unrolled in the mind."""

    def __init__(self, text: str, devices: int, unknown_trips: int = 1):
        """Reads the text.

        Args:
          text: `compiled.as_text()`.
          devices: on which it runs.
          unknown_trips: how often a loop runs whose end only its data tell.
        """
        self._devices, self._unknown_trips = devices, unknown_trips
        self._computations, self._entry = _read(text)
        self.times = self._count()  # computation -> how often it runs
        self._fused = {
            i.attribute("calls")
            for lines in self._computations.values()
            for i in lines.values()
            if i.opcode == "fusion"
        }

    def _count(self) -> dict[str, float]:
        times = collections.defaultdict(float)

        def visit(name, count):
            times[name] += count
            for i in self._computations[name].values():
                for called, trips in self._calls(i):
                    visit(called, count * trips)

        visit(self._entry, 1)
        return dict(times)

    def _calls(self, i: Instruction) -> Iterator[tuple[str, int]]:
        """Yields the computations that an instruction runs, and how often."""
        if i.opcode == "while":
            yield i.attribute("body"), self._trips(i)
        elif i.opcode == "conditional":  # as if each branch were taken
            listed = re.search(r"branch_computations=\{([^}]*)\}", i.attributes)
            names = _NAME.findall(listed[1]) if listed else ()
            both = (i.attribute("true_computation"), i.attribute("false_computation"))
            yield from ((name, 1) for name in names or both if name)
        elif i.opcode == "call":
            yield i.attribute("to_apply"), 1
        elif i.opcode in ("fusion", "async-start"):
            yield i.attribute("calls"), 1

    def _trips(self, loop: Instruction) -> int:
        """Returns how often a loop runs: JAX's count from 0 up to a constant, or to a value."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(known[1])
        condition = self._computations[loop.attribute("condition")]
        ends = [i for i in condition.values() if i.opcode == "constant" and "[]" in i.result]
        if len(ends) == 1 and (value := re.fullmatch(r"\d+", ends[0].operands[0])):
            return int(value[0])
        return self._unknown_trips

    def collectives(self) -> list[Collective]:
        """Returns the communications, those of one kind, group and size together."""
        found = collections.defaultdict(lambda: [0, 0.0])
        for name, times in self.times.items():
            lines = self._computations[name]
            for i in lines.values():
                kind = i.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                size = self._collective_bytes(kind, i, lines)
                if kind == "all-reduce" and _is_scattered(lines):
                    kind = "reduce-scatter"  # as the TPU's compiler writes it
                entry = found[kind, group_of(i.attributes, self._devices), size]
                entry[0] += 1
                entry[1] += times
        return [Collective(*key, *counts) for key, counts in found.items()]

    def _collective_bytes(self, kind, i, lines):
        read = sum(lines[name].bytes for name in i.operands if name in lines)
        if kind == "all-gather":
            written = [array.bytes for array in i.arrays]
            # all-gather-start gives what it read, and what it gathered.
            return sum(written) - read if i.opcode.endswith("-start") else sum(written)
        return read

    def traffic(self, *, loops: bool = True) -> float:
        """Returns the bytes that go from and to the memory (HBM) of a device in a step.

        Args:
          loops: count their bodies as often as they run, not once as XLA's cost analysis.
        """
        return sum(
            (times if loops else 1) * self._traffic_of(i, self._computations[name])
            for name, times in self.times.items()
            if name not in self._fused
            for i in self._computations[name].values()
        )

    def _traffic_of(self, i: Instruction, lines: Computation) -> float:
        if i.opcode in _FREE or i.opcode.endswith("-done"):
            return 0
        if i.opcode == "custom-call" and "AllocateBuffer" in i.attributes:
            return 0
        written = _in_hbm(i)
        if i.opcode in ("copy-start", "slice-start"):  # (to, from, ...): a copy between memories
            sizes = [array for array in i.arrays if array.bytes > 4]
            moved = min((array.bytes for array in sizes), default=0)
            return moved * sum(not array.on_chip for array in sizes[:2])
        if i.opcode.endswith("-start"):  # (from, to)
            return written
        operands = [lines[name] for name in i.operands if name in lines]
        if i.opcode == "fusion":
            return self._traffic_of_fusion(i, operands)
        if i.opcode in _READS_A_PART:
            return 2 * written
        if i.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(operands[1])
        if i.opcode == "scatter":
            return 3 * _in_hbm(operands[-1])
        return written + sum(map(_in_hbm, operands))

    def _traffic_of_fusion(self, i: Instruction, operands: Sequence[Instruction]) -> float:
        """What is read of the operands, of some a slice only, and written of the results."""
        lines = self._computations[i.attribute("calls")]
        root = next(line for line in lines.values() if line.root)
        if root.opcode == "tuple":
            results = [lines[name] for name in root.operands]
        else:
            results = [root] if len(i.arrays) == 1 else []
        written = 0 if results else _in_hbm(i)
        for line, array in zip(results, i.arrays, strict=False):
            written += 0 if array.on_chip else self._written(line, lines)
        return written + sum(
            self._read(line, lines)
            for line in lines.values()
            if line.opcode == "parameter" and _in_hbm(operands[int(line.operands[0])])
        )

    def _read(self, line: Instruction, lines: Computation) -> float:
        """Returns how many bytes of an instruction's result those behind it in a fusion read."""
        total = 0
        for user in lines.values():
            for place, name in enumerate(user.operands):
                if name != line.name:
                    continue
                if user.opcode in _READS_A_PART and place == 0:
                    total += user.bytes
                elif user.opcode == "fusion":
                    inner = self._computations[user.attribute("calls")]
                    total += self._read(_parameter(inner, place), inner)
                elif user.opcode in _SAME_PLACE and not user.root:
                    total += self._read(user, lines)
                elif user.opcode != "dynamic-update-slice" or place:  # that is done in place
                    return line.bytes
        return min(total, line.bytes)

    def _written(self, line: Instruction, lines: Computation) -> float:
        """Returns how many bytes of a result are written: of an update in place that alone."""
        while line.opcode in _SAME_PLACE and line.operands[0] in lines:
            line = lines[line.operands[0]]
        if line.opcode == "dynamic-update-slice":
            return lines[line.operands[1]].bytes
        if line.opcode == "fusion":
            inner = self._computations[line.attribute("calls")]
            return self._written(next(x for x in inner.values() if x.root), inner)
        return line.bytes


def group_of(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the first group of devices in the attributes of a collective.

    Raises:
      ValueError: for a way to write groups that is not known.
    """
    if "replica_groups={}" in attributes:
        return tuple(range(devices))
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        both = [_numbers(pair) for pair in pairs[1].split("},{")]
        return next((pair for pair in both if len(set(pair)) > 1), both[0])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _numbers(listed[1])
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return tuple(_iota(iota[1])[0].tolist())
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}", attributes
    )
    if named is None:
        raise ValueError(f"Unknown replica groups in {attributes[:300]!r}.")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
    order = np.arange(math.prod(sizes.values()))
    if named[2]:
        order = _iota(named[2]).ravel() if "<=" in named[2] else _transposed(named[2])
    inside = re.findall(r"'(\w+)'", named[3])
    places = order.reshape(tuple(sizes.values()))
    return tuple(places[tuple(slice(None) if n in inside else 0 for n in sizes)].ravel().tolist())


def axes_of(group: Sequence[int], shape: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes of a mesh along which the devices of a group differ."""
    places = np.array(np.unravel_index(np.array(group), tuple(shape.values())))
    return tuple(name for name, row in zip(shape, places) if len(set(row.tolist())) > 1)


def _iota(text):
    """Reads [groups,n]<=[a,b]T(1,0)."""
    sizes, rest = text.split("<=")
    return _transposed(rest).reshape(_numbers(sizes))


def _transposed(text):
    """Reads [a,b]T(1,0)."""
    sizes, _, order = text.partition("T")
    sizes = _numbers(sizes)
    places = np.arange(math.prod(sizes)).reshape(sizes)
    return (places.transpose(_numbers(order)) if order else places).ravel()


def _numbers(text):
    return tuple(map(int, re.findall(r"\d+", text)))


def _read(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations by name, and the name of the first to run."""
    computations, entry, lines = {}, "", {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, name, rest = found.groups()
            lines[name] = _instruction(name, rest, bool(root))
    return computations, entry


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """Reads `TYPE opcode(operands), attributes`."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    result, rest = text[:end], text[end:].lstrip()
    begin = rest.index("(")
    close = _closing(rest, begin)
    inside = rest[begin + 1 : close]
    operands = tuple(_NAME.findall(inside)) or (inside,)
    return Instruction(name, rest[:begin], result, operands, rest[close + 1 :], root)


def _closing(text, begin):
    """Returns where the parenthesis that opens at `begin` closes."""
    depth = 0
    for i in range(begin, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"A parenthesis does not close in {text[:200]!r}.")


def _item_bytes(kind: str) -> float:
    if kind == "pred":
        return 1
    bits = re.match(r"[a-z]+?(\d+)", kind)
    return int(bits[1]) / 8 if bits else 0  # a token has none


def _in_hbm(i: Instruction) -> float:
    return sum(array.bytes for array in i.arrays if not array.on_chip)


def _parameter(lines: Computation, place: int) -> Instruction:
    """Returns a computation's parameter by its number."""
    wanted = (str(place),)
    return next(i for i in lines.values() if i.opcode == "parameter" and i.operands == wanted)


def _is_scattered(lines: Computation) -> bool:
    """Whether a computation keeps its own part of what it reduces, and nothing else."""
    return any(i.root and i.opcode == "dynamic-slice" for i in lines.values())
