"""What a stage says, before any work, of a tracking server that does not let it in."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.server.auth.client import AuthServiceClient

from free_port import free_port
from lab import Lab
from mlproject import cli
from mlproject.errors import ModelError, TrackingError
from mlproject.tracking import runs, server
from mlproject.tracking.model_server import ModelServer
from mlproject.tracking.server import connect, tracking_errors


class NoMlflow(http.server.BaseHTTPRequestHandler):
    """Answers everything with a page, as a proxy's login does."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if self.server.server_name == "nowhere" else 200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["", "nowhere"])
def no_mlflow(request: pytest.FixtureRequest) -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), NoMlflow) as running:
        running.server_name = request.param
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def refusal(monkeypatch: pytest.MonkeyPatch, uri: str, user: str = "", password: str = "", token: str = "") -> str:
    given = {"URI": uri, "USERNAME": user, "PASSWORD": password, "TOKEN": token}
    for name, value in given.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with pytest.raises(TrackingError) as raised:
        connect()
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(uri, "ADDRESS")


def test_who_is_not_let_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"user": lab.admin[0], "password": lab.admin[1]}
    assert refusal(monkeypatch, lab.address) == (
        "the tracking server ADDRESS asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN, or give the server's host a line in ~/.netrc"
    )
    wrong = refusal(monkeypatch, lab.address, "admin", "MARK of mine")
    assert wrong.startswith(
        "the tracking server ADDRESS does not know the user 'admin' with this password: see MLFLOW_"
    )
    assert "MARK" not in wrong
    assert "does not accept this token" in refusal(monkeypatch, lab.address, token="MARK of mine")
    another_name = f"http://127.1:{lab.given['SERVER_PORT']}"
    assert "does not answer under the name 127.1:" in refusal(monkeypatch, another_name, **known)
    for name, value in known.items():
        monkeypatch.setenv({"user": "MLFLOW_TRACKING_USERNAME"}.get(name, "MLFLOW_TRACKING_PASSWORD"), value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.address)
    connect()


def test_netrc_lets_in(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine localhost login {} password {}\n".format(*lab.admin))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.address)
    connect()


def test_a_wrong_password_in_mlflows_own_file(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".mlflow").mkdir()
    words = "[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = MARK of mine\n"
    (tmp_path / ".mlflow" / "credentials").write_text(words)
    monkeypatch.setenv("HOME", str(tmp_path))
    said = refusal(monkeypatch, lab.address)
    assert "does not know the user 'admin' with this password: see " in said and "~/.mlflow/credentials" in said
    assert "MARK" not in said


def test_a_run_that_this_user_may_not_see_is_not_said_to_be_missing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.address)
    log_in(monkeypatch, *lab.admin)
    client, users = mlflow.MlflowClient(), AuthServiceClient(lab.address)
    experiment = client.create_experiment("of others")
    run_id = client.create_run(experiment).info.run_id
    kept_out = users.create_role("default", "kept out")
    users.add_role_permission(kept_out.id, "experiment", experiment, "DENY")
    lab.add_user("mallory", "mallory's password")
    users.assign_role("mallory", kept_out.id)
    log_in(monkeypatch, "mallory", "mallory's password")
    for hidden in (run_id, "0" * 32):  # MLflow does not tell which of them is there
        with pytest.raises(
            TrackingError, match=f"^{lab.address} shows this user no run '{hidden}': there is none, or "
        ):
            runs.find(hidden)
    log_in(monkeypatch, "mallory", "MARK of mine")
    with pytest.raises(TrackingError, match=f"^run {run_id} cannot be read: .* does not know the user 'mallory' with "):
        runs.find(run_id)
    log_in(monkeypatch, *lab.admin)
    for missing in ("0" * 32, "no/id"):
        with pytest.raises(TrackingError, match=f"^no run '{missing}' on {lab.address}: copy the id"):
            runs.find(missing)


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def test_no_mlflow_server(no_mlflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        refusal(monkeypatch, no_mlflow) == "ADDRESS does not answer as an MLflow server does: see MLFLOW_TRACKING_URI"
    )


def test_a_certificate_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = tmp_path / "issuer.pem"
    words = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    openssl = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", str(issuer), *words]
    certificate = subprocess.run(openssl, check=True, capture_output=True, text=True).stdout
    issuer.write_text(issuer.read_text() + certificate)
    with http.server.HTTPServer(("127.0.0.1", 0), NoMlflow) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issuer)
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"https://localhost:{running.server_port}"
        assert refusal(monkeypatch, address) == (
            "no safe connection to the tracking server ADDRESS: certificate verify failed: self-signed certificate. If "
            "its certificate has an issuer of your own, name the issuer's file by MLFLOW_TRACKING_SERVER_CERT_PATH"
        )
        with pytest.raises(ModelError, match=r"^no safe connection .* self-signed .*REQUESTS_CA_BUNDLE$"):
            ModelServer(address, timeout_s=10)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(issuer))
        assert "does not answer as an MLflow server" in refusal(monkeypatch, address)
        running.shutdown()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_ANSWER", 0)
    port = free_port()
    assert refusal(monkeypatch, f"http://me:MARK@127.0.0.1:{port}").startswith(
        f"the tracking server http://127.0.0.1:{port} does not answer (ConnectionError)"
    )
    database = refusal(monkeypatch, f"postgresql://me:MARK@127.0.0.1:{port}/db")
    assert database.startswith(f"the tracking database postgresql://me@127.0.0.1:{port}/db lets nobody in")
    assert "MARK" not in database


def test_what_a_library_says_of_the_server_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    with pytest.raises(TrackingError) as raised, tracking_errors():
        raise requests.ConnectionError("no way to https://me:MARK@host/x\nmore")
    assert str(raised.value) == "the tracking server http://host or a bucket failed: no way to https://host/x"


@pytest.mark.parametrize(
    "stage",
    ["main", "train", "search", "crossvalidate", "reproduce", "postprocess", "evaluate", "predict", "sync", "clean"],
)
def test_every_stage_says_so_first(
    stage: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit code 2, before anything is written: who says nothing, and who has a wrong password."""
    own = {
        "crossvalidate": ["--data.folds", "2"],
        "postprocess": ["--run", "0" * 32],
        "evaluate": ["--model", "models:/x/1"],
        "predict": ["--model", "models:/x/1", "--data.root", str(tmp_path), "--output", str(tmp_path / "masks")],
        "search": ["--config", "conf/search.yaml"],
    }
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = [] if stage == "predict" else ["--work_dir", str(tmp_path / "work")]
    if stage == "clean":
        (tmp_path / "work" / "runs" / ("0" * 32)).mkdir(parents=True)
    for user, said in {"": "asks who you are", "me:MARK%20of%20mine@": "does not know the user 'me'"}.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.address.replace("//", f"//{user}"))
        code = cli.main([stage, *own.get(stage, []), *folder])
        printed = capsys.readouterr()
        assert "MARK" not in printed.out + printed.err
        if stage == "clean":  # which shows what is there, and removes nothing
            assert said in printed.out + printed.err
            continue
        assert code == 2 and printed.err.startswith(f"error: the tracking server {lab.address} {said}")
        assert printed.err.count("\n") == 1 and not (tmp_path / "work").exists() and not (tmp_path / "masks").exists()
