"""environment.yml, pyproject.toml and constraints.txt say the same thing."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED_EXTRAS = ("test", "dev", "bench")


def requirements(lines) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


DECLARED = requirements(PROJECT["dependencies"] + [line for extra in PINNED_EXTRAS for line in EXTRAS[extra]])
PINS = requirements(constraints())


def test_constraints_pin_exact_public_versions_in_alphabetical_order():
    names = [Requirement(line).name.lower() for line in constraints()]
    assert names == sorted(names)
    assert len(names) == len(PINS)
    for line in constraints():
        assert "+" not in line and "@" not in line, f"{line}: a local version or a file is nobody else's"
        assert re.fullmatch(r"==\d[\w.]*", str(Requirement(line).specifier)), f"{line}: not an exact version"


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_every_dependency_is_pinned_and_its_floor_is_satisfied_by_the_pin(name):
    assert name in PINS, f"{name} of pyproject.toml is not in constraints.txt"
    (pin,) = PINS[name].specifier
    assert PINS[name].marker is None
    assert DECLARED[name].specifier.contains(pin.version)


def test_torch_is_pinned_exactly_because_numbers_are_compared():
    assert str(DECLARED["torch"].specifier) == str(PINS["torch"].specifier)


def test_the_extras_are_those_of_the_readme():
    assert set(EXTRAS) == {"test", "dev", "distributed", "train", "coding", "geometry", "bench"}


def test_this_environment_has_the_pinned_versions():
    from importlib.metadata import version

    public = {name: version(name).partition("+")[0] for name in requirements(PROJECT["dependencies"])}
    different = {n: v for n, v in public.items() if not PINS[n].specifier.contains(v)}
    if different:
        pytest.skip(f"other versions than constraints.txt are installed: {different}")


def test_the_conda_environment_installs_the_same_and_says_what_each_dependency_is_for():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content["name"] == "aep"
    python, pip, section = content["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert Requirement("x" + PROJECT["requires-python"]).specifier.contains("3.11")
    assert section == {"pip": ["-c constraints.txt", "-e .[test]"]}
    explained = set(re.findall(r"^#   ([a-z][\w-]*)  +\S", text, re.MULTILINE))
    assert explained == set(requirements(PROJECT["dependencies"] + EXTRAS["test"]))


def test_the_lint_versions_of_pre_commit_are_those_of_the_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}


def test_the_version_stands_in_one_place_and_the_citation_agrees():
    import aep

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["dynamic"] == ["version"]
    assert citation["version"] == aep.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert f"## {aep.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_binder_installs_the_same():
    """repo2docker installs the file from the root of the repository; `-c` is relative to the file, `-e` to the root."""
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if line] == ["-c ../constraints.txt", "-e .[test]"]
    assert (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip() == "python-3.11"
