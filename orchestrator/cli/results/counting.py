"""A progress bar for a known number of examples."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Started = Callable[[int], Callable[[int], None]]


@contextmanager
def counting(console: Console, what: str) -> Iterator[Started]:
    """A function from the number of examples to one that is called with the numbers done.

    The bar is shown in a terminal only, from the first call on.
    """
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:

        def started(n: int) -> Callable[[int], None]:
            bar = progress.add_task(what, total=n)
            return lambda done: progress.advance(bar, done)

        yield started
