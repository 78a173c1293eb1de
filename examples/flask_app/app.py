"""A web application that leaves hard work to child processes.

Start it, and ask it:

    gunicorn --chdir examples/flask_app --workers 2 --threads 4 app:app
    curl http://127.0.0.1:8000/factors/1234567890

It is the same with other workers of gunicorn (sync, gevent), with --preload, and under uWSGI:

    uwsgi --http-socket :8000 --chdir examples/flask_app --master --processes 2 --module app:app

Each process of the server has children of its own. They are started when it first needs them,
started again when they die, and gone when it is gone.
"""

from __future__ import annotations

import math
from pathlib import Path

from flask import Flask
from messages import Factorise

from streamipc import (
    RequestTimeoutError,
    WorkerLostError,
    WorkerPool,
    WorkersUnavailableError,
    python_command,
)

Response = tuple[dict[str, object], int, dict[str, str]]

app = Flask(__name__)

# This starts nothing, so the module may be imported before the server forks. No request is given
# to a child that has not answered the first one: if it can't even start, nothing is lost with it.
calculators = WorkerPool(
    python_command(Path(__file__).with_name("child.py")), size=2, ready=Factorise(1)
)


@app.get("/factors/<int:number>")
def factors(number: int) -> dict[str, object]:
    return {"number": number, "factors": calculators.call(Factorise(number), timeout=2)}


@app.errorhandler(RequestTimeoutError)
def took_too_long(error: RequestTimeoutError) -> Response:
    # The child that is still busy with it is killed a second later, and another one is started.
    return {"error": "this takes too long"}, 504, {}


@app.errorhandler(WorkerLostError)
def died_with_it(error: WorkerLostError) -> Response:
    return {"error": "a child process has died with it"}, 502, {}


@app.errorhandler(WorkersUnavailableError)
def cannot_start(error: WorkersUnavailableError) -> Response:
    app.logger.error("%s", error)
    seconds = max(1, math.ceil(error.retry_after))
    return {"error": "try again later"}, 503, {"Retry-After": str(seconds)}


@app.get("/health")
def health() -> Response:
    is_well = calculators.check(timeout=1)
    return {"calculators": is_well}, 200 if is_well else 503, {}
