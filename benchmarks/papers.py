"""Published few-shot problems under their published protocols, each in minutes on a CPU.

    python benchmarks/papers.py PROBLEM... [--quick] [--seeds N] [--json FILE]

Needs FEWTUNE_DATA, and `make minilm` for the intents, whose embeddings are kept in FEWTUNE_HOME.
Intervals are over episodes of one seed: they say nothing of other training runs, for which there is
--seeds, nor of other test classes.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import papers_intents
import papers_omniglot
import tidy
import torch

# Each takes a seed and whether to be quick. Another module's problems join by a line.
PROBLEMS: Mapping[str, Callable[[int, bool], list[tidy.Row]]] = {
    **papers_omniglot.PROBLEMS,
    **papers_intents.PROBLEMS,
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows: list[tidy.Row] = []
    for problem in options.problems:
        for seed in range(options.seeds):
            found = [row | {"seed": seed} for row in PROBLEMS[problem](seed, options.quick)]
            tidy.show(found)
            rows += found
    if options.json:
        tidy.write(options.json, rows, ("numpy", "torch", "transformers"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"Problems: {', '.join(PROBLEMS)}."
    )
    parser.add_argument("problems", nargs="+", choices=PROBLEMS, metavar="PROBLEM")
    parser.add_argument("--quick", action="store_true", help="a fifth of the training")
    parser.add_argument(
        "--seeds", type=int, default=1, help="of the training and of the test episodes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
