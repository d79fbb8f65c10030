"""MLflow's server for the dashboard, as a plugin of MLflow (entry point `mlflow.app`).

MLflow's page asks who is logged in. A server without authentication does not know the question, and
the browser's console shows an error 404. This server answers that nobody is, which the page takes
in the same way.
"""

from typing import Any

NOBODY = {"user": None, "is_basic_auth": False}
PATH = "/ajax-api/2.0/mlflow/users/current"


def create_app() -> Any:
    """The ASGI application; MLflow is imported here because the server's parent calls nothing."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import create_fastapi_app

    app.add_url_rule(PATH, "fewtune_current_user", lambda: NOBODY)
    return create_fastapi_app(app)
