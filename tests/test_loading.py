"""Loading a model by embedded name, folder or hub id: what works, and one line within ten seconds for what does not.

The test of stories260K rejects a correct build with probability .0027 for a new seed (|z| <= 3); its seed was fixed before
the first run.
"""

import hashlib
import json
import shutil
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file

import aep
from aep.__main__ import main
from aep.errors import DeviceError, ModelError
from aep.neural import loading
from tiny_models import VOCAB, one_thread, save_model, tiny  # noqa: F401


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A complete folder of a tiny model."""
    return save_model(tmp_path_factory.mktemp("models") / "whole", "gpt2")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "some-model"))


@pytest.fixture
def offline(monkeypatch):
    """No connection: what the hub client raises without one; the cache of hub models is empty."""

    def fail(*_, **__):
        raise hub.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


@pytest.fixture
def embedded(whole, tmp_path, monkeypatch) -> Path:
    """An embedded model `docs-9k` with a card, in a models folder of this test's own."""
    place = Path(shutil.copytree(whole, tmp_path / "models" / "docs-9k"))
    write_card(place)
    monkeypatch.setattr(loading, "_models_folder", lambda: place.parent)
    return place


def write_card(place: Path, parameters: int = 8496, **entries) -> None:
    """A card of these facts, with the checksum of every other file of the folder."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
    sums.pop("card.json", None)
    held_out = {"held_out_loss": 2.5, "held_out_low": 2.4, "held_out_high": 2.6}
    held_out["held_out"] = {"nats_per_byte": {"value": 1.25, "low": 1.2, "high": 1.3}}
    made = {"steps": 10, "seconds": 1.5, "seed": 0}
    facts = {"parameters": parameters, "vocab_size": VOCAB, **held_out, **made, "sha256": sums} | entries
    (place / "card.json").write_text(json.dumps(facts))


def refused(name, message, error=ModelError, **options) -> str:
    """The one line with which `name` is refused, within ten seconds."""
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        aep.load(name, **options)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ what is loaded


def test_a_folder_is_loaded_in_the_precision_of_its_checkpoint_or_the_one_asked_for(folder):
    language = aep.load(folder)
    assert (language.name, language.vocab_size, language.bos, language.eos) == ("some-model", VOCAB, 1, 2)
    assert language.dtype_name == "float64"
    for dtype in ("float32", "bfloat16", "float16"):
        assert aep.load(str(folder), dtype=dtype, device="cpu").dtype_name == dtype
    assert isinstance(language, aep.Language)
    assert language.decode(language.encode("abc")).replace(" ", "") == "abc"


def test_a_fingerprint_depends_on_weights_and_config_and_not_on_the_place(folder, whole):
    prints = [aep.load(folder).fingerprint, aep.load(whole).fingerprint]
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][3, 3] += 1e-9
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    prints.append(aep.load(folder).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_an_embedded_model_is_found_by_name_in_double_precision_and_listed(embedded):
    language = aep.load("docs-9k")
    assert (language.name, language.dtype_name) == ("docs-9k", "float64")
    table = aep.models()
    assert table.index.tolist() == ["docs-9k"]
    assert table.loc["docs-9k", "parameters"] == 8496
    assert table.loc["docs-9k", "held_out_loss"] == 2.5
    assert table.loc["docs-9k", "nats_per_byte"] == 1.25


def test_models_are_listed_by_size_with_the_units_of_their_losses(embedded, capsys):
    for name, parameters in (("docs-2k", 2000), ("docs-10k", 10_000)):
        write_card(Path(shutil.copytree(embedded, embedded.parent / name)), parameters)
    assert aep.models().index.tolist() == ["docs-2k", "docs-9k", "docs-10k"]
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "nats_per_byte" in printed.splitlines()[0]
    assert "nats per token of the model's own tokenizer" in printed and "nats per byte of text" in printed
    assert "nats per token" in aep.models.__doc__ and "per byte" in aep.models.__doc__


def test_an_embedded_name_goes_before_a_folder_of_that_name(embedded, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs-9k").mkdir()
    assert aep.load("docs-9k").name == "docs-9k"
    shutil.copytree(embedded, tmp_path / "docs-8k")
    assert aep.load("docs-8k").dtype_name == "float64"


def test_the_generation_config_of_a_checkpoint_changes_nothing(folder, tiny):  # noqa: F811
    plain = aep.load(folder)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 2, "eos_token_id": [1, 2, 3, 4, 5, 6], "min_p": 0.5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    set_up = aep.load(folder)
    assert set_up.model.generation_config.top_k == 2
    a, b = (aep.sample(x, ["ab"], texts=20, tokens=20, seed=1) for x in (plain, set_up))
    assert all(np.array_equal(x, y) for x, y in zip(a.ids, b.ids, strict=True))
    np.testing.assert_array_equal(aep.score(a, plain)["surprisal"], aep.score(a, set_up)["surprisal"])
    assert (aep.score(a, plain)["rank"] >= 2).mean() > 0.1
    assert set_up.eos == plain.eos == 2
    # negative control: `generate` does obey that file
    ids = set_up.model.generate(torch.tensor([[1, 3]]), max_new_tokens=20, pad_token_id=0)[0, 2:].tolist()
    ranks = aep.score([[3, *ids]], set_up, bos=True)["rank"][1:]
    assert ranks.max() < 2


# ------------------------------------------------------------------------------------------------------ what is refused


def drop_a_tensor(p):
    weights = load_file(p / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.bias"]
    save_file(weights, p / "model.safetensors", metadata={"format": "pt"})


def configured(**entries):
    def change(p):
        config = json.loads((p / "config.json").read_text())
        (p / "config.json").write_text(json.dumps(config | entries))

    return change


def truncate(p):
    (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-100])


FAULTS = {
    "no weights": (lambda p: (p / "model.safetensors").unlink(), r"some-model has no weights: a \*\.safetensors file"),
    "pickled weights": (
        lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
        "no weights.*pickled weights are not read",
    ),
    "no config": (lambda p: (p / "config.json").unlink(), "some-model has no config.json"),
    "no tokenizer": (
        lambda p: [f.unlink() for f in p.glob("tokenizer*")],
        r"some-model has no tokenizer \(tokenizer.json or",
    ),
    "truncated weights": (truncate, "'some-model' cannot be loaded: .*not fully covered"),
    "empty weights": (lambda p: (p / "model.safetensors").write_bytes(b""), "'some-model' cannot be loaded"),
    "a missing tensor": (drop_a_tensor, "lack 1 tensors of the network, such as transformer.h.0.mlp.c_fc.bias"),
    "more layers than weights": (configured(n_layer=3), "'some-model': its weights lack 12 tensors"),
    "another vocabulary": (
        configured(vocab_size=30),
        r"wte.weight is \[23, 16\] in its file and \[30, 16\] by its conf",
    ),
    "damaged config": (lambda p: (p / "config.json").write_text('{"mod'), "'some-model' cannot be loaded.*config"),
    "unknown architecture": (configured(model_type="foo"), "model type `foo`"),
    "no language model": (configured(model_type="vit"), "Unrecognized configuration class"),
    "own code": (configured(model_type="foo", auto_map={"AutoConfig": "x.Y"}), "custom code"),
    "cut tokenizer": (lambda p: (p / "tokenizer.json").write_text('{"ver'), "'some-model' has a damaged tokenizer"),
    "damaged tokenizer": (
        lambda p: (p / "tokenizer.json").write_text(
            (p / "tokenizer.json").read_text().replace('"WordLevel"', '"WordLvl"')
        ),
        "'some-model' has a damaged tokenizer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_incomplete_or_damaged_folder_is_refused_in_one_line(folder, fault, capfd):
    FAULTS[fault][0](folder)
    refused(folder, FAULTS[fault][1])
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_that_the_network_does_not_use_are_told(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"foo.bar": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="1 tensors of its file are not used, such as foo.bar"):
        aep.load(folder)


def test_a_misspelt_embedded_name_gets_the_nearest_one(embedded, offline):
    message = refused("docs-9", "'docs-9' is neither embedded nor a folder, and the hub cannot be reached")
    assert "did you mean the embedded docs-9k?" in message
    assert "embedded models are docs-9k" in refused("zzz", "offline")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub.OfflineModeIsEnabled("x"), r"'some/model' is neither embedded nor a folder.*\(offline\)"),
        (OSError("no route"), r"the hub cannot be reached \(offline\)"),
        (loading.http.ConnectTimeout("slow"), r"the hub cannot be reached \(offline\)"),
        (hub.HFValidationError("bad id"), "was not found on the hub, and no folder has that name"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else "",
)
def test_what_the_hub_says_becomes_one_line(error, message, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    refused("some/model", message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub.GatedRepoError, "'some/model' is gated: accept its terms on the hub and set HF_TOKEN"),
        (hub.RepositoryNotFoundError, "'some/model' at revision 'v9' was not found on the hub"),
        (hub.RevisionNotFoundError, "at revision 'v9' was not found"),
    ],
)
def test_gated_and_missing_hub_models_are_told_apart(kind, message, monkeypatch):
    def fail(*_, **__):
        response = loading.http.Response(403, request=loading.http.Request("GET", "https://hub.invalid"))
        raise kind("no", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    refused("some/model", message, revision="v9")


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "~/no-such-folder-of-models"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked the hub"))
    refused(name, "is not a folder; embedded models are")


def test_a_file_is_not_a_folder(folder):
    refused(folder / "config.json", "is not a folder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float23"}, "unknown dtype 'float23': did you mean .*'float32'.*bfloat16"),
        ({"device": "gpu"}, "unknown device 'gpu'.*valid names are .*cpu"),
        ({"device": "cuda:99"}, "unknown device 'cuda:99'"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused_before_anything_is_read(options, message, monkeypatch):
    monkeypatch.setattr(loading, "embedded", lambda: pytest.fail("looked for models"))
    refused("anything", message, error=DeviceError, **options)


def test_double_precision_on_mps_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    refused("docs-100k", "float64, which mps does not have: add dtype float32", error=DeviceError, device="mps")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_embedded_file_that_does_not_match_its_card_is_refused(embedded, file):
    (embedded / file).write_bytes((embedded / file).read_bytes() + b" ")
    refused("docs-9k", f"embedded model 'docs-9k': {file} does not match the sha256 of its card; restore it from git")


DAMAGED_CARDS = {
    "cut": (b'{"sha', "is not JSON"),
    "empty": (b"", "is not JSON"),
    "not text": (b"\xff\xfe\x00", "is not JSON"),
    "a list": (b"[1, 2]", "has no entry 'sha256'"),
    "null": (b"null", "has no entry 'sha256'"),
    "no checksums": (b'{"sha256": ["config.json"]}', "has no entry 'sha256'"),
}


@pytest.mark.parametrize("damage", DAMAGED_CARDS)
def test_a_damaged_card_is_refused_in_one_line_by_all_that_read_it(embedded, damage, capsys):
    content, why = DAMAGED_CARDS[damage]
    (embedded / "card.json").write_bytes(content)
    line = f"embedded model 'docs-9k': card.json is damaged; restore it from git (it {why})"
    assert refused("docs-9k", "docs-9k") == line
    for ask in (aep.models, lambda: loading.card("docs-9k")):
        with pytest.raises(ModelError) as caught:
            ask()
        assert str(caught.value) == line
    assert main(["models"]) == 2
    assert capsys.readouterr().err == f"aep: {line}\n"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"held_out": {}}, "lacks 'nats_per_byte'"),
        ({"held_out": None}, "has no held-out loss"),
        ({"held_out": {"nats_per_byte": 1.25}}, "has no held-out loss"),
    ],
)
def test_a_card_without_the_facts_of_the_table_is_refused_by_name(embedded, entries, why):
    write_card(embedded, **entries)
    with pytest.raises(ModelError, match=f"'docs-9k': card.json is damaged; restore it from git .it {why}"):
        aep.models()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_card_without_the_checksum_of_a_file_that_is_read_is_refused(embedded, file):
    sums = json.loads((embedded / "card.json").read_text())["sha256"]
    del sums[file]
    write_card(embedded, sha256=sums)
    refused("docs-9k", f"'docs-9k': card.json is damaged; restore it from git .it has no sha256 of {file}")


def test_a_file_that_was_added_to_an_embedded_model_is_refused(embedded):
    (embedded / "model.safetensors.index.json").write_text("{}")
    refused("docs-9k", "it has no sha256 of model.safetensors.index.json")


def test_the_models_of_the_repository_match_their_cards(repository):
    """Every embedded model loads, has a loss in its card, and is what its card hashes."""
    table = aep.models()
    for name in table.index:
        language = aep.load(name)
        assert language.dtype_name == "float64"
        assert language.vocab_size == table.loc[name, "vocab_size"]
        assert table.loc[name, "held_out_low"] < table.loc[name, "held_out_loss"] < table.loc[name, "held_out_high"]


# ------------------------------------------------------------------------------------------------------ an outside model


def test_stories260k_decodes_its_known_beginning_greedily(stories260k):
    language = aep.load(stories260k)
    text = aep.sample(language, tokens=60, seed=0, adaptor=aep.top_k(1)).decode(0)
    assert text.strip().startswith("Once upon a time, there was a little girl named Lily.")


def test_stories260k_is_calibrated_on_ten_thousand_tokens_of_its_own(stories260k, capsys):
    language = aep.load(stories260k)
    texts = aep.sample(language, texts=25, tokens=400, seed=260)
    records = aep.score(texts, language)
    sigma = np.sqrt(records["varentropy"].sum())
    z = (records["surprisal"] - records["entropy"]).sum() / sigma
    with capsys.disabled():
        print(
            f"\nstories260K: {len(records)} tokens, z = {z:.2f}, one σ is {sigma / records['entropy'].sum():.2%} of l/h"
        )
    assert len(records) == 10_000
    assert abs(z) <= 3
    wrong = aep.score(aep.sample(language, texts=25, tokens=400, seed=260, adaptor=aep.temperature(0.8)), language)
    drift = (wrong["surprisal"] - wrong["entropy"]).sum() / np.sqrt(wrong["varentropy"].sum())
    assert drift < -10
