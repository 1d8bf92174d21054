"""ds2 lm-build: an n-gram language model out of text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import path_argument, path_option

if TYPE_CHECKING:
    from ds2_deploy.text.alphabet import Alphabet


def lm_build(
    source: Annotated[
        Path, path_argument(metavar="TEXT|MANIFEST", help="A text file, a sentence a line, or a manifest (.jsonl).")
    ],
    out: Annotated[Path, path_option(help="Folder of the language model, such as MODEL/lm.")],
    model: Annotated[
        str, typer.Option(help="The model it is for: its language and its letters. A bundled one or a model folder.")
    ] = "default",
    order: Annotated[int, typer.Option(help="Words that a word's probability depends on, itself included.")] = 3,
    prune: Annotated[
        list[int] | None,
        typer.Option(help="Leave out n-grams that occur so often or less; given again for each length from one on."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the language model that is there, tuned weights and all.")
    ] = False,
) -> None:
    """Make an n-gram language model (modified Kneser-Ney) for the beam search.

    A sentence that the model's letters cannot spell is left out. The model takes the folder MODEL/lm by itself when it
    is asked for --decoder beam.
    """
    from ds2_deploy.commands.common import usage_errors
    from ds2_deploy.decoding.language_model import FILES, PICTURE, SETTINGS_FILE, WORDS_FILE
    from ds2_deploy.errors import ManifestError, OutputError
    from ds2_deploy.files import atomic_path
    from ds2_deploy.model_folder import open_model
    from training.ngram import estimate

    if order < 2:
        raise typer.BadParameter(f"--order is {order}: KenLM, which reads the model, takes 2 or more.")
    old = [out / name for name in (*FILES, WORDS_FILE, SETTINGS_FILE, PICTURE) if (out / name).exists()]
    if old and not overwrite:
        raise OutputError(f"{old[0]} exists: choose another folder or add --overwrite.")
    metadata = open_model(model).metadata
    sentences, strange = _sentences(source, metadata.language, metadata.alphabet)
    if not sentences:
        raise ManifestError(f"{source} holds no sentence that the letters of {model} can spell: --model names another.")
    with usage_errors():
        found = estimate(sentences, order, prune or ())
    path = out / FILES[-1]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        found.write(stream)
    for belongs_to_another in old:
        if belongs_to_another != path:
            belongs_to_another.unlink()
    grams = ", ".join(f"{len(level)} of length {n}" for n, level in enumerate(found.probabilities, 1))
    words = sum(map(len, sentences))
    left_out = f"; {strange} sentences that its letters cannot spell were left out" if strange else ""
    typer.echo(f"{path}: n-grams of {len(sentences)} sentences, {words} words: {grams}{left_out}.", err=True)


def _sentences(source: Path, language: str, alphabet: "Alphabet") -> tuple[list[list[str]], int]:
    """In the language's units; how many were left out for their letters."""
    from ds2_deploy.errors import ManifestError
    from ds2_deploy.text.languages import spell

    texts = _texts(source)
    if not any(map(str.strip, texts)):
        raise ManifestError(f"{source} holds no text.")
    spelled = [spell(text, language, alphabet) for text in texts]
    good = [alphabet.words(text) for text, missing in spelled if text and not missing]
    return good, sum(bool(missing) for _, missing in spelled)


def _texts(source: Path) -> list[str]:
    from ds2_deploy.errors import ManifestError
    from ds2_deploy.files import read_text
    from ds2_deploy.manifest import read_texts

    if source.suffix == ".jsonl":
        return read_texts(source)
    return read_text(source, ManifestError).splitlines()
