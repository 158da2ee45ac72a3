"""Runs the simulator alone and prints the settings that point the plugin at it.

It approves every device code after a moment, uses every tool that a prompt offers, and has one
banked reset.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import threading

# `python3 tests/simulator` starts this file without its package.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from simulator import Simulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="listen here (default: a free port)")
    parser.add_argument("--polls", type=int, default=2, help="approve a code after this many polls")
    arguments = parser.parse_args()
    simulator = Simulator(arguments.port)
    simulator.interval = "1"
    simulator.approve_after_polls = arguments.polls
    simulator.uses_tools = True
    simulator.bank_reset()
    with simulator:
        for name, value in simulator.environment.items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
