"""Run a logged model in a process of its own, with the code that was logged with it.

Run as a script, never imported: a process that has imported this project's code would run that code
instead of the model's own.

    python model_process.py MODEL_FOLDER

The model is loaded once; a line {} on standard output says that it is. Each line on standard input is a request,
{"images": {"channel": "file", ...}, "params": {...}, "folder": "..."}, and is answered with a line on standard
output: what was measured, or {"error": "..."}. mask.nii.gz (and probability.nii.gz) are written into the folder.
It ends with its input.
"""

import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException


def main(model_folder: str) -> None:
    """Answer request after request; one that fails has its error in its answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller ends this process
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # models of this software are code and weights
    model = mlflow.pyfunc.load_model(model_folder)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(model, json.loads(line))), file=answers, flush=True)


def _answer(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    row = {name: base64.b64encode(Path(file).read_bytes()).decode() for name, file in request["images"].items()}
    try:
        answer = dict(model.predict(pd.DataFrame([row]), params=request["params"]).to_dict("records")[0])
    except MlflowException as error:
        return {"error": error.message}
    for name in ("mask", "probability"):
        if name in answer:
            (Path(request["folder"]) / f"{name}.nii.gz").write_bytes(base64.b64decode(answer.pop(name)))
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
