"""The secrets in a user's own files: ~/.aws, ~/.mlflow, ~/.netrc and ~/.pgpass, or where the environment says.

They are read to be recognised elsewhere, and for nothing else: boto3, MLflow, requests and libpq read them themselves.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

AWS_SECRETS = ("aws_secret_access_key", "aws_session_token")
MLFLOW_SECRETS = ("mlflow_tracking_password",)
# Host, port, database and user, each with a colon behind it; a colon or backslash within has a backslash before it.
_PGPASS_LINE = re.compile(r"(?!#)(?:(?:\\.|[^\\:])*:){4}((?:\\.|[^\\:])+)")


def secrets(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each secret with the file that holds it; none of a file that is missing or cannot be read."""
    for variable, usual, read in _FILES:
        file = environment.get(variable) or usual
        path = os.path.expanduser(file)  # noqa: PTH111  (the other one raises where there is no home)
        yield from ((file, secret) for secret in _secrets_in(path, read))


@cache
def _secrets_in(file: str, read: Callable[[Path], list[str]]) -> list[str]:
    """What `read` finds in a file; it is read once, and in silence: whoever needs it says what is wrong with it."""
    with suppress(OSError, ValueError):
        return read(Path(file)) if Path(file).is_file() else []
    return []


def _of_aws(file: Path) -> list[str]:
    return _of_ini(file, AWS_SECRETS)


def _of_mlflow(file: Path) -> list[str]:
    return [secret.replace("%%", "%") for secret in _of_ini(file, MLFLOW_SECRETS)]  # as MLflow reads it


def _of_ini(file: Path, names: Sequence[str]) -> list[str]:
    import configparser  # only where there is such a file: it takes longer than all the rest here

    parser = configparser.RawConfigParser(strict=False)
    with suppress(configparser.Error):  # what it has understood before, it keeps
        parser.read_string(_text(file))
    return [parser[section][name] for section in parser.sections() for name in names if name in parser[section]]


def _of_netrc(file: Path) -> list[str]:
    import netrc  # as above

    with suppress(netrc.NetrcParseError):
        return [word for _, *words in netrc.netrc(str(file)).hosts.values() for word in words if word]
    return []


def _of_pgpass(file: Path) -> list[str]:
    found = (_PGPASS_LINE.match(line) for line in _text(file).splitlines())
    return [re.sub(r"\\(.)", r"\1", line[1]) for line in found if line]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


_FILES: tuple[tuple[str, str, Callable[[Path], list[str]]], ...] = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", _of_aws),
    ("AWS_CONFIG_FILE", "~/.aws/config", _of_aws),
    ("", "~/.mlflow/credentials", _of_mlflow),
    ("NETRC", "~/.netrc", _of_netrc),
    ("PGPASSFILE", "~/.pgpass", _of_pgpass),
)
"""The variable that names a file, if there is one, where it is otherwise, and how its secrets are read."""
