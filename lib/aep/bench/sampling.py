"""The row about sampling: texts with their record against `generate` of transformers and the same columns afterwards."""

from functools import cache, partial

import torch
from transformers import GenerationConfig, MistralForCausalLM

from ..neural.language import NeuralLanguage
from ..neural.training import configs
from ..records import Texts
from ..sampling import sample
from ..scoring import score
from .peers import agree, fastest, on_threads
from .registry import row
from .scoring import NoTokenizer, interleaved, plain_columns

__all__ = ["generate", "language"]

TEXTS, TOKENS, RUNS = 64, 512, 3
MODEL = "docs-3m"
OPTIONS = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "use_cache": True,
    "output_logits": True,
    "return_dict_in_generate": True,
}


@cache
def language() -> NeuralLanguage:
    """A network of the shape of `MODEL` with random weights, float32."""
    torch.manual_seed(0)
    model = MistralForCausalLM(configs.get(MODEL).config()).eval()
    # `generate` takes what its call leaves open from here: no end token, so that every text has its full length.
    model.generation_config = GenerationConfig(eos_token_id=None, bos_token_id=0, pad_token_id=0)
    return NeuralLanguage(model, NoTokenizer(), name=f"{MODEL}-like", fingerprint="random weights, seed 0")


@torch.inference_mode()
def generate(texts: int, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Token ids (texts, tokens) by `generate` after the start token, and the columns from its logits."""
    start = torch.full((texts, 1), language().bos)
    out = language().model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=tokens, min_new_tokens=None, **OPTIONS
    )
    ids = out.sequences[:, 1:]
    return ids, plain_columns(torch.stack(out.logits, dim=1), ids)


def _same_columns() -> None:
    """AepError unless the columns of `generate` are those that `score` gives its texts."""
    ids, columns = generate(4, 200)  # past the window
    records = score(Texts.from_ids(language(), ids.numpy()), language())
    for name, column in columns.items():
        if name not in ("greedy", "rank", "mass_above"):  # these jump where two tokens are nearly tied
            agree(records[name].reshape(ids.shape), column.numpy(), f"{name} after generate")


@row(
    "sample_vs_generate",
    "times faster",
    f"sample(record=True) against generate(output_logits=True) and the columns from log_softmax of its logits; {MODEL} with "
    f"random weights, float32, {TEXTS} x {TOKENS}; theirs on one or all threads, whichever is faster",
)
def sample_vs_generate() -> list[float]:
    """Time of `generate` and the columns over the time of `sample` with its record."""
    _same_columns()
    threads = sorted({1, torch.get_num_threads()})
    best = threads[fastest([partial(on_threads, n, partial(generate, TEXTS, 32)) for n in threads])]
    theirs = partial(on_threads, best, partial(generate, TEXTS, TOKENS))
    ours = partial(sample, language(), texts=TEXTS, tokens=TOKENS, seed=0, record=True)
    return interleaved(theirs, ours, runs=RUNS)  # the time of its first over that of its second
