"""Synthetic speech and noise: texts that can be spelled, sounds that are what their names say."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
import torch

from ds2_deploy.audio.load import load_audio
from ds2_deploy.errors import ConfigError, OutputError
from ds2_deploy.manifest import read_manifest
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from ds2_deploy.model_folder import open_model
from ds2_deploy.text.alphabet import ENGLISH
from ds2_deploy.text.phonemes import phonemes
from tests.tiny import MODELS as NETWORKS
from tests.tiny import tiny_metadata, tiny_model
from training import models
from training.recipe import load_recipe
from training.synthetic import voices
from training.synthetic.noise import LEVEL, NOISES, RATE, coloured, write_noises
from training.synthetic.speech import an4_texts, prepared, write_speech
from training.synthetic.texts import SPOKEN, Texts, in_words, ordinal, spoken


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (4883, "four thousand eight hundred eighty three"),
        (6029, "six thousand twenty nine"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


@pytest.mark.parametrize(
    ("number", "words"), [(1, "first"), (12, "twelfth"), (20, "twentieth"), (31, "thirty first"), (40, "fortieth")]
)
def test_ordinals(number: int, words: str) -> None:
    assert ordinal(number) == words


def test_texts_can_be_labelled_and_follow_from_their_seed() -> None:
    texts = [Texts(3).draw() for _ in range(1)] + an4_texts(500, 3)
    assert all(text == " ".join(text.split()) and ENGLISH.encode(text) for text in texts)
    assert an4_texts(500, 3) == texts[1:] != an4_texts(500, 4)
    assert len({word for text in texts for word in text.split()}) > 90  # letters, numbers, months, commands


def test_letters_are_said_by_name() -> None:
    assert spoken("enter a w z five") == "enter ay double you zee five"


def said_by_espeak(text: str) -> str:
    return subprocess.run(["espeak-ng", "-q", "-x", "-v", "en-us", text], capture_output=True, text=True).stdout.strip()


def test_espeak_says_letters_as_it_reads_them_alone() -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    for letter, name in SPOKEN.items():
        if letter != "w":  # two words to it there, one here
            assert said_by_espeak(voices.ESPEAK_SAYS.get(name, name)) == said_by_espeak(letter.upper()), letter
    assert said_by_espeak(voices.ESPEAK_SAYS["rubout"]) == "r'Vb 'aUt"


@pytest.mark.parametrize("engine", ["flite", "festival"])
def test_letters_have_the_phonemes_of_their_names(engine: str) -> None:
    """CMUdict's, after a "bee"."""
    if not shutil.which(engine):
        pytest.skip(f"{engine} is not installed")
    for letter, name in SPOKEN.items():
        if letter == "w":
            continue
        expected = "ey" if letter == "a" else phonemes(letter).lower()
        said = "bee " + (voices.FESTIVAL_SAYS.get(name, name) if engine == "festival" else name)
        if engine == "flite":
            command = ["flite", "-voice", "rms", "-ps", "-t", said, "-o", "/dev/null"]
        else:
            names = '(mapcar (lambda (s) (format t "%s " (item.name s))) (utt.relation.items u \'Segment))'
            utterance = f'(set! u (utt.synth (Utterance Text "{said}")))'
            command = ["festival", "-b", f"(begin (voice_kal_diphone) {utterance} {names})"]
        heard = subprocess.run(command, capture_output=True, text=True).stdout.split()
        assert " ".join(heard) == f"pau b iy {expected} pau", letter


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_power_falls_with_frequency_as_the_colour_says(exponent: float) -> None:
    noise = coloured(np.random.default_rng(1), 20 * RATE, exponent)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [(100 * 2**n, 200 * 2**n) for n in range(6)]
    level = [np.log2(power[(frequency >= low) & (frequency < high)].mean()) for low, high in octaves]
    assert np.polyfit(range(6), level, 1)[0] == pytest.approx(-exponent, abs=0.05)


def test_noises_are_as_loud_as_each_other_and_repeat(tmp_path: Path) -> None:
    speaker = tmp_path / "speaker.wav"
    soundfile.write(speaker, np.sin(np.arange(RATE)) * 0.1, RATE)
    for folder in ("one", "other"):
        write_noises(tmp_path / folder, 1, 5, [speaker])
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == len(NOISES) + 1
    for path in files:
        noise = load_audio(path, RATE)
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(LEVEL, rel=0.15)  # knocks are clipped at full scale
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_noises_are_all_there_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(NOISES, "hum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_noises(tmp_path / "noise", 1, 5)
    assert list(tmp_path.iterdir()) == []


def test_noise_is_replaced_by_noise_and_nothing_else_is(tmp_path: Path) -> None:
    for _ in range(2):
        write_noises(tmp_path / "noise", 1, 5)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/metadata.json").write_text("{}")
    with pytest.raises(OutputError, match=r"holds no white-00\.flac"):
        write_noises(tmp_path / "model", 1, 5)


def test_speech_loses_the_synthesizers_silence() -> None:
    speech = np.zeros(3 * RATE, np.float32)
    speech[RATE : 2 * RATE] = np.sin(np.arange(RATE) / 5) * 0.2
    result = prepared(speech, np.random.default_rng(1))
    assert 1.1 * RATE <= len(result) <= 1.8 * RATE  # a second with 0.05 to 0.4 s around it
    assert np.abs(result).max() == pytest.approx(0.5, abs=0.02)


def test_a_missing_synthesizer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "flite" else f"/usr/bin/{name}")
    with pytest.raises(ConfigError, match=r"Synthetic voices need flite, .*apt install"):
        write_speech(tmp_path, ["yes"], 1, spelled=True)


@pytest.mark.skipif(not all(map(shutil.which, ("espeak-ng", "flite", "festival"))), reason=voices.INSTALL)
def test_a_corpus_of_synthetic_voices(tmp_path: Path) -> None:
    texts = an4_texts(12, 1)
    write_speech(tmp_path, texts, 1, spelled=True)
    utterances = read_manifest(tmp_path / "manifest.jsonl")
    assert [utterance.text for utterance in utterances] == texts
    for utterance in utterances:
        assert len(load_audio(utterance.path, RATE)) / RATE == pytest.approx(utterance.duration_s, abs=0.01)


def test_a_model_is_trained_in_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each after those it goes on from, once; what was begun goes on."""
    calls: list[list[str]] = []
    stage_weights = tiny_model(tiny_metadata(NETWORKS["gru, two directions, 2d"]))

    def run(command: list[str], processes: int) -> None:
        assert processes == 2
        out = Path(command[command.index("--out") + 1])
        Checkpoint(metadata=stage_weights.metadata, weights=stage_weights.state_dict()).save(out / "last.pt")
        calls.append(command)

    def splice(out: Path, manifests: list[Path], aligner: Path, *_: int) -> None:
        assert aligner == tmp_path / "default/letters/last.pt"
        assert aligner.exists()
        (out / "manifest.jsonl").parent.mkdir()
        (out / "manifest.jsonl").touch()

    monkeypatch.setattr(models, "run_ds2", run)
    monkeypatch.setattr(models, "bf16_is_fast", lambda _: True)
    monkeypatch.setattr(models, "write_spliced", splice)
    models.train.cache_clear()
    for stage in (*models.MODELS["default"], *models.MODELS["streaming"]):
        models.train(stage, Path("D"), tmp_path, 2, ("--set", "workers=1"))
    assert [Path(call[call.index("--out") + 1]).relative_to(tmp_path).as_posix() for call in calls] == [
        "sentences/read", "default/letters", "default/all", "default/people", "default/noisy",
        "default/more", "streaming/taught", "streaming/alone", "streaming/longer", "streaming/more",
        "streaming/people", "streaming/digits", "streaming/quiet",
    ]  # fmt: skip
    read, letters, everything, _, _, more, taught, *_ = calls
    assert more[more.index("--init-from") + 1] == str(tmp_path / "default/more-begins.pt")
    assert read[:4] == ["train", "sentences", "--train", "D/librispeech-mini/train.jsonl"]
    assert "--init-from" not in read
    assert letters[letters.index("--init-from") + 1] == str(tmp_path / "default/letters-begins.pt")
    assert everything.count("D/an4/train.jsonl") == 2
    assert str(tmp_path / "spliced/manifest.jsonl") in everything
    assert everything[-2:] == ["--set", "workers=1"]
    assert all(call.index("precision=bf16") < call.index("workers=1") for call in calls)
    seeds = [next(word for word in call if word.startswith("seed=")) for call in calls]
    assert len(set(seeds)) == len(calls)
    begins = load_checkpoint(Path(taught[taught.index("--init-from") + 1])).metadata
    assert begins.name == "streaming"
    teacher = load_checkpoint(tmp_path / "streaming/taught-teacher.pt").metadata
    assert begins.provenance.recipe == teacher.provenance.recipe
    assert begins.provenance.recipe.startswith("mean of 0.5 default/more, 0.25 default/noisy")
    assert f"teacher.model={tmp_path / 'streaming/taught-teacher.pt'}" in taught
    resumed = models.train_command(models.stage_named("default/all"), Path("D"), tmp_path)
    assert "--resume" in resumed
    assert "--init-from" not in resumed


def test_a_model_lies_between_what_its_stages_left(tmp_path: Path) -> None:
    network = tiny_model(tiny_metadata(NETWORKS["gru, two directions, 2d"]))
    first = network.state_dict()
    for number, name in enumerate("abc"):
        weights = {key: value + number for key, value in first.items()}
        feature = msgspec.structs.replace(network.metadata.feature, running_s=5.0 + number)
        metadata = msgspec.structs.replace(network.metadata, feature=feature)
        Checkpoint(metadata=metadata, weights=weights).save(models.left_by(name, tmp_path))
    models.blend("default", {"a": 0.25, "b": 0.25, "c": 0.5}, tmp_path / "model.pt", tmp_path)
    blended = load_checkpoint(tmp_path / "model.pt")
    assert blended.metadata.name == "default"
    assert blended.metadata.feature.running_s == 5.0  # the first stage's
    assert blended.metadata.provenance.recipe == "mean of 0.25 a, 0.25 b, 0.5 c"
    assert (blended.metadata.provenance.epochs, blended.metadata.provenance.audio_hours) == (0, 0)
    for name, value in first.items():
        assert torch.allclose(blended.weights[name], value + 1.25, atol=1e-6)


def test_what_is_exported_is_what_is_bundled() -> None:
    _, weights, *options = models.export_command("streaming", Path("w"))
    assert weights == "w/streaming/model.pt"
    assert options == ["--out", "w/streaming/model", "--window", "1", "--window-context", "7"]
    assert open_model(Path("streaming")).metadata.model.windows == (1, 7)
    assert models.export_command("default", Path("w"))[2:] == ["--out", "w/default/model"]


def test_stages_begin_with_what_earlier_ones_left() -> None:
    known: set[str] = set()
    for stage in models.STAGES:
        if stage.begins:
            assert set(stage.begins) <= known
            assert sum(stage.begins.values()) == pytest.approx(1)
        assert set(stage.teacher or ()) <= known
        teacher = ["teacher.model=default"] if stage.teacher else []
        known.add(stage.name)
        settings = [setting.format(work="runs") for setting in stage.settings]
        load_recipe(stage.recipe, settings + teacher)
    assert len(known) == len(models.STAGES)
    for shares in models.MODELS.values():
        assert set(shares) <= known
        assert sum(shares.values()) == pytest.approx(1)
