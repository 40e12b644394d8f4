"""Pseudonyms: the same in every run and process, their table beside the data alone, and no text with a name."""

import csv
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlproject.data import case_names
from mlproject.data.case import Case, DataSettings
from mlproject.data.case_names import CaseNaming, without_names
from mlproject.data.dataset import open_dataset
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.errors import DataError

AUTO = CaseNaming("auto")
FOLDERS = DataSettings(layout="folders", root="set")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(case_names, "_hidden", {})
    (tmp_path / "set").mkdir()


def cases(*names: str) -> list[Case]:
    return [
        Case(
            name,
            {"dwi": Path.cwd() / f"set/{name}/dwi.nii.gz"},
            Path.cwd() / f"set/{name}/mask.nii.gz",
            f"ID of {name}",
        )
        for name in names
    ]


def called(naming: CaseNaming, *names: str, data: DataSettings = FOLDERS) -> list[str]:
    return [case.name for case in naming.apply(cases(*names), data)]


@pytest.mark.parametrize("layout", ["demo", "isles2017", "isles2022", "atlas"])
def test_public_challenges_keep_their_names(layout: str) -> None:
    data = replace(FOLDERS, layout=layout)  # type: ignore[arg-type]
    assert called(AUTO, "sub-strokecase0001", data=data) == ["sub-strokecase0001"]
    assert called(CaseNaming("pseudonym"), "sub-strokecase0001", data=data) == ["case-0001"]
    assert called(AUTO, "sub-strokecase0001", data=data) == ["case-0001"]  # which was not said again


@pytest.mark.parametrize("layout", ["table", "folders", "bids", "nnunet", "msd"])
def test_ways_of_keeping_ones_own_files_give_pseudonyms(layout: str) -> None:
    data = replace(FOLDERS, layout=layout)  # type: ignore[arg-type]
    assert called(AUTO, "Mustermann Erika 1950", data=data) == ["case-0001"]
    assert called(CaseNaming("plain"), "Mustermann Erika 1950", data=data) == ["Mustermann Erika 1950"]


def test_old_cases_keep_their_numbers_and_new_ones_get_the_next() -> None:
    assert called(AUTO, "b", "d") == ["case-0001", "case-0002"]
    assert called(AUTO, "a", "b", "c", "d") == ["case-0003", "case-0001", "case-0004", "case-0002"]
    assert called(AUTO, "d") == ["case-0002"]  # of a set that has become smaller
    with Path("set/case_names.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["pseudonym", "case"],
        ["case-0001", "b"],
        ["case-0002", "d"],
        ["case-0003", "a"],
        ["case-0004", "c"],
    ]


def test_odd_names_are_found_again() -> None:
    odd = ['Müller, "Zoë"', "Mu\u0308ller", "名前", "=1+1", "a b", " c", "d" * 200]
    assert called(AUTO, *odd) == called(AUTO, *odd)
    assert called(AUTO, "M\u00fcller") == called(AUTO, "Mu\u0308ller")  # one name, as two file systems write it


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "..", "a/../../b", "a\\b", "a\nb", "a\udcff", "ä" * 101])
@pytest.mark.parametrize("naming", [AUTO, CaseNaming("plain")])
def test_names_that_are_no_line_of_text_are_refused(name: str, naming: CaseNaming) -> None:
    with pytest.raises(DataError, match=r"^set: a case cannot be called") as caught:
        called(naming, "sound", name)
    assert "\n" not in str(caught.value)
    assert not Path("set/case_names.csv").exists()


def test_two_spellings_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="look alike"):
        called(CaseNaming("plain"), "M\u00fcller", "Mu\u0308ller")


def test_two_runs_at_once_give_the_same_pseudonyms() -> None:
    script = (
        "import json, sys, time\nfrom pathlib import Path\nfrom mlproject.data import case_names\n"
        "from mlproject.data.case import Case, DataSettings\nfrom mlproject.data.case_names import CaseNaming\n"
        "names = [f'n{number:03d}' for number in range(int(sys.argv[1]), 60, int(sys.argv[2]))]\n"
        "cases = [Case(name, {'dwi': Path('set') / name}, None, name) for name in names]\n"
        "rows = case_names._new_rows\n"  # as if the disk were slow
        "case_names._new_rows = lambda *given, **more: (time.sleep(0.005), rows(*given, **more))[1]\n"
        "sys.stdin.readline()\n"
        "for end in range(1, len(cases) + 1):\n"
        "    found = CaseNaming('auto').apply(cases[:end], DataSettings(layout='folders', root='set'))\n"
        "print(json.dumps({case.own_name: case.name for case in found}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", script, *given], env=environment, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for given in (("0", "1"), ("0", "2"), ("1", "2"))
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    everything, *parts = [json.loads(worker.communicate()[0]) for worker in workers]
    assert len(set(everything.values())) == 60
    for part in parts:
        assert part.items() <= everything.items()


def test_half_a_line_of_a_killed_process_is_no_name() -> None:
    called(AUTO, "a")
    with Path("set/case_names.csv").open("a") as file:
        file.write("case-0002,Muste")
    assert called(AUTO, "a", "Muste") == ["case-0001", "case-0002"]
    assert called(AUTO, "a", "Muster", "Muste") == ["case-0001", "case-0003", "case-0002"]


def test_a_case_called_as_a_pseudonym_is() -> None:
    assert called(AUTO, "case-0001", "x") == ["case-0002", "case-0003"]
    with pytest.raises(DataError, match=r"the case 'case-0003' is called as the pseudonym of another case is \('x'\)"):
        called(AUTO, "case-0001", "case-0003", "x")


@pytest.mark.parametrize(
    "text",
    [
        "case,pseudonym\na,case-0001\n",
        "pseudonym,case\ncase-0001,a\ncase-0001,b\n",
        "pseudonym,case\ncase-0001,a\ncase-0002,a\n",
        "pseudonym,case\n../x,a\n",
        "pseudonym,case\ncase-0001\n",
    ],
)
def test_a_table_that_is_none_is_refused_and_stays(text: str) -> None:
    Path("set/case_names.csv").write_text(text)
    with pytest.raises(DataError, match=r"no table of case names.*Restore it from a backup"):
        called(AUTO, "a")
    assert Path("set/case_names.csv").read_text() == text


def test_where_the_table_is(tmp_path: Path) -> None:
    Path("cases.csv").touch()
    table = DataSettings(layout="table", root="cases.csv")
    assert AUTO.table_of(table) == tmp_path / "cases_case_names.csv"
    assert AUTO.table_of(FOLDERS) == tmp_path / "set" / "case_names.csv"
    assert called(CaseNaming("auto", "elsewhere.csv"), "a") == ["case-0001"]
    assert Path("elsewhere.csv").exists() and not Path("set/case_names.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    called(AUTO, "a")
    table = Path("set/case_names.csv")
    for path in (table, table.parent):
        path.chmod(path.stat().st_mode & 0o555)
    assert called(AUTO, "a") == ["case-0001"]  # nothing is to be written
    with pytest.raises(DataError, match=r"Permission denied\): set tracking\.case_table"):
        called(AUTO, "a", "b")
    table.parent.chmod(0o755)


def test_no_folder_for_the_table() -> None:
    with pytest.raises(
        DataError, match=r"cannot be kept there \(No such file or directory\): set tracking\.case_table"
    ):
        called(CaseNaming("auto", "missing/names.csv"), "a")


def test_without_names(tmp_path: Path) -> None:
    plain = f"{tmp_path}/set/Mustermann Erika/dwi.nii.gz: [Errno 2] step 1"
    assert without_names(plain) == plain
    AUTO.apply(cases("Mustermann Erika", "Bo", "1"), FOLDERS)
    assert without_names(plain) == "<a file of case-0001>: [Errno 2] step 1"
    assert without_names("Mustermann Erika, patient ID of Bo") == "case-0001, patient <the patient of case-0002>"
    assert without_names("Bo is no Bob") == "case-0002 is no Bob"
    assert without_names("set/Mustermann Erika/other.nii") == "set/case-0001/other.nii"


def test_without_what_files_and_folders_are_called() -> None:
    folder = Path.cwd() / "set" / "all"
    odd = [Case(f"case {n}", {"dwi": folder / f"Erika {n}" / f"scan of Bo {n}.nii"}, None, str(n)) for n in (1, 2)]
    AUTO.apply(odd, FOLDERS)
    assert without_names("no Erika 2 here, scan of Bo 1.nii is all") == (
        "no <a file of case-0002> here, <a file of case-0001> is all"
    )


def test_without_a_name_as_errors_quote_it() -> None:
    name = 'O\'Neil "Bo"'
    AUTO.apply(cases(name, "x"), FOLDERS)
    assert without_names(f"no case {name!r}") == "no case 'case-0001'"


def test_who_cannot_open_the_folder_cannot_read_the_table() -> None:
    Path("set").chmod(0o700)
    called(AUTO, "a")
    assert stat.S_IMODE(Path("set/case_names.csv").stat().st_mode) == 0o600


def test_nothing_is_left_of_a_row_that_had_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    called(AUTO, "a")
    before = Path("set/case_names.csv").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where some file systems say so first
    with pytest.raises(DataError, match="No space left on device"):
        called(AUTO, "a", "b")
    assert Path("set/case_names.csv").read_bytes() == before


def test_names_change_neither_split_nor_order_nor_digest(tiny_isles: Path, tmp_path: Path) -> None:
    data = DataSettings(root=str(tiny_isles))
    table = tmp_path / "names.csv"
    plain = open_dataset(data, PreprocessingSettings(), tmp_path / "cache")
    table.write_text(f"pseudonym,case\ncase-0009,{next(iter(plain.cases))}\n")
    naming = CaseNaming("pseudonym", str(table))
    hidden = open_dataset(data, PreprocessingSettings(), tmp_path / "cache", naming)
    own = {case.name: case.own_name for case in hidden.cases.values()}
    assert next(iter(hidden.cases)) == "case-0009" and set(own).isdisjoint(plain.cases)
    assert hidden.digest == plain.digest and hidden.split.renamed(own) == plain.split
    assert [own[name] for name in hidden.lesion_ml] == list(plain.lesion_ml)
    assert [case.name for case in hidden.load(list(hidden.cases))] == list(hidden.cases)
    for names in (plain.split, hidden.split):  # a split.csv may have either
        file = tmp_path / "split.csv"
        file.write_text("case,split\n" + "".join(f"{name},{part}\n" for name, part in names.to_rows()))
        again = open_dataset(replace(data, split_file=str(file)), PreprocessingSettings(), tmp_path / "cache", naming)
        assert again.split == hidden.split
