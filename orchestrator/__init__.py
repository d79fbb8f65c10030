"""Runs searches: chooses trials, runs them, evaluates the results. `Search` is the interface.

```python
from orchestrator import Search

search = Search.from_yaml("configs/quickstart.yaml", home="runs")
print(search.check())                   # time and memory; raises InputError with every error
summary = search.run(progress=True)     # resume=True continues an interrupted search
search.trials()                         # a pandas DataFrame, one row for each trial
search.study()                          # an Optuna study, for optuna.visualization.matplotlib
search.export("best")                   # the best configuration and model, as a folder
```
"""

from typing import TYPE_CHECKING, Any

from fewshot.errors.inputs import ErrorDetail, FewtuneError, InputError

if TYPE_CHECKING:
    from orchestrator.api import Search, delete_search, list_searches
    from orchestrator.results.new_tasks.policy import Policy
    from orchestrator.results.predictor.predictor import Predictor
    from orchestrator.search.loop import Stopped

__all__ = [
    "ErrorDetail",
    "FewtuneError",
    "InputError",
    "Policy",
    "Predictor",
    "Search",
    "Stopped",
    "delete_search",
    "list_searches",
]


def __getattr__(name: str) -> Any:
    """Import `orchestrator.api` at first use, so that `--help` does not load torch or Optuna."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)
