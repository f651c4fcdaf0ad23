"""`pocketvit VERB …`: collects the verbs, and turns our errors into one message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pocketvit._version import __version__
from pocketvit.cli import (
    benchmark,
    build,
    doctor,
    evaluate,
    export,
    import_,
    models,
    predict,
    quantize,
    report,
    train,
)
from pocketvit.core.console import console
from pocketvit.core.errors import InterruptedRun, PocketvitError
from pocketvit.core.threads import sleep_soon

__all__ = ["app", "main"]

app = typer.Typer(
    name="pocketvit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (build, train, evaluate, predict, models, import_, export, quantize, benchmark, report, doctor):
    app.command(verb.NAME, epilog=verb.EXAMPLES)(verb.run)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pocketvit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From labelled images to a verified vision transformer that runs in your pocket.

    Exit codes: 0 done, 1 other error, 2 wrong option or name, 3 no model fits the budget, 4 unusable data,
    5 unusable weights, 6 export not verified, 7 run directory, 8 disk, 9 training diverged, 75 stopped and
    resumable. Add --debug to any command for the traceback.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code; see `pocketvit.core.errors`.
    """
    sleep_soon()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("POCKETVIT_DEBUG"))
    try:
        app(args=[word for word in words if word != "--debug"], prog_name="pocketvit")
    except PocketvitError as error:
        if debug:
            raise
        style = "yellow" if error.exit_code == InterruptedRun.exit_code else "bold red"
        console.print(f"[{style}]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False)
        return error.exit_code
    except SystemExit as end:  # how typer ends, after usage errors too, which it prints itself
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
