"""Finding the cases of a data set, whatever its layout."""

from collections.abc import Callable

from mlproject.data.case import Case, DataSettings, SplitName
from mlproject.data.layouts import demo, isles2022, nnunet, table
from mlproject.errors import DataError

__all__ = ["Case", "DataSettings", "SplitName", "find_cases"]

LAYOUTS: dict[str, Callable[[DataSettings, bool], list[Case]]] = {
    "demo": demo.find,
    "isles2022": isles2022.find,
    "nnunet": nnunet.find,
    "table": table.find,
}


def find_cases(settings: DataSettings, labelled: bool = True) -> list[Case]:
    """Find all cases under `settings.root`, sorted by name. No image is read.

    Args:
        settings: where to look, and for which channels.
        labelled: every case needs a label; otherwise `Case.label` is None where there is none.

    Raises:
        DataError: the root is missing or holds no case, or files are missing or ambiguous: all at once.
    """
    if not settings.root:
        raise DataError("data.root is empty: give data.root=/path/to/the/data")
    root = settings.root_path
    try:
        if settings.layout != "demo" and not root.exists():
            raise DataError(f"data.root={root} does not exist: give the folder or file of your data set")
        if settings.layout == "table" and not root.is_file():
            raise DataError(f"data.root={root} is a folder: data.layout=table needs a CSV file")
        if settings.layout in ("isles2022", "nnunet") and not root.is_dir():
            raise DataError(f"data.root={root} is a file: data.layout={settings.layout} needs a folder")
        cases = LAYOUTS[settings.layout](settings, labelled)
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}. See data.root={root}") from error
    return sorted(cases, key=lambda case: case.name)
