"""The commands for searches that run as jobs on a Ray cluster."""

import sys
from typing import Annotated

import typer

from orchestrator.cli.output import (
    CLUSTER,
    Address,
    Config,
    HomeOption,
    Json,
    Name,
    Output,
    Resume,
    Set,
    Trust,
)

app = typer.Typer()


@app.command(rich_help_panel=CLUSTER)
def submit(
    config: Config,
    set_: Set = None,
    address: Address = None,
    home: Annotated[
        str, typer.Option(metavar="DIR", help="A folder that all nodes share.")
    ] = "fewtune-runs",
    resume: Resume = False,
    trust_code: Trust = False,
) -> None:
    """Run a search as a job on a Ray cluster."""
    from orchestrator.config.loading import load_config
    from orchestrator.config.paths import is_export
    from orchestrator.config.sections.config import Config
    from orchestrator.executors import jobs
    from trials.programs.teachers import TRAINED

    output, overrides = Output(), set_ or []
    # Errors in the config are found here, before the job is submitted.
    foreign = is_export(config)
    loaded = load_config(config, overrides, foreign=foreign, trust_code=trust_code)
    teacher = loaded.teacher if isinstance(loaded, Config) else None
    trained = teacher is not None and teacher.source in TRAINED
    trusted = ["teacher.trust_code=true"] if trust_code and trained else []
    submission = jobs.submit(
        config,
        name=loaded.name,
        home=home,
        address=address,
        overrides=[*overrides, *trusted],
        resume=resume,
    )
    output.results.print(f"submitted as {submission}")
    output.messages.print(f"fewtune logs {loaded.name} --follow")


@app.command(rich_help_panel=CLUSTER)
def status(
    name: Name, address: Address = None, home: HomeOption = None, json: Json = False
) -> None:
    """Show whether a search runs, is stalled, dead, stopped or complete.

    Without --address, a search of the home is shown; else the job of a submitted search.
    """
    from orchestrator.record.home import Home

    output, place = Output(), Home.at(home)
    if address is None and name in place.searches():
        from orchestrator.results.liveness import sentence, status_of

        found = status_of(name, place)
        if json:
            output.json(found)
        else:
            output.results.print(sentence(found), markup=False)
        return
    from orchestrator.executors import jobs

    job = jobs.status(name, address=address)
    if json:
        output.json({"name": name, "job": job.submission_id, "state": job.state.lower()})
    else:
        output.results.print(f"{job.submission_id}: {job.state} {job.message}".rstrip())


@app.command(rich_help_panel=CLUSTER)
def logs(
    name: Name,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for new lines.")] = False,
) -> None:
    """Show the output of a submitted search."""
    from orchestrator.executors import jobs

    for text in jobs.logs(name, address=address, follow=follow):
        sys.stdout.write(text)
        sys.stdout.flush()


@app.command(rich_help_panel=CLUSTER)
def stop(name: Name, address: Address = None) -> None:
    """Stop a submitted search; it can be resumed."""
    from orchestrator.executors import jobs

    found = jobs.stop(name, address=address)
    Output().results.print(f"{found.submission_id}: asked to stop, now {found.state}")
