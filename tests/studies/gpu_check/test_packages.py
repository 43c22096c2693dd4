"""Only what is missing or too old is taken from a folder of wheels; the list of them is closed."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cellsignal.common.errors import InputError
from cellsignal.studies.gpu_check import packages
from cellsignal.studies.gpu_check.packages import (
    NEEDED,
    install_wheels,
    is_older,
    missing_modules,
    wheels_to_use,
)
from cellsignal.studies.gpu_check.plan import CHECKS
from cellsignal.studies.gpu_check.wheels import names_to_collect, read_have


@pytest.mark.parametrize(
    ("version", "oldest", "older"),
    [
        ("2.11.0+cu130", "2.6", False),
        ("2.5.1", "2.6", True),
        ("2.10", "2.9", False),
        ("1.0", "1.0.20", True),
        ("unknown", "1", True),
    ],
)
def test_versions_are_compared_as_numbers(version, oldest, older):
    assert is_older(version, oldest) is older


def wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> Path:
    """A wheel of one module that holds its version."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        text = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
        archive.writestr(f"{info}/WHEEL", text)
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return path


def test_what_is_there_is_not_replaced(tmp_path, monkeypatch):
    there = {"numpy": "2.5.2", "zarr": "2.18.0", "torch": "2.11.0"}
    monkeypatch.setattr(packages, "version_of", there.get)
    for name, version in (
        ("numpy", "2.4.6"),
        ("zarr", "3.1.6"),
        ("donfig", "0.8.1"),
        ("torch", "2.13.0"),
    ):
        wheel(tmp_path, name, version)
    assert [path.name.split("-")[0] for path in wheels_to_use(tmp_path)] == ["donfig", "zarr"]


@pytest.mark.slow
def test_a_wheel_of_another_python_is_left_out_alone(tmp_path):
    folder, target = tmp_path / "wheels", tmp_path / "site"
    wheel(folder, "cellsignal_planted_one", "1.0")
    wheel(folder, "cellsignal_planted_two", "1.0", "cp35-cp35m-manylinux1_x86_64")
    done, failed = install_wheels(folder, target)
    assert done == ["cellsignal_planted_one-1.0-py3-none-any.whl"]
    assert len(failed) == 1 and failed[0].startswith("cellsignal_planted_two-1.0")
    assert (target / "cellsignal_planted_one.py").is_file()
    assert not (target / "cellsignal_planted_two.py").exists()


def test_no_folder_of_wheels_is_no_error(tmp_path):
    assert install_wheels(tmp_path / "none", tmp_path / "site") == ([], [])


def test_checks_need_what_the_list_of_packages_knows():
    assert {name for check in CHECKS for name in check.needs} - set(NEEDED) - {
        "sklearn",
        "tqdm",
    } == set()
    assert not {"numpy", "torch", "zarr", "timm"} & set(missing_modules())


def test_the_command_starts_without_any_package(tmp_path):
    """As on a bare image: nothing but the standard library can be imported, torch included."""
    code = (
        "import sys\n"
        "allowed = set(sys.stdlib_module_names) | {'cellsignal'}\n"
        "class Bare:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in allowed:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Bare())\n"
        "from cellsignal.studies.gpu_check import entry, worker, runner\n"
        "import cellsignal.studies.gpu_check.device, cellsignal.studies.gpu_check.room\n"
        "print('started')\n"
    )
    source = str(Path(packages.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "started\n", done.stderr


def test_the_list_of_wheels_is_closed_and_without_torch():
    names = names_to_collect({})
    assert {"pydantic", "pydantic-core", "typing-inspection", "numpy", "zarr", "donfig"} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("torch", "nvidia", "cuda", "triton"))]
    installed = {
        packages.canonical_name(d.metadata["Name"]) for d in importlib.metadata.distributions()
    }
    assert set(names) - installed <= {
        "flatbuffers",
        "ml-dtypes",
        "onnx",
        "onnx-ir",
        "onnxruntime",
        "onnxscript",
    }


def test_what_the_image_has_is_left_out(tmp_path):
    image = tmp_path / "image.txt"
    image.write_text(
        "# pip\nnumpy==2.5.2\nPyYAML==6.0.3\nzarr==2.1\ntensorboard\nfoo @ file:///x\n"
    )
    have = read_have(image)
    assert have["pyyaml"] == "6.0.3" and have["foo"]
    names = names_to_collect(have)
    assert "numpy" not in names and "pyyaml" not in names and "grpcio" not in names
    assert "zarr" in names  # too old
    with pytest.raises(InputError, match="cannot be read"):
        read_have(tmp_path / "none.txt")
