"""Make the pictures of docs/tour.md and the first of README: small runs, `mlflow ui` over them, and a browser on it.

    make tour
    python docs/make_tour.py --database sqlite:////path/to/mlflow.db    # of runs that exist: a `search` and `main`s

It needs the development tools (playwright) and Chromium or Chrome. The runs take about six minutes on 2 cores
and are kept in build/tour for the code that made them, so that a second call takes one minute.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

import mlflow
from mlflow.entities import Run
from PIL import Image
from playwright.sync_api import Page, sync_playwright

PROJECT = Path(__file__).resolve().parents[1]
PICTURES = PROJECT / "docs" / "tour"
SIZE = {"width": 1560, "height": 900}
COMMON = {
    "config": "conf/demo.yaml",
    "patches.size": "[32,32,32]",
    "network.dynunet.channels": "[8,16,32]",
    "network.dynunet.stem_stride": "1",
    "training.validate_every": "1",
    "training.threads": "1",
    "crf_search.trials": "8",
    "data.demo_cases": "16",
    "tracking.system_metrics": "true",
}
MAINS = (
    {"loss.dice": "1.0", "training.steps": "240"},
    {"loss.dice": "0.3", "training.steps": "240", "training.seed": "1"},
    {"loss.dice": "3.0", "training.steps": "240", "training.seed": "2"},
)
SPACE = (
    "[{name: loss.dice, low: 0.1, high: 0.9, complement: loss.cross_entropy},"
    "{name: training.learning_rate, low: 1.0e-3, high: 1.0e-2, log: true}]"
)
SEARCH = {"training.steps": "100", "search.trials": "6", "search.study": "tour", "search.space": SPACE}


def make_runs(folder: Path) -> str:
    """The small runs of the tour; those that are there already stay. Returns the database's address."""
    folder.mkdir(parents=True, exist_ok=True)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": database}
    for stage, settings in (*(("main", main) for main in MAINS), ("search", SEARCH)):
        done = folder / f"{stage} {settings['training.steps']} {settings.get('training.seed', '0')}"
        if done.exists():
            continue
        given = {**COMMON, "work_dir": str(folder / "work"), **settings}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        command = [sys.executable, str(PROJECT / "src" / "run.py"), stage, *words]
        subprocess.run(command, check=True, cwd=folder, env=environment)
        done.touch()
    return database


@contextmanager
def user_interface(database: str) -> Iterator[str]:
    """A running `mlflow ui` over a database; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", database, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(f"{address}/health")
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


class Tour:
    """A browser on the UI, and the runs to look at: the newest `main` and its train run."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self.client = page, address, mlflow.MlflowClient(address)
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        self.runs = self.client.search_runs(experiments, "attributes.status = 'FINISHED'")
        self.main = self.newest("main")
        self.train = self.newest("train", self.main)

    def newest(self, stage: str, parent: Run | None = None) -> Run:
        """The newest finished run of a stage."""
        return next(
            run
            for run in self.runs
            if run.data.tags.get("stage") == stage
            and (parent is None or run.data.tags.get("mlflow.parentRunId") == parent.info.run_id)
        )

    def run_page(self, run: Run, tab: str = "") -> str:
        """The path of a run's page."""
        return f"/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}"

    def show(self, path: str, until: str, wait_s: float = 3) -> None:
        """Open a page of the UI, and wait until it shows a text."""
        mark = "&" if "?" in path else "?"
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/#{path}{mark}workflowType=machine_learning")
        self.page.get_by_text(until).first.wait_for(timeout=120_000)
        self.page.wait_for_timeout(1000 * wait_s)

    def click(self, text: str, wait_s: float = 1) -> None:
        """Click on what shows a text."""
        self.page.get_by_text(text, exact=True).first.click()
        self.page.wait_for_timeout(1000 * wait_s)

    def save(self, name: str) -> None:
        """The picture of what is seen now, in 256 colours so that the file is small."""
        picture = Image.open(BytesIO(self.page.screenshot()))
        picture = picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
        picture.save(PICTURES / f"{name}.png", optimize=True)
        print(f"docs/tour/{name}.png  {(PICTURES / f'{name}.png').stat().st_size / 1000:.0f} kB")


def run_list(tour: Tour) -> None:
    """The experiment's page in the saved view Test results."""
    tour.show(f"/experiments/{tour.main.info.experiment_id}/runs?viewStateShareKey=results", tour.main.info.run_name)


def description(tour: Tour) -> None:
    """A run's overview."""
    tour.show(tour.run_page(tour.main), "Show more")
    tour.click("Show more")


def children(tour: Tour) -> None:
    """The run list with the newest parent opened."""
    tour.show(f"/experiments/{tour.main.info.experiment_id}/runs?viewStateShareKey=results", tour.main.info.run_name)
    tour.page.locator(".ag-pinned-left-cols-container [role='row'] button:not([role])").first.click()
    tour.page.wait_for_timeout(1500)


def charts(tour: Tour) -> None:
    """A train run's charts."""
    tour.show(tour.run_page(tour.train, "/model-metrics"), "cross_entropy")


def slider(tour: Tour) -> None:
    """The validation case of each training, and the slider over its steps."""
    page = f"/experiments/{tour.main.info.experiment_id}/runs?viewStateShareKey=case&compareRunsMode=CHART"
    tour.show(page, "validation/one case")
    last = max(point.step for point in tour.client.get_metric_history(tour.train.info.run_id, "validation/dice"))
    steps = tour.page.locator("input[type='number']").first
    steps.fill(str(last))
    steps.press("Enter")
    steps.blur()
    tour.page.get_by_text("validation/one case").first.scroll_into_view_if_needed()
    tour.page.wait_for_timeout(3000)


def parallel(tour: Tour) -> None:
    """The trials of a study on the compare page."""
    search = tour.newest("search").info
    trials = [run for run in tour.runs if run.data.tags.get("mlflow.parentRunId") == search.run_id]
    ids = ",".join(f'"{run.info.run_id}"' for run in trials if run.data.tags.get("stage") == "trial")
    tour.show(f'/compare-runs?runs=[{ids}]&experiments=["{search.experiment_id}"]', "Parallel Coordinates Plot", 5)
    select = tour.page.get_by_role("combobox").nth(1)  # the metrics; MLflow has chosen the first of all
    select.press("Backspace")
    for metric in ("tuned/threshold", "tuned/crf_weight_bilateral", "tuned/crf_theta_alpha_mm", "trial/value"):
        select.fill(metric)
        select.press("Enter")
    tour.page.keyboard.press("Escape")
    tour.page.wait_for_timeout(2000)


def report(tour: Tour) -> None:
    """The test report among the artifacts of the evaluation."""
    evaluation = tour.newest("evaluate", tour.main)
    tour.show(tour.run_page(evaluation, "/artifacts/report/report.html"), "report.html", 12)
    tour.page.get_by_text("Path:").first.evaluate("element => element.remove()")  # of the machine that made it


def model(tour: Tour) -> None:
    """The page of the model that `main` has registered."""
    name, _, version = tour.main.data.tags["registered_model"].rpartition("/")
    logged = tour.client.get_model_version(name, version).source.removeprefix("models:/")
    tour.show(f"/experiments/{tour.main.info.experiment_id}/models/{logged}", "About this logged model")


def model_metrics(tour: Tour) -> None:
    """Further down on that page: what was measured with the model."""
    model(tour)
    metric = tour.page.get_by_text("test/dice", exact=True).first
    metric.evaluate("element => element.scrollIntoView({block: 'center'})")
    tour.page.wait_for_timeout(1000)


def registered(tour: Tour) -> None:
    """The registered model."""
    tour.show(f"/models/{tour.main.data.tags['registered_model'].partition('/')[0]}", "A version")


def version(tour: Tour) -> None:
    """A version with its model card."""
    name, _, number = tour.main.data.tags["registered_model"].partition("/")
    tour.show(f"/models/{name}/versions/{number}", "How to call it")


def prediction(tour: Tour) -> None:
    """README's picture: the worst of the test cases, as the report has it."""
    evaluation = tour.newest("evaluate", tour.main).info.run_id
    shutil.copy(tour.client.download_artifacts(evaluation, "report/worst.png"), PROJECT / "docs" / "prediction.png")


PAGES: tuple[Callable[[Tour], None], ...] = (
    run_list,
    description,
    children,
    charts,
    slider,
    parallel,
    report,
    model,
    model_metrics,
    registered,
    version,
)


def main() -> None:
    """Make the runs where there is no database, and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="of runs that exist; made in build/tour if not given")
    parser.add_argument("--only", nargs="*", help="names of pictures")
    browsers = ("chromium", "chromium-browser", "google-chrome")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, browsers)), None))
    given = parser.parse_args()
    if given.browser is None:
        sys.exit("error: no Chromium on the path: install it, or give --browser FILE")
    PICTURES.mkdir(exist_ok=True)
    code = subprocess.run(["git", "rev-parse", "--short", "HEAD:src"], cwd=PROJECT, capture_output=True, text=True)
    database = given.database or make_runs(PROJECT / "build" / "tour" / code.stdout.strip())
    with user_interface(database) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        # MLflow's assistant would take a third of the window the first time.
        page.add_init_script(
            "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
            "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
        )
        tour = Tour(page, address)
        for look in PAGES:
            if not given.only or look.__name__ in given.only:
                look(tour)
                tour.save(look.__name__)
        prediction(tour)
        browser.close()


if __name__ == "__main__":
    main()
