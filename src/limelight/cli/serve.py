"""The command `limelight serve`: the local page."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import replace
from typing import Annotated

import typer

from ..models.catalogue import ImageModel
from ..models.text import TextModel
from .model_options import ModelOptions, takes_model_options
from .question_options import Debug, OutputsOption
from .terminal import boundary, say

HOST = "127.0.0.1"


@takes_model_options
def serve_command(
    outputs: OutputsOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8765,
    workers: Annotated[int, typer.Option(min=1, max=64, help="The number of requests that run at once.")] = 1,
    waiting: Annotated[int, typer.Option(min=0, max=1000, help="Most waiting requests; more are refused.")] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Most model rows for one request.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=1, max=1e6, help="The time limit of one request, in seconds.")] = 300.0,
    public: Annotated[
        str, typer.Option(help="The page's address behind a reverse proxy, such as https://limelight.example.org.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a text, where the model reads texts.")] = 512,
    debug: Debug = False,
    *,
    loading: ModelOptions,
) -> None:
    """Explain pictures, or texts with a model of texts, on a page in your browser, served to this machine alone."""
    with boundary(debug):
        try:
            import uvicorn

            from ..server.app import Limits, Server, create_app
            from ..server.connections import configured
            from ..server.guard import require_origin
            from ..server.text_page import create_text_app
        except ImportError as error:
            raise ImportError(f"the page needs the extra 'app': pip install 'limelight[app]' ({error})") from error
        origin = require_origin(public) if public else ""
        with _listen(port) as listener:  # first, so that a taken port is reported before the model loads
            with contextlib.redirect_stdout(sys.stderr):
                loaded = loading.load_any()
                if isinstance(loaded, ImageModel | TextModel):
                    loaded.outputs = outputs or loaded.outputs
                elif outputs is not None:
                    loaded = replace(loaded, outputs=outputs)
                limits = Limits(workers=workers, waiting=waiting, rows=rows, seconds=seconds, tokens=tokens)
                if isinstance(loaded, TextModel):
                    app = create_text_app(loaded, limits, origin)
                else:
                    app = create_app(loaded, limits, origin)
            listener.listen(128)  # clients may connect once the next line is printed
            say(f"{loaded.name} on http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)")
            server: uvicorn.Server = Server(configured(app), app)
            server.run([listener])


def _listen(port: int) -> socket.socket:
    """Bind the port on this machine alone. Raises OSError if the port is taken."""
    listener = socket.socket()
    try:
        # Not on Windows, where it would let two servers share a port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OSError(f"--port {port}: {error.strerror}; another number, or 0 for a free one") from error
    return listener
