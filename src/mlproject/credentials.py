"""Passwords, keys and tokens: refused in a setting, and taken out of what is printed or stored.

They come from the environment, ~/.aws, ~/.mlflow/credentials, ~/.netrc or ~/.pgpass alone: MLflow stores and prints
every setting.
"""

import os
import re
from collections.abc import Iterator, MutableMapping
from urllib.parse import quote, unquote, urlsplit

from mlproject import credential_files
from mlproject.errors import SettingsError, TrackingError

VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "STROKE_LESION_SERVER_TOKEN",
    "PGPASSWORD",
)
"""The environment variables whose whole value is a secret."""
SHORTEST = 8
"""Characters that a variable's value, or one of a file, must have to be looked for: a shorter one is in many words."""

_HTTP_USER = re.compile(r"\b(https?|git|ftp)://[^\s/?#'\"]*@", re.IGNORECASE)
# A port is no password, and our own examples have PASSWORD there.
_PASSWORD = r"(?!(?-i:PASSWORD)@)[^\s@]*(?:@[^\s@'\"/]*)*@"
_URL_PASSWORD = re.compile(
    rf"\b([a-z][a-z0-9+.-]*://[^\s/?#@:'\"]*):(?!\d{{1,5}}(?:[/?#]|$)){_PASSWORD}", re.IGNORECASE
)
# SQLAlchemy takes all before the last @ for user and password, where others would read a port and a path.
_DATABASE_PASSWORD = re.compile(
    rf"\b((?:postgres(?:ql)?|mysql|mariadb|mssql)(?:\+\w+)?://[^\s/?#@:'\"]*):{_PASSWORD}", re.IGNORECASE
)
_QUERY = re.compile(
    r"\b(x-amz-(?:signature|credential|security-token)|signature|sig|(?:access_|auth_|private_)?token|password|passwd"
    r"|api_?key|(?:\w+_)?secret(?:_access)?(?:_key)?)=[^\s&'\"]+",
    re.IGNORECASE,
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_FORGE_TOKEN = re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,})")
_HEADER = re.compile(r"(authorization['\"]?[:=] ?(?:b?['\"])?(?:basic|bearer) )[^\s'\",]+", re.IGNORECASE)
_KINDS = {
    "a user or password in a URL": (_HTTP_USER, _URL_PASSWORD, _DATABASE_PASSWORD),
    "a password, token or signature in a URL": (_QUERY,),
    "an AWS access key": (_AWS_KEY,),
    "an access token": (_FORGE_TOKEN,),
}


def refuse(name: str, value: str) -> None:
    """Raise SettingsError where the value of the setting `name` holds a secret; the message does not repeat it."""
    kinds = [kind for kind, patterns in _KINDS.items() if any(pattern.search(value) for pattern in patterns)]
    kinds += [f"a secret, that of {place}" for place, secret in _known() if secret in value]
    if kinds:
        raise SettingsError(
            f"{name} holds {kinds[0]}, and MLflow or the shell may have stored and printed it already: change it on "
            "its server now, leave it out of the settings, and give the new one in the environment, ~/.aws, "
            "~/.mlflow/credentials, ~/.netrc or ~/.pgpass (`python src/run.py --help` lists the variables)"
        )


def without(text: str) -> str:
    """A text without the secrets that stand in it, known by their form, from the environment or from their files."""
    for _, secret in sorted(_known(), key=lambda known: -len(known[1])):  # one may be a part of another
        text = text.replace(secret, "***")
    text = _HTTP_USER.sub(r"\1://", text)
    text = _DATABASE_PASSWORD.sub(r"\1@", _URL_PASSWORD.sub(r"\1@", text))
    text = _QUERY.sub(r"\1=***", text)
    text = _HEADER.sub(r"\1***", text)
    return _FORGE_TOKEN.sub("***", _AWS_KEY.sub("***", text))


def _known() -> Iterator[tuple[str, str]]:
    """Each secret with the variable or file that holds it, as it is and as a URL has it."""
    of_environment = ((name, os.environ.get(name, "")) for name in VARIABLES)
    for place, secret in (*of_environment, *credential_files.secrets(os.environ)):
        if len(secret) >= SHORTEST:
            yield from ((place, form) for form in dict.fromkeys((secret, quote(secret, safe=""))))


def take_out_of_tracking_uri(environment: MutableMapping[str, str]) -> None:
    """Move user and password of an http(s) MLFLOW_TRACKING_URI into the variables that MLflow has for them.

    MLflow and its libraries put the address into messages, links and artifacts. TrackingError where it has a user,
    and nothing has the password.
    """
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(uri)
    given, at, _ = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not at:
        return
    user, _, password = (unquote(part) for part in given.partition(":"))
    environment["MLFLOW_TRACKING_URI"] = uri.replace(f"{given}@", "", 1)
    environment["MLFLOW_TRACKING_USERNAME"] = user
    if password:
        environment["MLFLOW_TRACKING_PASSWORD"] = password
    elif not environment.get("MLFLOW_TRACKING_PASSWORD"):
        raise TrackingError(
            "MLFLOW_TRACKING_URI has a user without a password: give the address alone, and "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
