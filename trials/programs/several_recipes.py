"""A program for trials of several recipes: one program for each recipe, trained in turns."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fewshot.errors.disk import disk_problem
from fewshot.errors.parts import failure_of
from trials.contract import Outcome, Recipe, RungReport, TrialProgram, TrialResult, TrialSpec
from trials.data.sources import SharedSources
from trials.programs.build import build

# Programs without trials are dropped, the oldest first, when there are more than this.
_KEPT = 8


def build_for_all(
    recipe: Recipe, *, lanes: int, folder: Path, cache: Path, threads: int = 1
) -> "SeveralRecipes":
    """The program of a worker: at first for `recipe`, later also for those of other trials.

    Programs of recipes with the same datasets share the inputs. See `trials.programs.build.build`.
    """
    load = SharedSources()
    make = partial(build, lanes=lanes, folder=folder, cache=cache, threads=threads, load=load)
    return SeveralRecipes(make, lanes=lanes, first=recipe)


class SeveralRecipes:
    """The `TrialProgram` whose trials may have any recipes.

    It has at most `lanes` trials at a time, of whatever recipes. The program of a recipe is made
    when its first trial comes, and has room for all of them.

    make: makes the program of a recipe with `lanes` lanes. first: a recipe whose program is made at
    once, so that its errors are seen before the search starts.
    """

    def __init__(
        self, make: Callable[[Recipe], TrialProgram], *, lanes: int, first: Recipe
    ) -> None:
        self.lanes = lanes
        self.lane_steps = 0
        self.capacity_steps = 0
        self._idle_steps = 0.0
        self._interrupted = False
        self._make = make
        self._failed: list[TrialResult] = []  # trials whose program can't be made
        self._programs: dict[str, TrialProgram] = {first.fingerprint: make(first)}
        self._recipe_of: dict[str, str] = {}  # by the key of each live or queued trial
        self._turns: Counter[str] = Counter()  # of each recipe that has trials

    @property
    def free(self) -> int:
        return max(0, self.lanes - len(self._recipe_of))

    def admit(self, spec: TrialSpec) -> None:
        recipe = spec.recipe.fingerprint
        if recipe not in self._programs:
            self._drop_unused()
            try:
                self._programs[recipe] = self._make(spec.recipe)
            except Exception as error:
                if disk_problem(error):
                    raise
                # The data were checked for each option, but not for all of their combinations.
                self._failed.append(_failed(spec, error))
                return
            if self._interrupted:
                self._programs[recipe].interrupt()
        if recipe not in self._recipe_of.values():  # a recipe that comes later is not ahead
            self._turns[recipe] = min((self._turns[r] for r in self._live()), default=0)
        self._recipe_of[spec.key] = recipe
        self._programs[recipe].admit(spec)

    def _live(self) -> set[str]:
        return set(self._recipe_of.values())

    def _drop_unused(self) -> None:
        unused = [recipe for recipe in self._programs if recipe not in self._live()]
        for recipe in unused[: max(0, len(self._programs) - _KEPT + 1)]:
            del self._programs[recipe]

    def advance(self) -> list[RungReport]:
        """Train the trials of the recipe that had the fewest turns."""
        if not self._recipe_of:
            return []
        recipe = min(sorted(self._live()), key=lambda r: self._turns[r])
        self._turns[recipe] += 1
        program = self._programs[recipe]
        before = program.lane_steps
        reports = program.advance()
        taken = program.lane_steps - before
        self.lane_steps += taken
        # Lanes that hold trials of other recipes are not idle: they wait for their turn. So the
        # free lanes are idle in each of these steps for a part only.
        self._idle_steps += taken * self.free / len(self._recipe_of)
        self.capacity_steps = self.lane_steps + round(self._idle_steps)
        if self._interrupted:
            for other in self._live() - {recipe}:  # they save their trials
                self._programs[other].advance()
        return reports

    def ended(self) -> list[TrialResult]:
        results = [result for program in self._programs.values() for result in program.ended()]
        for result in results:
            del self._recipe_of[result.key]
        failed, self._failed = self._failed, []
        return results + failed

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        if key not in self._recipe_of:
            raise ValueError(f"No live trial {key!r}.")
        return self._programs[self._recipe_of.pop(key)].release(key, outcome)

    def interrupt(self) -> None:
        self._interrupted = True
        for program in list(self._programs.values()):  # another thread may add one meanwhile
            program.interrupt()


def _failed(spec: TrialSpec, error: Exception) -> TrialResult:
    failure = failure_of(error)
    return TrialResult(
        key=spec.key,
        outcome="failed",
        step=0,
        error=failure.message,
        traceback=failure.traceback,
        time=time.time(),
    )
