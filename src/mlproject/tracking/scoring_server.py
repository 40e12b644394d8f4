"""What MLflow's scoring server is kept from: status 500 for a request that it cannot read, and stack traces.

`mlflow models serve` reads a request before the model sees it. What it does not expect there (no content type, JSON
nested without end ...) it takes for a fault of its own.
"""

import sys
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

MODULE = "mlflow.pyfunc.scoring_server"


def refuse_what_cannot_be_read() -> None:
    """Within a process that serves a model: answer each request that MLflow cannot read with status 400."""
    server: Any = sys.modules.get(MODULE)
    if server is None:
        return
    invocations = server.invocations

    @wraps(invocations)
    def guarded(data: bytes, content_type: str | None, *rest: Any) -> Any:
        try:
            return invocations(data, content_type or "", *rest)
        except MlflowException as error:
            error.json_kwargs.pop("stack_trace", None)
            raise
        except Exception as error:
            raise MlflowException(
                f"the request cannot be read ({type(error).__name__}): send JSON as docs/serving.md shows", BAD_REQUEST
            ) from error

    server.invocations = guarded
