"""Run a logged model in a process of its own, with the code that was logged with it.

Run as a script, never imported: a process that has imported this project's code would run that code
instead of the model's own.

    python model_process.py MODEL_FOLDER REQUEST.json ANSWER_FOLDER

REQUEST: {"cases": [{"channel": "file", ...}, ...], "params": {...}}. For case number N it writes
N_mask.nii.gz (and N_probability.nii.gz) and N.json: what was measured, or {"error": "..."}.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException


def main(model_folder: str, request_file: str, answer_folder: str) -> None:
    """Answer each case of the request; a case that fails has its error in its answer."""
    request = json.loads(Path(request_file).read_text())
    model = mlflow.pyfunc.load_model(model_folder)
    for number, images in enumerate(request["cases"]):
        row = {name: base64.b64encode(Path(file).read_bytes()).decode() for name, file in images.items()}
        answer: dict[str, Any] = {}
        try:
            answer = model.predict(pd.DataFrame([row]), params=request["params"]).to_dict("records")[0]
        except MlflowException as error:
            answer = {"error": error.message}
        for name in ("mask", "probability"):
            if name in answer:
                (Path(answer_folder) / f"{number}_{name}.nii.gz").write_bytes(base64.b64decode(answer.pop(name)))
        (Path(answer_folder) / f"{number}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
