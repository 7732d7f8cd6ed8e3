"""What one device can do, and where each number is from.

Peaks are those of the manufacturer's data sheet. Shares are what part of a peak a real run reaches:
until ``launch/MEASURED.md`` holds rows of a GPU they are assumptions, and are named so.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """One device and its links, in operations and bytes a second."""

    name: str
    flops: float  # matrix products in bfloat16
    bandwidth: float  # of the device's memory
    link: float  # to the other devices of the machine, one way
    network: float  # to other machines, one way, for each device
    host: float  # to the memory of the CPUs, one way
    devices: int  # of a machine
    train_share: float  # of ``flops``, in forward and backward passes
    decode_share: float  # of ``bandwidth``, while tokens are drawn
    step_share: float  # of ``bandwidth``, in the optimizer
    link_share: float  # of ``link`` and ``network``
    sources: tuple[str, ...]


H100 = Hardware(
    name="H100 SXM 80 GB",
    flops=989e12,
    bandwidth=3.35e12,
    link=450e9,
    network=50e9,
    host=64e9,
    devices=8,
    train_share=0.40,
    decode_share=0.60,
    step_share=0.70,
    link_share=0.70,
    sources=(
        "public: NVIDIA's data sheet of the H100 SXM (989 TFLOP/s dense bf16, 3.35 TB/s, NVLink "
        "450 GB/s one way, PCIe 64 GB/s), one 400 Gb/s adapter a GPU",
        "assumed until measured: 40 % of the FLOP/s in training, 60 % of the bandwidth in "
        "decoding, 70 % in the optimizer, 70 % of the links",
    ),
)
# Seconds of one verdict on one core, and the cores beside each device.
VERDICT_SECONDS, CORES = 0.005, 16
VERDICT_SOURCE = (
    "measured: 99 % of the verdicts take at most 5 ms on a shared core (scripts/bench_rewards.py); "
    "16 cores beside each GPU"
)
