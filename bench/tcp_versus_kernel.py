"""Completion times of the node's TCP and of the kernel's, as senders on the same impaired link (needs root).

    python bench/tcp_versus_kernel.py [--bytes 2000000] [--repeats 3] [--quick] [--json FILE]

For each cell of loss × delay × reordering the node sends to the kernel and the kernel to the node, both with CUBIC, interleaved,
over a TAP without offload behind the same impairments with the same seeds.  Time counts from established to the end of the
stream at the other side.  Printed: medians and the ratio kernel / node; above 1 the node is faster.
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tcp_bulk

RATE = 40e6
QUEUE = 250_000


def main() -> None:
    """The whole matrix."""
    parser = tcp_bulk.options()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three cells instead of all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.bytes = arguments.bytes or 2_000_000
    arguments.no_offload, arguments.rate, arguments.queue = True, RATE, QUEUE
    cells = list(product((0.0, 0.01, 0.02, 0.05), (0.0, 0.01, 0.05), (0.0, 0.05)))
    if arguments.quick:
        cells = [(0.0, 0.01, 0.0), (0.01, 0.01, 0.0), (0.02, 0.01, 0.05)]
    rows = []
    print("loss  one-way delay  reordering   kernel s   node s   kernel/node   node: repeated, time-outs")
    for loss, delay, reorder in cells:
        arguments.loss, arguments.delay, arguments.reorder = loss, delay, reorder
        times: dict[str, list[float]] = {"in": [], "out": []}
        repeated = timeouts = 0
        for repeat in range(arguments.repeats):
            for direction in ("in", "out"):
                arguments.seed, arguments.direction = repeat, direction
                result = tcp_bulk.measure(arguments)
                if not result["finished"]:
                    sys.exit(
                        f"a transfer ({direction}, {loss=}, {delay=}, {reorder=}) did not end within {arguments.limit} s"
                    )
                times[direction].append(float(str(result["completion"])))
                if direction == "out":
                    repeated += int(str(result["retransmissions"]))
                    timeouts += int(str(result["timeouts"]))
        kernel, node = statistics.median(times["in"]), statistics.median(times["out"])
        rows.append({"loss": loss, "delay": delay, "reorder": reorder, "kernel": kernel, "node": node, **times})
        print(
            f"{loss:4.0%}  {delay * 1000:10.0f} ms  {reorder:9.0%}  {kernel:9.2f}  {node:7.2f}  {kernel / node:12.2f}   "
            f"{repeated}, {timeouts}",
            flush=True,
        )
    ratios = [float(str(row["kernel"])) / float(str(row["node"])) for row in rows]
    print(
        f"ratio: geometric mean {statistics.geometric_mean(ratios):.2f}, worst {min(ratios):.2f}, best {max(ratios):.2f}"
    )
    print(f"cells within 10 % of the kernel or better: {sum(ratio >= 0.9 for ratio in ratios)} of {len(ratios)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
