"""Shapes and types executed in every test; an own store; the models a test may ask for.

Set AEP_NO_HOOK=1 to run without the type checks (faster, and the way a benchmark sees the library).
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["TQDM_DISABLE"] = "1"

# The same examples in every run, so that a change that passes passes again; HYPOTHESIS_PROFILE=default draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

if os.environ.get("AEP_NO_HOOK", "0") in ("", "0"):
    from jaxtyping import install_import_hook

    # Before the first import of aep: every annotation of the library is checked at every call.
    install_import_hook("aep", "typechecks.checked")


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory):
    """No test reads or writes the user's store, nor the repository's output folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEP_HOME", str(tmp_path_factory.mktemp("store")))
        patch.setenv("AEP_OUTPUT_ROOT", str(tmp_path_factory.mktemp("outputs")))
        yield


@pytest.fixture(scope="session")
def test_models() -> Path:
    """The folder AEP_TEST_MODELS of real models to test against; the test is skipped where there is none."""
    folder = os.environ.get("AEP_TEST_MODELS")
    if not folder:
        pytest.skip("AEP_TEST_MODELS is not set: no folder of real models to test against")
    if not Path(folder).is_dir():
        pytest.fail(f"AEP_TEST_MODELS={folder!r} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def stories260k(test_models) -> Path:
    """The folder of stories260K, a Llama of 260 thousand parameters trained on TinyStories."""
    folder = test_models / "stories260K"
    if not folder.is_dir():
        pytest.skip("there is no stories260K in AEP_TEST_MODELS")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]
