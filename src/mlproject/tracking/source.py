"""Which code runs: git commit, address of the repository, and whether the checkout was changed."""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_GIT_REPO_URL, MLFLOW_SOURCE_NAME

from mlproject import credentials

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Source:
    """The code of this process.

    Attributes:
        commit: full hash; "" outside a git checkout.
        url: where others get it, without a user and password; "" where that is a folder of this machine, or unknown.
        changed: tracked files differ from the commit.
    """

    commit: str
    url: str
    changed: bool

    @property
    def project(self) -> str:
        """What to type after `mlflow run`: the address, else the folder of a checkout."""
        return self.url or "."


@cache
def source() -> Source:
    """The code of this process, as git describes it; asked once, before a long run's files may have changed."""
    commit = _git("rev-parse", "HEAD")
    changed = bool(commit and _git("status", "--porcelain", "--untracked-files=no"))
    return Source(commit, public_url(_git("remote", "get-url", "origin")), changed)


def public_url(remote: str) -> str:
    """The address of a git remote without a user and password; "" for a folder."""
    parts = urlsplit(remote)
    if parts.scheme in ("http", "https", "ssh", "git"):
        host = parts.netloc.rpartition("@")[2]
        user = "git@" if parts.scheme == "ssh" else ""  # a key logs in there, and without the name none can
        return urlunsplit((parts.scheme, user + host, parts.path, "", ""))
    return remote if remote.startswith("git@") and ":" in remote else ""


def mend_source() -> None:
    """Take user and token out of the address that `mlflow run` was given, and has logged with the run it opened."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return
    client = mlflow.MlflowClient()
    tags = client.get_run(run_id).data.tags
    for name in (MLFLOW_SOURCE_NAME, MLFLOW_GIT_REPO_URL):
        if (clean := credentials.without(tags.get(name, ""))) != tags.get(name, ""):
            client.set_tag(run_id, name, clean)


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
