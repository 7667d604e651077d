"""What accelerators can do at best: for the share of it that a run reaches (MFU), and for plans."""

from typing import NamedTuple

# The beginning of JAX's `device_kind` -> dense bfloat16 FLOP/s of one JAX device, from the makers'
# data sheets. Longer names come before their beginnings. On TPU v2, v3 and 7x a JAX device is one
# of the two cores of a chip, so it has half of the chip's peak.
PEAK_FLOPS: dict[str, float] = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4 lite": 138e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p calls itself "TPU v5" or "TPU v5p"
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,  # float16: it has no bfloat16
    "Tesla T4": 65e12,  # float16
}


class Memory(NamedTuple):
    """The memory of one device, and what connects it with others.

    Attributes:
      size: bytes of HBM.
      bandwidth: bytes/s from and to it.
      link: bytes/s one way of one link to a neighbor; of a GPU, through NVLink to all others.
      dims: of the torus in which a TPU has two links a dimension; 0: all are connected by a switch.
      closes: a dimension whose size is a multiple of this is a ring, others are a line.
    """

    size: float
    bandwidth: float
    link: float
    dims: int = 0
    closes: int = 1


# By the beginning of `device_kind`, as above. TPUs: the pages "TPU v4", "TPU v5e", "TPU v5p" and
# "TPU v6e" of Google Cloud's documentation, which give the interconnect of a chip, both ways and
# all links together (v5e 400 GB/s, v6e 800, v5p 1200; v4 six links of 50 GB/s each way), and which
# slices are closed to a torus. GPUs: NVIDIA's data sheets; NVLink's number is for both ways.
MEMORY: dict[str, Memory] = {
    "TPU v4": Memory(32 * 2**30, 1200e9, 50e9, dims=3, closes=4),
    "TPU v5 lite": Memory(16 * 2**30, 819e9, 50e9, dims=2, closes=16),
    "TPU v5e": Memory(16 * 2**30, 819e9, 50e9, dims=2, closes=16),
    "TPU v5": Memory(95 * 2**30, 2765e9, 100e9, dims=3, closes=4),
    "TPU v6 lite": Memory(32 * 2**30, 1600e9, 100e9, dims=2, closes=16),
    "TPU v6e": Memory(32 * 2**30, 1600e9, 100e9, dims=2, closes=16),
    "NVIDIA H200": Memory(141e9, 4800e9, 450e9),
    "NVIDIA H100 PCIe": Memory(80e9, 2000e9, 300e9),
    "NVIDIA H100 NVL": Memory(94e9, 3900e9, 300e9),
    "NVIDIA H100": Memory(80e9, 3350e9, 450e9),
    "NVIDIA A100-SXM4-40GB": Memory(40e9, 1555e9, 300e9),
    "NVIDIA A100": Memory(80e9, 2039e9, 300e9),
}


def memory(device_kind: str) -> Memory | None:
    """Returns what is known of a device's memory, or None for one that is not in the table."""
    return _find(MEMORY, device_kind)


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of one device, or None for a chip that is not in the table."""
    return _find(PEAK_FLOPS, device_kind)


def _find(table, device_kind):
    return next((found for name, found in table.items() if device_kind.startswith(name)), None)
