"""ds2 lm-build: an n-gram language model out of text."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import path_argument, path_option

if TYPE_CHECKING:
    from training.sentences import Unspelled

SHOWN = 8
"""Of the characters that a model cannot spell."""


def lm_build(
    sources: Annotated[
        list[Path],
        path_argument(metavar="TEXT|MANIFEST", help="Text files, of lines and sentences, or manifests (.jsonl)."),
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
    """Make an n-gram language model for the beam search.

    By modified Kneser-Ney smoothing. Punctuation is dropped, as by ds2 align; a sentence that the model's letters
    cannot spell, for a digit say, is left out. The model takes the folder MODEL/lm by itself when it is asked for
    --decoder beam.
    """
    from ds2_deploy.commands.common import print_failure, usage_errors
    from ds2_deploy.decoding.language_model import FILES, PICTURE, SETTINGS_FILE, WORDS_FILE
    from ds2_deploy.errors import ManifestError, OutputError
    from ds2_deploy.files import atomic_path
    from ds2_deploy.model_folder import open_model
    from training.ngram import estimate
    from training.sentences import spelled

    if order < 2:
        raise typer.BadParameter(f"--order is {order}: KenLM, which reads the model, takes 2 or more.")
    old = [out / name for name in (*FILES, WORDS_FILE, SETTINGS_FILE, PICTURE) if (out / name).exists()]
    if old and not overwrite:
        raise OutputError(f"{old[0]} exists: choose another folder or add --overwrite.")
    metadata = open_model(model).metadata
    every = [sentence for source in sources for sentence in _sentences(source)]
    good, strange = spelled(every, metadata.language, metadata.alphabet)
    if strange:
        most = ", most of the text," if len(strange) > len(good) else ""
        print_failure(
            f"{len(strange)} of {len(strange) + len(good)} sentences{most} are left out: {model} cannot spell "
            f"{_counted(strange)} of them."
        )
    if not good:
        named = " and ".join(map(str, sources))
        raise ManifestError(
            f"There is no sentence in {named} that the letters of {model} can spell: --model names another."
        )
    sentences = [metadata.alphabet.words(text) for text in good]
    with usage_errors():
        found = estimate(sentences, order, prune or ())
    path = out / FILES[-1]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        found.write(stream)
    for belongs_to_another in old:
        if belongs_to_another != path:
            belongs_to_another.unlink()
    grams = ", ".join(f"{len(level)} of length {n}" for n, level in enumerate(found.probabilities, 1))
    typer.echo(f"{path}: n-grams of {len(sentences)} sentences, {sum(map(len, sentences))} words: {grams}.", err=True)


def _counted(strange: "Sequence[Unspelled]") -> str:
    """What the model cannot spell, the most frequent first."""
    from ds2_deploy.output.listing import first_of

    counts = Counter(token for sentence in strange for token in sentence.missing)
    return first_of([f"{token!r} in {count}" for token, count in counts.most_common()], SHOWN)


def _sentences(source: Path) -> list[str]:
    """Of a text; of a manifest what was said in each recording, for a search hears that as one."""
    from ds2_deploy.errors import ManifestError
    from ds2_deploy.files import read_text
    from ds2_deploy.manifest import read_texts
    from ds2_deploy.text.punctuation import sentences

    texts = read_texts(source) if source.suffix == ".jsonl" else sentences(read_text(source, ManifestError))
    if not any(map(str.strip, texts)):
        raise ManifestError(f"{source} holds no text.")
    return texts
