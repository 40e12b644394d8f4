"""Passwords, keys and tokens: refused in settings, taken out of messages."""

import logging
from pathlib import Path

import pytest

from mlproject import cli, config, credentials
from mlproject.errors import SettingsError, TrackingError
from mlproject.stages.console import configure_logging
from mlproject.stages.settings import Experiment

SECRETS = [
    "https://me:MARK@host/data",
    "https://MARK@host/data.git",
    "postgresql://me:MA/RK@host/database",
    "postgresql+psycopg://me:MA@RK@host/database",
    "postgresql+psycopg://me:12345/MARK@host/database",
    "redis://me:123456/MARK@host",
    "postgresql://me@host/database?password=MARK",
    "https://host/data?X-Amz-Credential=a&X-Amz-Signature=MARK",
    "https://host/data?token=MARK&a=b",
    "s3://AKIAMARKMARKMARKMARK:x@bucket/data",
    "AKIAMARKMARKMARKMARK",
    "ghp_MARKMARKMARKMARKMARKMARKMARKMARKMARK",
    "client_secret=MARK",
    "aws_secret_access_key=MARK/MARK",
    "hf_MARKMARKMARKMARKMARKMARKMARKMARK",
    "git clone https://x-access-token:ghs_MARKMARKMARKMARKMARKMARK@github.com/a/b",
]
HARMLESS = [
    "models:/stroke-lesion@champion",
    "http://127.0.0.1:5001/models@home",
    "https://host:8443/data",
    "postgresql://me@host:5432/database",
    "postgresql://host:5432/database failed for me@host",
    "postgresql://me@host/database",
    "git@github.com:a/b.git",
    "ssh://git@host/a/b.git",
    "/data/sub@home:1/token",
    "s3://bucket/pre@fix",
    "sqlite:///~/study.db",
    "write it as postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE",
    "Basic authentication is on, and the token is wrong",
]


@pytest.mark.parametrize("value", SECRETS)
def test_a_setting_that_holds_one_is_refused_without_repeating_it(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"data:\n  root: '{value}'\n")
    for arguments in (
        ["--data.root", value],
        [f"--work_dir={value}"],
        ["--training.steps", value],  # of the wrong type
        ["--config", value],
        ["--config", str(file)],
    ):
        assert cli.main(["train", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and "MARK" not in printed.err and "MA/RK" not in printed.err
        (line,) = printed.err.splitlines()
        name = arguments[0].removeprefix("--").partition("=")[0] if value in " ".join(arguments) else "data.root"
        assert line.startswith(f"error: {name}") and " holds a" in line
    with pytest.raises(SettingsError, match=str(file)):
        config.load(Experiment, ["--config", str(file)], [tmp_path], "train")


@pytest.mark.parametrize("value", HARMLESS)
def test_what_is_no_secret_is_left_alone(value: str) -> None:
    credentials.refuse("data.root", value)
    assert credentials.without(value) == value


@pytest.mark.parametrize("value", SECRETS)
def test_messages_are_without(value: str) -> None:
    shown = credentials.without(f"request to {value} failed, again: '{value}'")
    assert "MARK" not in shown and "MA/RK" not in shown and "RK@" not in shown and shown.startswith("request to ")


def test_the_password_may_be_the_word_password() -> None:
    with pytest.raises(SettingsError, match="holds a user or password"):
        credentials.refuse("search.storage", "postgresql://mlflow:password@host/database")


def test_a_secret_of_the_environment_is_refused_in_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a bird/in hand")
    for value in ("my a bird/in hand", "https://host/?a=a%20bird%2Fin%20hand"):
        with pytest.raises(SettingsError, match="that of MLFLOW_TRACKING_PASSWORD") as raised:
            credentials.refuse("tracking.experiment", value)
        assert "bird" not in str(raised.value)
        assert "bird" not in credentials.without(value)


@pytest.mark.parametrize(
    "variable",
    [
        "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "STROKE_LESION_SERVER_TOKEN", "PGPASSWORD",
    ],
)  # fmt: skip
def test_the_environments_secrets_are_taken_out(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "MARK of mine")
    assert credentials.without("header: MARK of mine.") == "header: ***."
    monkeypatch.setenv(variable, "stroke")  # too short to be told from a word
    assert credentials.without("stroke") == "stroke"


FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "[default]\naws_access_key_id = a\naws_secret_access_key = {}\n",
    "AWS_CONFIG_FILE": "[profile lab]\nregion = a\n[profile other]\naws_session_token={}\n[",
    "NETRC": "machine a login b password c\ndefault login d password {}\n",
    "PGPASSFILE": "# host:1:*:me:no password\n\\:\\:1:5432:*:me:{}\nhost:",
}


@pytest.mark.parametrize("variable", FILES)
def test_the_secrets_of_a_users_files_are_known(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = {"NETRC": '"MARK:of mine"', "PGPASSFILE": "MARK\\:of mine:# and more"}
    (tmp_path / "file").write_text(FILES[variable].format(quoted.get(variable, "MARK:of mine")))
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert credentials.without("it is MARK:of mine, or MARK%3Aof%20mine.") == "it is ***, or ***."
    assert credentials.without("a b c d me no password") == "a b c d me no password"
    assert cli.main(["train", "--data.root", "/data/MARK:of mine"]) == 2
    printed = capsys.readouterr()
    assert f"data.root holds a secret, that of {tmp_path / 'file'}," in printed.err
    assert "MARK" not in printed.out + printed.err


def test_users_files_are_looked_for_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    names = (".aws/credentials", ".aws/config", ".netrc", ".pgpass")
    for variable, name in zip(FILES, names, strict=True):
        monkeypatch.delenv(variable, raising=False)
        (tmp_path / name).write_text(FILES[variable].format(f"secret-of-{name}"))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text("[mlflow]\nmlflow_tracking_password = a 100%% secret\n")
    for secret in (*(f"secret-of-{name}" for name in names), "a 100% secret"):
        assert credentials.without(f"it is {secret}") == "it is ***"
    with pytest.raises(SettingsError, match=r"^data\.root holds a secret, that of ~/\.mlflow/credentials"):
        credentials.refuse("data.root", "a 100% secret")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\0", b"machine", b"[", b"aws_session_token = x", b"a:b"])
@pytest.mark.parametrize("variable", FILES)
def test_a_file_that_is_none_is_passed_over(
    variable: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By us: who needs it says what is wrong with it. None: a folder."""
    if content is None:
        (tmp_path / "file").mkdir()
    else:
        (tmp_path / "file").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert credentials.without("a text") == "a text"


def test_a_secret_that_begins_as_another_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.VARIABLES[0], "MARK of mine")
    monkeypatch.setenv(credentials.VARIABLES[1], "MARK of mine and more")
    assert credentials.without("MARK of mine and more, MARK of mine") == "***, ***"


def test_the_last_line_is_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["https://me:MARK@host/x", "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "no stage is called 'https://host/x'" in printed and "Traceback" in printed and "MARK" not in printed


def test_log_lines_and_headers_are_without(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(debug=True)
    logging.getLogger("urllib3").info("send: b'GET /x HTTP/1.1\\r\\nAuthorization: Basic TUFSSzpNQVJL\\r\\n'")
    logging.getLogger("mlproject.x").warning("%s", "https://me:MARK@host/x")
    printed = capsys.readouterr().err
    assert "urllib3" in printed and "TUFSSzpNQVJL" not in printed and "MARK" not in printed


@pytest.mark.parametrize(
    ("uri", "known", "address", "user", "password"),
    [
        ("https://a%40b:p%2Fw@host:1/x", "", "https://host:1/x", "a@b", "p/w"),
        ("http://me:@host", "old", "http://host", "me", "old"),
        ("http://me@host", "old", "http://host", "me", "old"),
        ("http://host", "", "http://host", None, None),
        ("postgresql://me:pw@host/db", "", "postgresql://me:pw@host/db", None, None),
        ("sqlite:///mlflow.db", "", "sqlite:///mlflow.db", None, None),
    ],
)
def test_user_and_password_leave_the_tracking_uri(
    uri: str, known: str, address: str, user: str | None, password: str | None
) -> None:
    environment = {"MLFLOW_TRACKING_URI": uri, **({"MLFLOW_TRACKING_PASSWORD": known} if known else {})}
    credentials.take_out_of_tracking_uri(environment)
    assert environment["MLFLOW_TRACKING_URI"] == address
    assert environment.get("MLFLOW_TRACKING_USERNAME") == user
    assert environment.get("MLFLOW_TRACKING_PASSWORD") == password


def test_a_user_without_a_password() -> None:
    with pytest.raises(TrackingError, match="has a user without a password") as raised:
        credentials.take_out_of_tracking_uri({"MLFLOW_TRACKING_URI": "https://MARK@host"})
    assert "MARK" not in str(raised.value)
