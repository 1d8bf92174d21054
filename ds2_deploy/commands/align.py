"""ds2 align: a long recording and its text to a manifest of short utterances."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from ds2_deploy.commands.common import BackendName, Device, path_argument, path_option

if TYPE_CHECKING:
    from ds2_deploy.audio.load import Samples
    from training.align import AlignedPassage

SHOWN = 200
"""Characters of a sentence that is left out: without punctuation it may be the whole text."""


def align(
    audio: Annotated[Path, path_argument(metavar="AUDIO", help="The recording, of any length.")],
    text: Annotated[Path, path_argument(metavar="TEXT", help="What is said in it, in order: a text file.")],
    out: Annotated[Path, path_option(metavar="M.jsonl", help="The manifest; its recordings lie in a folder M.")],
    model: Annotated[str, typer.Option(help="A bundled model or a model folder that knows such speech.")] = "default",
    min_score: Annotated[
        float | None, typer.Option(help="Drop passages that fit worse: 0 is perfect, without it -1.5.")
    ] = None,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Cut longer passages at their widest gaps between words.")
    ] = 20.0,
    backend: BackendName = "auto",
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing manifest, and recordings of these names.")
    ] = False,
) -> None:
    """Cut a recording at the sentences and lines of its text.

    A text needs neither: what is longer than --max-seconds is cut between words. Passages that were not said, or not
    like that, are dropped and listed on stderr. Each kept one is a FLAC file and a line of the manifest, with its
    score.
    """
    from ds2_deploy.audio.load import load_audio
    from ds2_deploy.commands.common import print_failure
    from ds2_deploy.errors import AlignmentError, OutputError
    from ds2_deploy.files import check_output_file, check_output_folder, read_text
    from ds2_deploy.model_folder import open_model
    from ds2_deploy.runtime import open_backend
    from ds2_deploy.runtime.devices import cpu_cores
    from ds2_deploy.text.punctuation import sentences
    from training.align import MIN_SCORE, hear
    from training.align import align as place
    from training.sentences import spelled

    least = MIN_SCORE if min_score is None else min_score
    if not least <= 0:  # so is NaN
        raise typer.BadParameter(f"--min-score is {least:g}: no passage has a score above 0, which is perfect.")
    if out.suffix != ".jsonl":
        raise typer.BadParameter(f"--out is {out}: a manifest's name ends in .jsonl.")
    check_output_file(out)
    check_output_folder(cuts := out.with_suffix(""))
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: choose another name or add --overwrite.")
    if cuts.exists() and any(cuts.iterdir()) and not overwrite:
        raise OutputError(f"{cuts}, for the recordings, is not empty: choose another name or add --overwrite.")
    folder = open_model(model)
    metadata = folder.metadata
    passages, strange = spelled(sentences(read_text(text, AlignmentError)), metadata.language, metadata.alphabet)
    for sentence, missing in strange:
        shown = shorten(sentence, SHOWN, placeholder=" ...")
        print_failure(f"left out, for the model cannot spell {', '.join(map(repr, missing))}: {shown!r}")
    if not passages and not strange:
        raise AlignmentError(f"{text} holds no words.")
    if not passages:
        raise AlignmentError(f"{text} holds no passage that the model can spell.")
    loaded = open_backend(backend, folder, device=device, precision="fp32", threads=cpu_cores())
    rate = metadata.feature.sample_rate
    samples = load_audio(audio, rate)
    try:
        sound = hear(loaded, metadata, [samples])
        placed = place(sound, passages, metadata.alphabet, max_seconds)
    except AlignmentError as error:
        raise AlignmentError(f"{audio} cannot be aligned with {text}: {error}") from error
    kept = [passage for passage in placed if passage.score >= least]
    for passage in placed:
        if passage.score < least:
            where = f"{passage.start_s:.2f} to {passage.end_s:.2f} s"
            print_failure(f"dropped, {where}, score {passage.score:.2f}: {passage.text}")
    if not kept:
        raise AlignmentError(f"No passage of {text} fits {audio} with a score of {least:g} or more.")
    _write(audio, samples, rate, kept, out)
    seconds = sum(passage.end_s - passage.start_s for passage in kept)
    typer.echo(f"{out}: {len(kept)} of {len(placed)} passages, {seconds:.1f} of {sound.duration_s:.1f} s", err=True)


def _write(audio: Path, samples: "Samples", rate: int, passages: "list[AlignedPassage]", out: Path) -> None:
    """The recordings first, then the manifest: who sees the manifest finds them all."""
    from ds2_deploy.files import remove
    from training.corpora.build import write_manifest
    from training.corpora.check import ManifestLine
    from training.corpora.parts import write_flac

    folder = out.with_suffix("")
    remove(out)  # it would name other recordings, if these are not finished
    utterances = []
    for number, passage in enumerate(passages, 1):
        path = folder / f"{audio.stem}-{number:05}.flac"
        cut = samples[round(passage.start_s * rate) : round(passage.end_s * rate)]
        write_flac(path, cut, rate)
        duration_s, score = round(len(cut) / rate, 3), round(passage.score, 3)
        whole = str(audio.absolute())
        utterances.append(ManifestLine(str(path.absolute()), duration_s, passage.text, "", score, whole))
    write_manifest(out, utterances)
