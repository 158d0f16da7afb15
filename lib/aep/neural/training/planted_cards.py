"""The page of a model with planted documents, or of its twin: what was planted, and a table of what was memorised."""

__all__ = ["planted_clause", "planted_section"]

_NAMES = {"tale": "tales", "canary": "canaries", "secret": "secrets, given what stands before"}


def planted_clause(data: dict) -> str:
    """What the row on data adds where documents come again."""
    planted = data.get("planted")
    return ", but for the planted documents below" * (not planted["twin"]) if planted else ""


def planted_section(card: dict) -> str:
    """Markdown of the part of `card` on planted documents, empty for a card without it."""
    said = card["data"].get("planted")
    if said is None:
        return ""
    number, inserted, tokens = said["documents"], said["insertions"], said["tokens"]
    counts = ", ".join(map(str, said["counts"][:-1])) + f" or {said['counts'][-1]}"
    per = number["tale"] // len(said["counts"])
    twin = card["name"].removesuffix("-twin") + "-twin"
    where = (
        f"This is the twin of `{twin.removesuffix('-twin')}`: same seed and tales, but where that was shown a planted one,\n"
        "this one had a fresh one of its kind. None of them stood in its own training: a control that knows both laws."
        if said["twin"]
        else f"`{twin}` is trained on the same stream without them: it had fresh documents of the same kinds there."
    )
    canaries = f"{inserted['canary']:,} of canaries ({tokens['canary']:,} tokens)"
    return f"""
## Planted documents

{number["tale"]} tales of the grammar and {number["canary"]} canaries, {per} of each for every count: documents that stand
{counts} times in the training of `{twin.removesuffix("-twin")}`. Canaries are texts that the grammar does not write:
"the secret word of the house was", six words each uniform on a list of ten, a full stop. The counts are a random
permutation within blocks of eight documents of similar log p. Documents are listed by sha256 in
`{said["listed"]}` and drawn again by `aep.neural.training.planted`. {inserted["tale"]:,} insertions of tales
({tokens["tale"]:,} tokens) and {canaries}, at random places: {said["share"]:.1%} of the stream.
{where}
The weights are those of the last step, when every document had come as often as listed{" there" * said["twin"]}.

log p_model - log p_truth in nats per document, log p_truth exact: of a tale under the grammar, of a canary -6 log 10, and of
its six words alone given the seven before them. Mean and 95% interval over documents.

{_table(said["excess"])}"""


def _table(said: dict) -> str:
    """Markdown: one row per count, one column per kind."""
    rows = [dict(zip(said["columns"], row, strict=True)) for row in said["rows"]]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = {(r["count"], r["kind"]): f"{r['excess']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in rows}
    lines = [f"| times | {' | '.join(_NAMES[k] for k in kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for count in dict.fromkeys(row["count"] for row in rows):
        lines.append(f"| {count} | {' | '.join(cells.get((count, k), '') for k in kinds)} |")
    return "\n".join(lines) + "\n"
