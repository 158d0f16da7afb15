"""The rules every committed notebook keeps, and parameter files that cannot rot."""

import ast
import re

import nbformat
import pytest
import yaml

from aep import outputs, runner
from tiny_models import save_model

ROOT = outputs.repository()
FILES = outputs.notebook_files()
PARAMS = ROOT / "notebooks" / "params"
PROFILES = sorted(p.stem for p in PARAMS.glob("*.yaml") if p.stem != "default")

# Numbers and names of the papers' scale -> what a test can run: the same code on small embedded models and few texts.
SMALL = {"models": "docs-100k,docs-400k", "detail": "docs-400k"}
SMALL |= {"rlhf_models": "tales,tales-rloo", "dpo_models": "tales,tales-dpo", "second_model": "tales-rloo-2"}
SMALL |= {"reward_names": "tales-rule,tales-reward", "prompt_set": "tales"}
SMALL |= {"reference": "docs-400k-twin"}

each = pytest.mark.parametrize("number", FILES, ids=lambda n: FILES[n].stem if n in FILES else str(n))


def cells(number, kind="code"):
    return [c for c in nbformat.read(FILES[number], 4).cells if c.cell_type == kind and c.source.strip()]


def code_lines(cell) -> int:
    return sum(1 for line in cell.source.splitlines() if line.strip())


@each
def test_it_was_run_top_to_bottom_without_errors_or_warnings(number):
    code = cells(number)
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {cell.execution_count} holds an error"
            assert output.get("name") != "stderr", f"cell {cell.execution_count} wrote to stderr: {output.text[:200]}"
            assert "image/svg+xml" not in output.get("data", {}), "inline figures are PNG: SVG would be compared"


@each
def test_code_cells_are_short_and_prose_outweighs_code(number):
    code = cells(number)
    for cell in code:
        assert code_lines(cell) <= 25, f"cell {cell.execution_count} has {code_lines(cell)} lines"
    words = sum(len(c.source.split()) for c in cells(number, "markdown"))
    assert words >= sum(map(code_lines, code))


@each
def test_it_states_its_claims_and_shows_them(number):
    code = cells(number)
    asserting = [c for c in code if any(isinstance(n, ast.Assert) for n in ast.walk(parsed(c)))]
    assert len(asserting) >= 3, "fewer than three cells assert a claim"
    figures = {name for c in code for name in re.findall(rf"[\"'](fig{number}[a-z]_\w+)[\"']", c.source)}
    assert len(figures) >= 3, f"fewer than three figures: {sorted(figures)}"
    for name in figures:
        for suffix in (".pdf", ".png"):
            assert (ROOT / "figures" / f"{name}{suffix}").is_file(), f"{name}{suffix} is not committed"


@each
def test_it_holds_no_class_no_try_no_file_and_no_download(number):
    for cell in cells(number):
        for node in ast.walk(parsed(cell)):
            assert not isinstance(node, ast.ClassDef | ast.Try), (
                f"cell {cell.execution_count}: {ast.unparse(node)[:60]}"
            )
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("open", "exec", "eval", "input"), f"cell {cell.execution_count} calls {called}"
        assert not re.search(r"^\s*[!%]|\brequests\b|\burllib\b|urlretrieve", cell.source, re.MULTILINE)
        assert not cell.source.rstrip().endswith(";")


@each
def test_it_begins_with_its_number_and_its_run(number):
    assert cells(number, "markdown")[0].source.startswith(f"# {number} · ")
    assert any(re.search(rf"begin\([\"']{number}[\"'], globals\(\)\)", c.source) for c in cells(number))


@each
def test_its_parameters_are_typed_literals_with_a_comment_and_the_fixed_names(number):
    tagged = [c for c in cells(number) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert not line.strip() or "#" in line, f"parameter without a comment: {line}"
    declared = outputs.declared(FILES[number])
    if number.isdigit():
        assert type(declared["seed"]) is int
    if number in ("02", "03", "05"):
        assert type(declared["models"]) is str
    assert all(isinstance(v, bool | int | float | str) for v in declared.values()), "lists are comma-separated strings"


@each
def test_its_defaults_are_those_of_the_parameter_file(number):
    assert outputs.defaults(number) == outputs.declared(FILES[number]), "run `make notebooks`"


def test_the_defaults_name_no_notebook_that_does_not_exist():
    if not FILES:
        pytest.skip("no notebook is committed yet")
    assert set(outputs.read_parameters("default")) == set(FILES)


@each
def test_its_metadata_is_clean(number):
    text = FILES[number].read_text(encoding="utf-8")
    assert nbformat.writes(runner.clean(nbformat.reads(text, 4))) + "\n" == text, "run `make notebooks`"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_keys_of_a_parameter_file_are_parameters_of_their_notebook(profile):
    sections = yaml.safe_load((PARAMS / f"{profile}.yaml").read_text(encoding="utf-8"))
    for number in sections:
        assert number in FILES, f"{profile}.yaml has a section for {number!r}, which is no notebook"
    planned = runner.plans(list(sections), {}, profile)
    assert all(not p.is_default for p in planned)


def tiny(number: str, profile: str) -> dict:
    """The values of a section with sizes cut down; a size is an integer that is not a seed."""
    section = outputs.read_parameters(profile)[number]
    default = outputs.defaults(number)
    small = {}
    for name, value in section.items():
        if name in SMALL:
            small[name] = SMALL[name]
        elif type(value) is int and "seed" not in name:
            small[name] = min(value, default[name])
        else:
            small[name] = default[name] if name.startswith(("revision", "dtype", "device")) else value
    return small


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "number"), [(p, n) for p in PROFILES for n in outputs.read_parameters(p) if n in FILES]
)
def test_a_parameter_file_runs_when_its_models_and_sizes_are_replaced_by_small_ones(profile, number):
    assert runner.run([number], tiny(number, profile) | {"seed": 1}) == 0


def parsed(cell) -> ast.Module:
    return ast.parse(cell.source)


@pytest.mark.slow
def test_the_self_aep_holds_for_networks_of_other_architectures_and_vocabularies(tmp_path):
    folders = [save_model(tmp_path / "gpt2", "gpt2", n_positions=512)]
    folders.append(save_model(tmp_path / "gpt_neox", "gpt_neox", seed=1, max_position_embeddings=512))
    assert runner.run(["02"], {"models": ",".join(map(str, folders)), "seed": 3}) == 0


@pytest.mark.slow
def test_the_self_aep_holds_for_a_pretrained_model_from_outside(stories260k):
    assert runner.run(["02"], {"models": str(stories260k), "seed": 3}) == 0
