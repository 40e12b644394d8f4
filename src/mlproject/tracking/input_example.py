"""A request that a model answers, for its page in the MLflow UI and for whoever tries the server."""

import base64
import gzip

import pandas as pd

from mlproject.data.synthetic import CHANNELS, make_case

SHAPE = (24, 28, 20)


def input_example(channels: tuple[str, ...]) -> pd.DataFrame:
    """One small synthetic case, a column a channel: base64 of a .nii.gz file.

    A channel that the synthetic cases do not have gets the voxels of DWI: the request is valid, its answer means
    nothing.
    """
    images = make_case(0, 1, SHAPE, ["dwi", *(c for c in channels if c in CHANNELS and c != "dwi")])
    row = {}
    for channel in channels:
        content = images.get(channel, images["dwi"]).to_bytes()
        row[channel] = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return pd.DataFrame([row])
