"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .pictures import DEMO

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Weights = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Weights: .safetensors, .pt or .pth."),
]
Images = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGE", help=f"Pictures, folders of pictures, or the word '{DEMO}'.")
]
