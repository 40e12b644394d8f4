"""A data set as the tree of names in which layouts look for cases: its folder, or what a bucket lists in its place."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os.path import normpath
from pathlib import Path

from mlproject.data.case import Case, DataSettings, Fault
from mlproject.data.case_keys import DETACHED_HEADERS
from mlproject.data.layouts.choosing import EXTENSIONS, stem_of
from mlproject.data.objects import SCHEME, BucketObject, place_of_copy
from mlproject.data.storage import is_s3
from mlproject.errors import DataError

READ_BY_LAYOUTS = "dataset.json"
"""The files whose content layouts read, besides a table that is the root: those of msd and nnunet."""
TABLE, LARGEST_TABLE = ".csv", 2**26  # bytes
BESIDE = {"rawdata": "derivatives"}
"""Folders in which a layout looks beside the root (isles2022), by the root's name."""


@dataclass(frozen=True)
class Tree:
    """Names of files in folders. In those of a bucket there is nothing, but for the few that layouts read.

    Attributes:
        settings: the data set's, with the tree in the place of the root.
        top: the folder that stands for all buckets; None where the tree is the data set itself.
        objects: what each file of the tree stands for.
        cache: where copies of the objects go.
    """

    settings: DataSettings
    top: Path | None = None
    objects: dict[Path, BucketObject] = field(default_factory=dict)
    cache: Path = Path()

    @property
    def root(self) -> Path:
        """The data set's folder, or the table, in the tree."""
        return self.settings.root_path

    def said(self, text: str) -> str:
        """A text about the tree, as it is to be told: about the bucket."""
        return text if self.top is None else text.replace(f"{self.top}/", SCHEME)

    def told(self, fault: str) -> str:
        """A fault, told in the same way."""
        if not isinstance(fault, Fault):
            return self.said(fault)
        where = fault.removesuffix(f": {fault.text}")
        return Fault(fault.case, self.said(fault.text), self.said(where))

    def located(self, case: Case) -> Case:
        """The case with the places of its copies, which may not be there yet, in place of its names in the tree.

        Raises:
            DataError: one of its files is not in the bucket below the root: a table may name any.
        """
        if self.top is None:
            return case
        files = [*case.images.values(), *([case.label] if case.label else [])]
        objects = {file: self._with_voxels(case, file) for file in dict.fromkeys(files)}
        places = {file: place_of_copy(self.cache, found) for file, found in objects.items()}
        return replace(
            case,
            images={channel: places[file] for channel, file in case.images.items()},
            label=places[case.label] if case.label else None,
            objects={places[file]: found for file, found in objects.items()},
        )

    def _with_voxels(self, case: Case, file: Path) -> tuple[BucketObject, ...]:
        """The object of a file; if that is a header, with the objects called alike, as a.img beside a.hdr."""
        path = Path(normpath(file))
        if path not in self.objects:
            raise DataError(
                f"{case.name}: {self.said(str(file))} does not lie below the data set's folder in the bucket, as its "
                "files must"
            )
        found = [self.objects[path]]
        if path.suffix.lower() in DETACHED_HEADERS:
            alike = (other for other in path.parent.glob("*") if other.name.startswith(f"{stem_of(path)}."))
            found += [self.objects[o] for o in sorted(alike) if o != path and not o.name.lower().endswith(EXTENSIONS)]
        return tuple(found)


@contextmanager
def tree_of(settings: DataSettings, cache: Path | None) -> Iterator[Tree]:
    """Within, the tree of a data set is there; a bucket is listed once, and no image is fetched.

    Raises:
        DataError: the bucket refuses, there is no object below the root, or one whose name no file can have.
    """
    if not is_s3(settings.root):
        yield Tree(settings)
        return
    if cache is None:
        raise DataError(f"data.root={settings.root} is in a bucket: give the folder where its copies go (cache)")
    with tempfile.TemporaryDirectory(prefix="names-", ignore_cleanup_errors=True) as folder:
        top = Path(folder)
        objects = {top / one.bucket / one.key: one for one in _listed(settings)}
        for file, one in objects.items():
            _make_file(file, one)
        root = top / settings.where[len(SCHEME) :]
        for file, one in objects.items():
            if file.name == READ_BY_LAYOUTS or file == root:
                _fetch(one, file)
        yield Tree(replace(settings, root=str(root)), top, objects, cache)


def _listed(settings: DataSettings) -> list[BucketObject]:
    """The objects below the root; if that is a table, those beside it and further down."""
    from mlproject.data.s3 import S3Folder  # only now: boto3 takes a third of a second

    above, _, name = settings.where.rpartition("/")
    is_table = is_s3(above) and (settings.layout == "table" or name.lower().endswith(TABLE))
    folder = S3Folder(above if is_table else settings.where)
    listed = folder.objects()
    if not listed:
        raise DataError(f"{folder.locate('')}: there is no object below this prefix. See data.root={settings.root}")
    if name in BESIDE and is_s3(above):
        listed += S3Folder(f"{above}/{BESIDE[name]}").objects()
    return [one for one in listed if not one.key.endswith("/")]


def _make_file(file: Path, one: BucketObject) -> None:
    if not {"", ".", ".."}.isdisjoint(one.key.split("/")):
        raise DataError(f"{one.uri}: a name that leaves its folder is not fetched; rename it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except (OSError, ValueError) as error:
        raise DataError(f"{one.uri}: no file can have this name ({error}); rename it") from error


def _fetch(one: BucketObject, file: Path) -> None:
    from mlproject.data.s3 import S3Folder, download

    if one.size > LARGEST_TABLE:
        raise DataError(f"{one.uri}: {one.size / 1e6:.0f} MB are no table and no description of a data set")
    download(S3Folder(f"{SCHEME}{one.bucket}").client, one, file)
