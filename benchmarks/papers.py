"""Runs published few-shot problems under their published protocols, each in minutes on a CPU.

    python benchmarks/papers.py PROBLEM... [--quick] [--seeds N] [--json FILE]

Omniglot, CIFAR-FS and the intents need FEWTUNE_DATA; the intents also need `make minilm`. Their
embeddings are cached in FEWTUNE_HOME. Intervals are over the episodes of one seed, or over the
folds of classes. They do not include the variation between training runs; use --seeds for that.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import papers_cifar
import papers_functions
import papers_intents
import papers_omniglot
import papers_worlds
import tidy
import torch

# Each problem takes the number of seeds and the flag `quick`. Add the problems of a module here.
PROBLEMS: Mapping[str, Callable[[int, bool], Iterable[tidy.Row]]] = {
    **papers_functions.PROBLEMS,
    **papers_omniglot.PROBLEMS,
    **papers_cifar.PROBLEMS,
    **papers_intents.PROBLEMS,
    **papers_worlds.PROBLEMS,
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows: list[tidy.Row] = []
    for problem in options.problems:
        for row in PROBLEMS[problem](options.seeds, options.quick):
            tidy.show([row])
            rows.append(row)
    if options.json:
        tidy.write(options.json, rows, ("numpy", "torch", "transformers"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"Problems: {', '.join(PROBLEMS)}."
    )
    parser.add_argument("problems", nargs="+", choices=PROBLEMS, metavar="PROBLEM")
    parser.add_argument("--quick", action="store_true", help="a fifth of the training")
    parser.add_argument("--seeds", type=int, default=1, help="of the training, or of the episodes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
