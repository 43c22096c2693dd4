"""Jobs, their steps and names, and what is in a built kernel."""

import base64
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from helpers import tiny_config

import cellsignal
from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.kaggle import build as building
from cellsignal.kaggle import commands as verb
from cellsignal.kaggle import script, wheels
from cellsignal.kaggle.build import build, build_kernels, pack_package
from cellsignal.kaggle.job import (
    LONGEST_NAME,
    KernelJob,
    fill_owner,
    find_owner,
    load_job,
    slug,
    step_named,
    steps,
    title,
)
from cellsignal.kaggle.runner import OUT_OF_TIME
from cellsignal.kaggle.wheels import (
    WHEELS,
    Wheel,
    build_wheels,
    describe_wheels,
    install,
    lacking,
    missing,
)

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KEY = "0123456789abcdef0123456789abcdef"
FOLDS = "fold,experiment,n\n0,HEPG2-01,8\n1,HEPG2-02,8\n2,HUVEC-01,8\n"


def make_job(folder: Path) -> KernelJob:
    (folder / "table.csv").write_text(FOLDS)
    tree = tiny_config("rxrx1", folder / "raw") | {"folds": {"file": str(folder / "table.csv")}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return KernelJob(
        name="tiny",
        config=folder / "config.yaml",
        root="the-competition",
        competition_sources=("the-competition",),
    )


@pytest.fixture
def job(tmp_path) -> KernelJob:
    return make_job(tmp_path)


@pytest.fixture
def light(monkeypatch):
    """Builds without the package, which takes a second to compress."""
    monkeypatch.setattr(building, "pack_package", lambda job: b"nothing")


def members(folder: Path) -> dict[str, bytes]:
    """What travels in a built script, read by another way than the script's own."""
    text = (folder / "script.py").read_text()
    data = base64.b64decode(re.search(r'^PACKAGE = """(.*?)"""', text, re.M | re.S).group(1))
    spec = json.loads(re.search(r'^SPEC = r"""(.*?)"""', text, re.M).group(1))
    assert hashlib.sha256(data).hexdigest() == spec["package"]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


# jobs and steps
# --------------------------------------------------------------------------------------------------


def names(job: KernelJob) -> dict[str, tuple]:
    return {step.name: (step.verbs, step.needs) for step in steps(job)}


def test_steps_of_a_job_with_and_without_a_store(job):
    both = ("train", "predict")
    assert names(job) == {
        "prepare": (("prepare",), ()),
        "fold0": (both, ("prepare",)),
        "fold1": (both, ("prepare",)),
        "fold2": (both, ("prepare",)),
        "submit": (("submit",), ("fold0", "fold1", "fold2")),
    }
    some = job.model_copy(
        update={
            "store": "a-store/store",
            "folds": (2,),
            "set": ("folds.full=true",),
            "submit": None,
        }
    )
    assert names(some) == {"fold2": (both, ()), "full": (both, ())}
    code = KernelJob(**job.model_dump(exclude={"submit"}), submit={"verb": "code"})
    assert names(code)["fold0"] == (("train",), ("prepare",)) and names(code)["submit"][0] == (
        "code",
    )
    assert list(names(job.model_copy(update={"set": ("folds.use=[1]",)}))) == [
        "prepare",
        "fold1",
        "submit",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"folds": [7]}, r"folds: .*table\.csv has the folds \[0, 1, 2\], not 7"),
        ({"set": ["folds.use=[]"]}, "nothing to train"),
        ({"set": ["folds.file=nowhere.csv"]}, "nowhere.csv: no such fold table"),
        (
            {"set": ["model.pretrained=true"]},
            "no internet; give their file in a dataset as `weights`",
        ),
        ({"weights": "w/resnet.safetensors"}, "weights: .* starts from none"),
        (
            {"submit": {"verb": "code"}, "set": ["predict.checkpoint=best"]},
            "predict.checkpoint: best",
        ),
    ],
)
def test_a_job_that_no_kernel_could_do_is_refused(job, changed, message):
    with pytest.raises(InputError, match=message):
        steps(KernelJob(**job.model_dump() | changed))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{name: a, config: c.yaml, root: r, max_hour: 3}",
            r"unknown key max_hour \(did you mean 'max_hours'\?\)",
        ),
        ("{name: A b, config: c.yaml, root: r}", "name: String should match"),
        (
            f"{{name: {'a' * (LONGEST_NAME + 1)}, config: c.yaml, root: r}}",
            "name: String should have at most",
        ),
        ("{name: a, config: c.yaml, root: /kaggle/input/r}", "root: write a path relative"),
        ("{name: a, config: c.yaml, root: r, store: x/../../y}", "store: write a path relative"),
        (
            "{name: a, config: c.yaml, root: r, dataset_sources: [lonely]}",
            "dataset_sources.0: 'lonely' is not a data set; write OWNER/SLUG",
        ),
        ("{name: a, config: c.yaml, root: r, folds: [1, 1]}", "a fold is named twice"),
        (
            "{name: a, config: c.yaml, root: r, max_hours: 0}",
            "max_hours: Input should be greater than 0",
        ),
        ("[1]", "a job is a mapping of keys, this is a list"),
        ("{", "not valid YAML, line 1"),
    ],
)
def test_a_wrong_job_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_job(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "kernels").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_jobs_of_the_repository_can_be_built(path, tmp_path, monkeypatch, light):
    monkeypatch.chdir(REPOSITORY)
    job = load_job(path)
    folders = build_kernels(job, tmp_path, user="me")
    assert [folder.name for folder in folders] == [slug(job, step.name, 1) for step in steps(job)]


def test_kaggle_makes_the_slug_of_the_title(job):
    from slugify import slugify  # what Kaggle's client uses

    longest = job.model_copy(update={"name": "-".join(["ab"] * 12)})
    assert len(longest.name) <= LONGEST_NAME
    for named in (job, longest, job.model_copy(update={"name": "x" * LONGEST_NAME})):
        for step in ("prepare", "fold99", "full", "submit"):
            for link in (1, 99):
                assert slugify(title(named, step, link)) == slug(named, step, link)
                assert 5 <= len(slug(named, step, link)) <= 50


# a built kernel
# --------------------------------------------------------------------------------------------------


def test_the_verb_builds_the_first_link_of_every_step_or_one_kernel(job, tmp_path, capsys, light):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    given = {
        "job": path,
        "out": tmp_path / "out",
        "step": None,
        "link": 1,
        "user": "me",
        "after": [],
        "wheels": tmp_path / "wheels",
    }
    verb.build(Namespace(**given))
    folders = [
        str(tmp_path / "out" / f"tiny-{step}-1")
        for step in ("prepare", "fold0", "fold1", "fold2", "submit")
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == folders
    pushed = [
        re.fullmatch(r"  cellsignal kaggle push (\S+)(?:  # after (.+))?", line).groups()
        for line in lines[7:]
    ]
    assert pushed == [
        (folders[0], None),
        *((folder, "tiny-prepare-1") for folder in folders[1:4]),
        (folders[4], "tiny-fold0-1, tiny-fold1-1, tiny-fold2-1"),
    ]
    assert all(wheel.name in lines[5] for wheel in WHEELS)
    verb.build(Namespace(**given | {"step": "submit", "after": ["fold1=4", "fold2=2"]}))
    metadata = json.loads((tmp_path / "out" / "tiny-submit-1" / "kernel-metadata.json").read_text())
    assert metadata["kernel_sources"] == ["me/tiny-fold0-1", "me/tiny-fold1-4", "me/tiny-fold2-2"]
    for after in ("fold1", "fold1=x", "fold1=0"):
        with pytest.raises(InputError, match=f"--after {after}"):
            verb.build(Namespace(**given | {"after": [after]}))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a job's table and config, and the kernel of its fold 1 in out/."""
    folder = tmp_path_factory.mktemp("built")
    build(make_job(folder), step_named(make_job(folder), "fold1"), 1, folder / "out", "me")
    return folder


@pytest.mark.slow
def test_the_same_bytes_each_time_and_under_the_limit(built, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    first = built / "out" / "tiny-fold1-1"
    again = build_kernels(make_job(built), tmp_path, step="fold1", user="me")[0]
    assert (first / "script.py").read_bytes() == (again / "script.py").read_bytes()
    assert (first / "script.py").stat().st_size < 1_000_000
    assert sorted(path.name for path in first.iterdir()) == ["kernel-metadata.json", "script.py"]


def test_what_travels_is_the_package_its_config_and_fold_table(built):
    packed, top = members(built / "out" / "tiny-fold1-1"), Path(cellsignal.__file__).parent
    sources = {
        name.removeprefix("src/cellsignal/"): content
        for name, content in packed.items()
        if name.startswith("src/")
    }
    expected = {
        str(path.relative_to(top))
        for path in [
            *top.rglob("*.py"),
            *top.glob("competitions/*/*.csv"),
            *top.glob("competitions/*/README.md"),
        ]
        if path.relative_to(top).parts[0] not in building.AT_HOME
    }
    assert set(sources) == expected and sources == {
        name: (top / name).read_bytes() for name in sources
    }
    assert set(packed) - {f"src/cellsignal/{name}" for name in sources} == {
        "config.yaml",
        "folds.csv",
    }
    assert (
        packed["folds.csv"].decode() == FOLDS and str(built) not in packed["config.yaml"].decode()
    )
    (built / "packed.yaml").write_bytes(packed["config.yaml"])
    config, mine = load_config(built / "packed.yaml"), load_config(built / "config.yaml")
    assert (config.stages, config.model, config.name, config.predict) == (
        mine.stages,
        mine.model,
        mine.name,
        mine.predict,
    )
    assert str(config.data.root) == "the-competition"


def test_a_kernel_has_the_verbs_of_the_rooms_that_travel(built):
    """The command line of what travels starts without what stays at home."""
    for name, content in members(built / "out" / "tiny-fold1-1").items():
        (built / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (built / "unpacked" / name).write_bytes(content)
    program = "from cellsignal.cli import build_parser; print(build_parser().format_help())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(built / "unpacked" / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    verbs = re.findall(r"^  (\w+) ", done.stdout, re.M)
    assert {"train", "predict", "submit", "run"} <= set(verbs)
    assert not {"study", "audit", "tune"} & set(verbs)


def test_a_script_leaves_room_for_a_larger_package(built):
    (script_file,) = (built / "out" / "tiny-fold1-1").glob("script.py")
    assert script_file.stat().st_size < 0.9 * building.LIMIT


def test_metadata_names_all_that_is_attached(job, tmp_path, light):
    job = KernelJob(
        **job.model_dump()
        | {
            "wheels": "me/the-wheels",
            "dataset_sources": ["you/weights"],
            "machine": "NvidiaTeslaT4",
        }
    )
    folder = build(job, step_named(job, "fold2"), 3, tmp_path / "out", "me", {"prepare": 2})
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    assert metadata == {
        "id": "me/tiny-fold2-3",
        "title": "tiny fold2 3",
        "code_file": "script.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": [],
        "dataset_sources": ["you/weights", "me/the-wheels"],
        "competition_sources": ["the-competition"],
        "kernel_sources": ["me/tiny-prepare-2", "me/tiny-fold2-2"],
        "model_sources": [],
        "machine_shape": "NvidiaTeslaT4",
    }
    for step, gpu in (("prepare", False), ("submit", False)):
        metadata = json.loads(
            (
                build(job, step_named(job, step), 1, tmp_path / "out", "me")
                / "kernel-metadata.json"
            ).read_text()
        )
        assert metadata["enable_gpu"] is gpu and "machine_shape" not in metadata
    assert metadata["kernel_sources"] == ["me/tiny-fold0-1", "me/tiny-fold1-1", "me/tiny-fold2-1"]


def test_what_cannot_be_built_is_one_line(job, tmp_path, monkeypatch, light):
    step = step_named(job, "fold0")
    with pytest.raises(InputError, match="--link: name its --step"):
        build_kernels(job, tmp_path, link=2, user="me")
    with pytest.raises(
        InputError, match="has the steps prepare, fold0, fold1, fold2, submit, not 'fold9'"
    ):
        build_kernels(job, tmp_path, step="fold9", user="me")
    monkeypatch.setattr(building, "LIMIT", 1_000)
    with pytest.raises(InputError, match=r"the script has [\d,]+ bytes, Kaggle takes 1,000"):
        build(job, step, 1, tmp_path, "me")
    assert not (tmp_path / slug(job, "fold0", 1)).exists()


@pytest.fixture
def no_credentials(tmp_path, monkeypatch) -> Path:
    """A home without any credentials of Kaggle."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    return tmp_path / "home"


@pytest.mark.parametrize("user", [None, "USER", "your_name", "not a name"])
def test_an_unknown_owner_is_refused_before_anything_is_written(
    job, tmp_path, no_credentials, light, user
):
    with pytest.raises(
        InputError, match=r"by --user NAME, as `owner: NAME` in the job, or by credentials"
    ) as error:
        build_kernels(job, tmp_path / "out", user=user)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["option", "job", "variable", "kaggle.json"])
def test_the_owner_comes_from_an_option_the_job_or_the_credentials_and_replaces_user(
    job, tmp_path, no_credentials, monkeypatch, light, way
):
    sources = {
        "dataset_sources": ("USER/the-store", "colleague/weights"),
        "wheels": "USER/the-wheels",
    }
    job = KernelJob(**job.model_dump() | sources | {"owner": "me" if way == "job" else None})
    if way == "variable":
        monkeypatch.setenv("KAGGLE_USERNAME", "me")
    elif way == "kaggle.json":
        (no_credentials / ".kaggle" / "kaggle.json").write_text(
            json.dumps({"username": "me", "key": KEY})
        )
    folders = build_kernels(job, tmp_path / "out", user="me" if way == "option" else None)
    for folder in folders:
        metadata = json.loads((folder / "kernel-metadata.json").read_text())
        assert metadata["id"] == f"me/{folder.name}"
        assert metadata["dataset_sources"] == ["me/the-store", "colleague/weights", "me/the-wheels"]
        assert "USER" not in json.dumps(metadata)


def test_a_job_of_another_owner_is_refused(job, tmp_path, light):
    with pytest.raises(InputError, match="its owner is somebody, and you are me"):
        build_kernels(job.model_copy(update={"owner": "somebody"}), tmp_path, user="me")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_a_config_is_no_job_and_a_job_no_config(path):
    with pytest.raises(
        InputError, match=r"is a config, not a job; give a job file that names it \(`config: "
    ) as error:
        load_job(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "kernels").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_job_given_for_a_config_is_one_line(path):
    with pytest.raises(
        InputError,
        match=r"is a kernel job, not a config; give it to `cellsignal kaggle`, or its config configs/",
    ):
        load_config(path)


def test_no_credential_travels(job, built, monkeypatch):
    kernel = built / "out" / "tiny-fold1-1"
    for content in (*members(kernel).values(), *(path.read_bytes() for path in kernel.iterdir())):
        assert KEY.encode() not in content
    package = job.config.parent / "package"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "kaggle.json", ".kaggle.py", "__pycache__/x.py", "notes.txt"):
        (package / name).write_text(KEY if name != "__init__.py" else "")
    (package / "linked.py").symlink_to(job.config)
    monkeypatch.setattr(cellsignal, "__file__", str(package / "__init__.py"))
    assert list(building.package_files()) == ["__init__.py"]
    for secret in (f"x = {{'username': 'me', 'key': '{KEY}'}}", f"TOKEN = 'KGAT_{KEY}'"):
        (package / "__init__.py").write_text(secret)
        with pytest.raises(InputError, match=r"__init__\.py: holds what looks like a Kaggle key"):
            pack_package(job)


# unpacking
# --------------------------------------------------------------------------------------------------


def archive_of(*entries: tuple[str, bytes | None, str]) -> tuple[bytes, str]:
    """A tar of (name, kind, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, kind, target in entries:
            member = tarfile.TarInfo(name)
            member.type = kind or tarfile.REGTYPE
            member.linkname = target
            member.size = 0 if kind else 4
            archive.addfile(member, io.BytesIO(b"evil") if not kind else None)
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


@pytest.mark.parametrize(
    "entry",
    [
        ("../outside", None, ""),
        ("a/../../outside", None, ""),
        ("/outside", None, ""),
        ("a\\..\\outside", None, ""),
        ("C:outside", None, ""),
        ("link", tarfile.SYMTYPE, "/etc"),
        ("hard", tarfile.LNKTYPE, "good"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("device", tarfile.CHRTYPE, ""),
        ("good", None, ""),
        ("folder", tarfile.DIRTYPE, ""),
    ],
)
def test_an_archive_that_would_leave_its_folder_is_refused_whole(tmp_path, entry):
    folder = tmp_path / "in" / "package"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="the package holds"):
        script.unpack(*archive_of(("good", None, ""), entry), folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_package_with_another_checksum_is_not_opened(built, tmp_path):
    text = (built / "out" / "tiny-fold1-1" / "script.py").read_text()
    at = text.index('PACKAGE = """') + 500
    (tmp_path / "script.py").write_text(
        text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: the package in this script is damaged: SHA-256")
        and done.stderr.count("\n") == 1
    )


def test_script_and_runner_start_on_a_bare_python():
    """-S: no third-party library can be imported."""
    source = str(Path(cellsignal.__file__).parent.parent)
    for module in ("cellsignal.kaggle.script", "cellsignal.kaggle.runner"):
        program = f"import sys; sys.path.insert(0, {source!r}); import {module}; assert 'yaml' not in sys.modules"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-I", "-S", "-c", "import yaml"], capture_output=True)
    assert done.returncode != 0 and OUT_OF_TIME == 75
    text = Path(script.__file__).read_text()
    # of the package it imports nothing
    assert "cellsignal." not in re.sub(r'"""(.|\n)*?"""|"cellsignal\.kaggle\.runner"', "", text)


# wheels
# --------------------------------------------------------------------------------------------------


def test_the_wheels_are_the_versions_that_are_tested():
    pinned = dict(
        line.strip().split("==")
        for line in (REPOSITORY / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    listed = {wheel.name: wheel.version for wheel in WHEELS}
    assert len(listed) == len(WHEELS) and {
        name: pinned[name] for name in listed if name in pinned
    } == {n: v for n, v in listed.items() if n in pinned}
    assert set(listed) - set(pinned) == {"donfig"}  # zarr's, pinned by nothing
    assert all(importlib.util.find_spec(wheel.module) for wheel in WHEELS) and missing() == []


def test_what_the_image_lacks_is_installed_offline_into_a_folder_of_its_own(tmp_path, monkeypatch):
    lacking = Wheel("a_library_of_the_test", "a-library-of-the-test", "1.2", "1.2.0", "the test")
    too_old = Wheel("yaml", "PyYAML", "999", "999.0", "the test")
    assert missing([lacking, too_old, WHEELS[0]]) == [lacking, too_old]
    source, target = tmp_path / "dataset", tmp_path / "site"
    source.mkdir()
    with pytest.raises(
        InputError,
        match=r"dataset: cannot install a-library-of-the-test \(.*No matching distribution",
    ):
        install([lacking], source, target)
    info = "a_library_of_the_test-1.2.0.dist-info"
    with zipfile.ZipFile(source / "a_library_of_the_test-1.2.0-py3-none-any.whl", "w") as archive:
        archive.writestr("a_library_of_the_test.py", "ANSWER = 42\n")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: a-library-of-the-test\nVersion: 1.2.0\nRequires-Dist: "
            "never-there\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    install([lacking], source, target)
    monkeypatch.syspath_prepend(str(target))
    assert missing([lacking]) == [] and importlib.util.find_spec(
        "a_library_of_the_test"
    ).origin == str(target / "a_library_of_the_test.py")


def test_the_folder_of_the_wheels_dataset(tmp_path, monkeypatch):
    calls = []

    def pip(words, **_):
        calls.append(words)
        (Path(words[words.index("--dest") + 1]) / f"zarr-{len(calls)}.whl").touch()
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    assert [path.name for path in build_wheels(tmp_path, "me/the-wheels")] == [
        "zarr-1.whl",
        "zarr-2.whl",
    ]
    assert [words[words.index("--python-version") + 1] for words in calls] == ["3.11", "3.12"]
    assert json.loads((tmp_path / "dataset-metadata.json").read_text()) == {
        "title": "the wheels",
        "id": "me/the-wheels",
        "licenses": [{"name": "other"}],
    }
    for name in ("wheels", "me/w", "me/Has_Capitals", "me/" + "a" * 51):
        with pytest.raises(InputError, match="a dataset is OWNER/SLUG"):
            build_wheels(tmp_path, name)
    with pytest.raises(InputError, match="'USER' only stands for a name"):
        build_wheels(tmp_path, "USER/the-wheels")


def file_name(wheel: Wheel, version: str = "", tags: str = "py3-none-any") -> str:
    return f"{wheel.name.replace('-', '_')}-{version or wheel.version}-{tags}.whl"


def test_missing_wheels_are_named(tmp_path):
    every = ", ".join(f"{wheel.name} {wheel.version}" for wheel in WHEELS)
    assert every in describe_wheels(None, tmp_path) and every in describe_wheels(
        "me/the-wheels", tmp_path
    )
    (tmp_path / "dataset-metadata.json").write_text(json.dumps({"id": "me/the-wheels"}))
    for wheel in WHEELS:
        (tmp_path / file_name(wheel)).touch()
    assert "holds all of me/the-wheels" in describe_wheels("me/the-wheels", tmp_path)
    zarr, numcodecs = (
        next(wheel for wheel in WHEELS if wheel.name == name) for name in ("zarr", "numcodecs")
    )
    (tmp_path / file_name(zarr)).rename(tmp_path / file_name(zarr, "2.18.3"))  # too old
    (tmp_path / file_name(numcodecs)).rename(
        tmp_path / file_name(numcodecs, tags="cp312-cp312-manylinux_2_17_x86_64")
    )
    assert lacking(tmp_path) == [
        f"zarr {zarr.version}",
        f"numcodecs {numcodecs.version} (Python 3.11)",
    ]
    with pytest.raises(
        InputError,
        match=r"lacks zarr .*, numcodecs .* \(Python 3\.11\); make it by `cellsignal kaggle wheels",
    ):
        describe_wheels("me/the-wheels", tmp_path)
    assert "was not checked" in describe_wheels("other/the-wheels", tmp_path)


@pytest.mark.parametrize("name", ["foo.whl", "-.whl", "zarr.whl", "zarr-3.1.6.whl", "zarr-py3.whl"])
def test_a_file_that_is_no_wheel_serves_nothing(tmp_path, name):
    (tmp_path / name).touch()
    assert len(lacking(tmp_path)) == len(WHEELS)


@pytest.mark.parametrize(
    "name",
    [
        "USER",
        "YOUR_USERNAME",
        "your-kaggle-name",
        "INSERT_KAGGLE_NAME",
        "my_account",
        "Kaggle-User",
    ],
)
def test_whatever_stands_for_the_readers_name_is_replaced_by_it(job, name):
    named = job.model_copy(
        update={"dataset_sources": (f"{name}/store",), "wheels": f"{name}/the-wheels"}
    )
    filled = fill_owner(named, "alice")
    assert filled.dataset_sources == ("alice/store",) and filled.wheels == "alice/the-wheels"
    with pytest.raises(InputError, match=f"'{name}' only stands for a name"):
        find_owner(job, name)


@pytest.mark.parametrize(
    "name", ["alice", "user1", "username42", "hyou", "names-r-us", "kagglebob", "ownership"]
)
def test_the_names_of_others_stay(job, name):
    assert find_owner(job, name) == name
    assert fill_owner(job.model_copy(update={"wheels": f"{name}/w"}), "alice").wheels == f"{name}/w"


def test_the_last_link_of_a_step_that_the_job_has_not_is_refused(job, tmp_path, light):
    folder, path = tmp_path / "out", tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump({"name": "tiny", "config": str(job.config), "root": "r", "owner": "alice"})
    )
    given = Namespace(
        job=path, step="submit", link=1, user=None, after=["fold7=2"], wheels=tmp_path, out=folder
    )
    with pytest.raises(InputError, match=r"has the steps .*, not 'fold7'"):
        verb.build(given)
    assert not folder.exists()
