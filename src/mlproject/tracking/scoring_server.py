"""What MLflow's scoring server does with a request that the model never sees: here it says no, and why.

`mlflow models serve` reads a request before the model does. By itself it takes what it does not expect there (no
content type, JSON nested without end ...) for a fault of its own, with status 500, and passes over a parameter that
does not exist, whose misspelt name would then change nothing in silence.
"""

import sys
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

MODULE = "mlflow.pyfunc.scoring_server"


def be_strict() -> None:
    """Within a process that serves a model: answer with status 400, and without a stack trace, what cannot be read."""
    server: Any = sys.modules.get(MODULE)
    if server is None or hasattr(server.invocations, "__wrapped__"):  # done already, by another model of this process
        return
    invocations, parse = server.invocations, server._parse_json_data

    @wraps(invocations)
    def strict_invocations(data: bytes, content_type: str | None, *rest: Any) -> Any:
        try:
            return invocations(data, content_type or "", *rest)
        except MlflowException as error:
            error.json_kwargs.pop("stack_trace", None)
            raise
        except Exception as error:
            raise MlflowException(f"the request cannot be read ({type(error).__name__})", BAD_REQUEST) from error

    @wraps(parse)
    def strict_parse(data: Any, metadata: Any, *rest: Any) -> Any:
        request = parse(data, metadata, *rest)
        schema = metadata.get_params_schema()
        known = [param.name for param in schema.params] if schema else []
        if schema and (unknown := [name for name in request.params or () if name not in known]):
            raise MlflowException(f"there is no parameter {str(unknown[0])[:50]!r}; there are {known}", BAD_REQUEST)
        return request

    server.invocations, server._parse_json_data = strict_invocations, strict_parse
