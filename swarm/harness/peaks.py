"""Peak arithmetic of accelerators, for MFU: a part that is not listed is unknown, never guessed."""

from __future__ import annotations

import re

# Peak TFLOP/s of dense bf16 products with float32 sums; the first name that matches counts.
# NVIDIA: data sheets and architecture whitepapers (half of a figure given "with sparsity"; of
# GeForce cards the figure "with FP32 accumulate", half of the other).
# AMD: product pages and the CDNA 2, 3 and 4 whitepapers; of the MI250X one of its two dies.
# Intel Max: 4096 a clock and Xe core (Max series technical overview) at the highest clock.
# Gaudi: the Gaudi 3 whitepaper's comparison.
PEAK_TFLOPS = {
    "GB300": 2500, "B300": 2250, "GB200": 2500, "B200": 2250,
    "GH200": 989.5, "H200 NVL": 835.5, "H200": 989.5, "H100 NVL": 835.5, "H100 PCIe": 756.5,
    "H100": 989.5, "H800 PCIe": 756.5, "H800": 989.5, "H20": 148,
    "A100": 312, "A800": 312, "A40": 149.7, "A30": 165, "A10G": 70, "A10": 125,
    "RTX 6000 Ada": 364.2, "L40S": 362.05, "L40": 181.05, "L4": 121, "RTX A6000": 154.8,
    "RTX 5090": 209.5, "RTX 4090": 165.2, "RTX 4080": 97.5, "RTX 3090 Ti": 80, "RTX 3090": 71,
    "MI355X": 2516.6, "MI350X": 2306.9, "MI325X": 1307.4, "MI300X": 1307.4, "MI300A": 980.6,
    "MI250X": 191.5, "MI210": 181, "RX 7900 XTX": 122.8, "PRO W7900": 122.6,
    "Max 1550": 838.9, "Max 1100": 355.5, "GAUDI3": 1835, "GAUDI2": 432,
}  # fmt: skip
# The compute units (AMD) or execution units (Intel) that such a figure is for: a part may be
# divided, and then each division is a device with the name of the whole.
UNITS = {
    "MI355X": 256, "MI350X": 256, "MI325X": 304, "MI300X": 304, "MI300A": 228, "MI250X": 110,
    "MI210": 104, "Max 1550": 1024, "Max 1100": 448,
}  # fmt: skip
# Slices (MIG, vGPU profiles such as 10C) and weaker parts that share a name with a listed one.
NOT_THE_PART = re.compile(r"\b(MIG|\d+[ABCQ]|Laptop|Max Q|SUPER|D)\b")


def peak_flops(name: str, units: int | None = None) -> float | None:
    """Peak dense bf16 FLOP/s of a part by the name torch gives it; None where unknown.

    `units` are the compute units this device has of the part.
    """
    words = re.sub(r"[^\w]+", " ", name)
    found = [part for part in PEAK_TFLOPS if re.search(rf"\b{part}\b", words)]
    if not found or NOT_THE_PART.search(words):
        return None
    share = units / UNITS[found[0]] if units and found[0] in UNITS else 1.0
    return 1e12 * PEAK_TFLOPS[found[0]] * share
