"""Peak speeds of accelerators, for the share of it that a run reaches (MFU)."""

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


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of one device, or None for a chip that is not in the table."""
    for name, flops in PEAK_FLOPS.items():
        if device_kind.startswith(name):
            return flops
    return None
