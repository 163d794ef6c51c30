"""One environment, said in four files: pyproject.toml, constraints.txt, environment.yml and the Makefile agree."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from hb.cli import report

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in (*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra))]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def pins_of(requirement: Requirement) -> list[Requirement]:
    return [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]


def version_of(pin: Requirement) -> str:
    (spec,) = pin.specifier
    assert spec.operator == "==", f"{pin} is not a pin"
    return spec.version


def extras_in(line: str) -> set[str]:
    return set(re.search(r"\[(.*?)\]", line)[1].split(","))


# ---- the four files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement):
    pins = pins_of(requirement)
    assert pins, f"constraints.txt has no {requirement.name}; make it again (see README, Development)"
    for pin in pins:
        assert requirement.specifier.contains(version_of(pin)), f"{pin} is outside {requirement}"


def test_the_pins_serve_every_python_of_the_project():
    """The oldest one too: Debian 12 has 3.11.2."""
    oldest = dict(python_version="3.11", python_full_version="3.11.0", sys_platform="linux")
    for requirement in DIRECT:
        assert any(pin.marker is None or pin.marker.evaluate(oldest) for pin in pins_of(requirement)), requirement


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_what_is_installed_is_within_range(requirement):
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{requirement.name} is not installed")
    assert requirement.specifier.contains(version.split("+")[0]), (
        f"{requirement.name} {version} is outside {requirement}"
    )


def test_conda_supplies_python_and_pip_alone():
    names = {re.split(r"[=<>]", line)[0] for line in CONDA if isinstance(line, str)}
    assert names == {"python", "pip"}
    (python,) = [line for line in CONDA if isinstance(line, str) and line.startswith("python")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1] + ".0")


def test_conda_installs_what_make_installs():
    (block,) = [line["pip"] for line in CONDA if isinstance(line, dict)]
    assert block[0] == "-c constraints.txt"
    makefile = (ROOT / "Makefile").read_text()
    made = set(re.search(r"^EXTRAS = (.*)$", makefile, re.M)[1].split(","))
    assert extras_in(block[1]) == made == set(EXTRAS)
    assert "-c constraints.txt -e '.[$(EXTRAS)]'" in makefile


def test_the_pins_name_no_place():
    """Names and versions only: an address or a local build in it would tie everybody to one machine."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert "/" not in line and "+" not in line and "@" not in line, line


@pytest.mark.slow  # asks an index
def test_the_pip_block_of_conda_resolves():
    if importlib.util.find_spec("pip") is None:
        pytest.skip("uv made this environment, without pip")
    (block,) = [line["pip"] for line in CONDA if isinstance(line, dict)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=ROOT) as file:
        file.write("\n".join(block) + "\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "-q", "-r", file.name],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr


# ---- what would break elsewhere -------------------------------------------------------------------------------------


def test_torchvision_is_absent_or_whole():
    """A torchvision for another PyTorch installs without complaint, and then nothing that uses transformers imports."""
    assert not [r for r in (*DIRECT, *PINS) if canonicalize_name(r.name) in ("torchvision", "torchaudio")]
    if importlib.util.find_spec("torchvision") is not None:
        done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
        assert done.returncode == 0, f"uninstall torchvision: it does not fit this PyTorch\n{done.stderr}"


LOOKS_FOR_PATHS = "hb/course/notebook.py"  # it names such places in order to find them in notebooks


def tracked_texts():
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git repository")
    for name in set(done.stdout.splitlines()) - {LOOKS_FOR_PATHS}:
        try:
            yield name, (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # weights and pictures; a file that is deleted but still listed
            continue


def test_no_tracked_file_names_a_registry_or_a_path_of_this_machine():
    places = [str(ROOT.parent) + "/", str(Path.home()) + "/", tempfile.gettempdir() + "/"]
    hosts = [
        "py" + "pi.org",
        "pythonhosted" + ".org",
        "download.py" + "torch.org",
        "/opt/" + "wheels",
        "/opt/py" + "pi",
    ]
    unwanted = [place for place in (*places, *hosts) if len(place) > 2]
    found = [f"{name}: {place}" for name, text in tracked_texts() for place in unwanted if place in text]
    assert not found


def test_import_hb_is_light():
    heavy = "torch numpy scipy matplotlib PIL transformers diffusers lightning tokenizers ipywidgets".split()
    code = f"import sys, hb; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- what commands have written -------------------------------------------------------------------------------------


def test_readme_and_data_readme_are_as_the_command_writes_them(capsys):
    class Args:
        check = True

    assert report.report(Args) == 0, capsys.readouterr().out
