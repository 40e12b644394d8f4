"""A git server that wants a token, over HTTP: git's own program behind Python's server."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Within, each repository in `folder` is served to whoever gives some token; gives the address without one."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if "Authorization" not in self.headers:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=git")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            environment = {
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in head.decode().splitlines():
                self.send_header(*line.split(": ", 1))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def publish(project: Path, repository: Path) -> None:
    """Commit the files of a checkout, as they are now, into a new repository."""
    listed = subprocess.run(
        ["git", "-C", project, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    files = [name for name in listed.stdout.splitlines() if (project / name).is_file()]
    subprocess.run(["git", "init", "-q", repository], check=True)
    git = ["git", f"--git-dir={repository}/.git", f"--work-tree={project}", "-c", "user.name=a", "-c", "user.email=a@b"]
    names = "\n".join(files)
    subprocess.run([*git, "add", "--force", "--pathspec-from-file=-"], input=names, text=True, check=True, cwd=project)
    subprocess.run([*git, "commit", "-q", "-m", "as it is"], check=True, cwd=project)
