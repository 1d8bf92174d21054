"""What half precision gives a training on this processor: a step of the bundled models' networks in fp32 and in bf16.

    python benchmarks/train_precision.py [RECIPE]... [--rounds 5] [--save]

A batch of AN4's training recordings (DS2_DATA), as many as the recipe has in one, without variation; forward, backward
and the optimizer's step, in one thread, both precisions in turn. With ONEDNN_MAX_CPU_ISA=AVX512_CORE in the environment
it shows a processor that has no instructions for bfloat16. --save writes benchmarks/results/train_precision-CPU.json,
named for the processor.
"""

import os
import re
import statistics
from functools import partial
from typing import Annotated, Any

import msgspec
import torch
import typer
from machine import data, interleaved, machine, save_result

from ds2_deploy.audio.features import FeatureStatistics
from ds2_deploy.metadata import ModelMetadata
from ds2_deploy.model.deepspeech2 import DeepSpeech2
from ds2_deploy.model.initialize import initialize
from ds2_deploy.model.norm import freeze_norm
from ds2_deploy.text.alphabet import ENGLISH
from training.corpus import Corpus, survey
from training.data import Speech, checked
from training.distributed import Processes
from training.learner import Learner
from training.recipe import AugmentConfig, Recipe, load_recipe

PRECISIONS = ("fp32", "bf16")


def main(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE")] = None,
    rounds: int = 5,
    save: Annotated[bool, typer.Option("--save")] = False,
) -> None:
    """Time a step of each network."""
    torch.set_num_threads(1)
    corpus = survey([data() / "an4" / "train.jsonl"], "en", ENGLISH).corpus
    rows = []
    for name in recipes or ["default", "streaming"]:
        rows.append({"recipe": name, **timed(load_recipe(name, []), corpus, rounds)})
        print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if save:
        processor = "-".join(re.findall(r"[a-z0-9]+", machine()["cpu"].lower()))
        name = "-".join(filter(None, ("train_precision", processor, os.environ.get("ONEDNN_MAX_CPU_ISA"))))
        save_result(name, {"machine": machine(), "torch": str(torch.__version__), "rows": rows})


def timed(recipe: Recipe, corpus: Corpus, rounds: int) -> dict[str, Any]:
    """Median seconds of a step in each precision, and the median ratio of neighbours."""
    metadata = metadata_of(recipe)
    speech = Speech(corpus, metadata, None, recipe.seed)
    (batch,) = checked([speech[[(1, i) for i in range(recipe.batch_size)]]])
    steps = {precision: partial(learner(recipe, metadata, precision).learn, [batch], recipe.batch_size)
             for precision in PRECISIONS}  # fmt: skip
    seconds = interleaved(steps, rounds)
    ratios = [full / half for full, half in zip(*(seconds[precision] for precision in PRECISIONS), strict=True)]
    return {
        "utterances": recipe.batch_size,
        **{f"{precision}_s": round(statistics.median(seconds[precision]), 3) for precision in PRECISIONS},
        "times_as_fast": round(statistics.median(ratios), 2),
    }


def metadata_of(recipe: Recipe) -> ModelMetadata:
    """Of a network that has yet to learn; any statistics will do where it needs some."""
    bins, statistics_ = recipe.feature.bins, None
    if recipe.feature.needs_statistics:
        statistics_ = FeatureStatistics(mean=(-6.0,) * bins, deviation=(3.0,) * bins)
    return ModelMetadata(feature=recipe.feature, statistics=statistics_, model=recipe.model)


def learner(recipe: Recipe, metadata: ModelMetadata, precision: str) -> Learner:
    torch.manual_seed(recipe.seed)
    model = DeepSpeech2(metadata).train()
    initialize(model, recipe.initialization)
    freeze_norm(model)
    changed = msgspec.structs.replace(recipe, precision=precision, augment=AugmentConfig())
    return Learner(model, changed, 1000, Processes(), teacher=None)


if __name__ == "__main__":
    typer.run(main)
