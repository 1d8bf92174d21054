"""What the training loop is wired to: epochs, modes, masks, gradients, checkpoints, each against its definition."""

import json
import math
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import training.statistics
import training.trainer
from ds2_deploy.audio.features import FeatureConfig
from ds2_deploy.audio.load import load_audio
from ds2_deploy.manifest import Utterance, read_manifest
from ds2_deploy.metrics import Errors
from ds2_deploy.model.checkpoint import load_checkpoint
from ds2_deploy.model.deepspeech2 import DeepSpeech2, Encoder
from tests.test_frontend import reference
from tests.tiny import MODELS, tiny_metadata, tiny_model
from tests.tones import recipe
from training.augment import Augmenter
from training.corpus import survey
from training.data import Speech, valid_loader
from training.distributed import Processes
from training.recipe import AugmentConfig, Recipe
from training.statistics import feature_statistics
from training.step import TrainingStep, ctc_losses, disagreement
from training.trainer import train
from training.validation import Validation, validate

VARIED = ["augment.speeds=[0.8, 1.25]", "augment.time_masks=2", "augment.frequency_masks=1"]


def speech(corpus, *, model="gru, two directions, 2d", feature=None, **augment):
    """A small network and the tones as it reads them."""
    metadata = tiny_metadata(MODELS[model], feature)
    augmenter = Augmenter(AugmentConfig(**augment), metadata.feature.sample_rate)
    return tiny_model(metadata), Speech(survey([corpus], "en", None).corpus, metadata, augmenter, seed=7)


def read(**settings):
    """A recipe that says how much is read at once."""
    return Recipe(name="tones", workers=0, **settings)


class Steps:
    """Parameters, gradients and learning rate of every optimizer step taken inside the `with` block."""

    def __enter__(self):
        self.before, self.after, self.gradients, self.rates = [], [], [], []
        self.hooks = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _before(self, optimizer, *_):
        self.before.append([p.detach().clone() for p in _parameters(optimizer)])
        self.gradients.append([p.grad.clone() for p in _parameters(optimizer)])
        self.rates.append(optimizer.param_groups[0]["lr"])

    def _after(self, optimizer, *_):
        self.after.append([p.detach().clone() for p in _parameters(optimizer)])


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.fixture
def batches_read(monkeypatch):
    """What every Speech is asked for and answers: [(keys, batch)], in order."""
    read, original = [], Speech.__getitem__

    def recorded(self, keys):
        batch = original(self, keys)
        read.append((list(keys), batch))
        return batch

    monkeypatch.setattr(Speech, "__getitem__", recorded)
    return read


def test_every_epoch_reads_its_own_order_and_validation_stays_at_epoch_zero(corpus, tmp_path, batches_read):
    train(recipe(tmp_path, epochs=3), [corpus], [corpus], tmp_path / "run")
    keys = [key for keys, _ in batches_read for key in keys]
    epochs = [epoch for epoch, _ in keys]
    assert epochs == [epoch for learned in (1, 2, 3) for epoch in [learned] * 18 + [0] * 18]
    orders = {e: [index for epoch, index in keys if epoch == e] for e in (1, 2, 3)}
    assert all(sorted(order) == list(range(18)) for order in orders.values())
    durations = [utterance.duration_s for utterance in read_manifest(corpus)]
    assert [durations[i] for i in orders[1]] == sorted(durations)
    assert len({tuple(order) for order in orders.values()}) == 3


def test_learning_is_augmented_and_validation_is_not(corpus, tmp_path, batches_read):
    train(recipe(tmp_path, *VARIED), [corpus], [corpus], tmp_path / "run")
    utterances = read_manifest(corpus)
    samples = [soundfile.info(u.path).frames for u in utterances]
    learned, validated = batches_read[:5], batches_read[5:]
    for _, batch in learned:
        assert batch.time_masks.shape[1:] == (2, 2)
        assert all(n != samples[i] for i, n in zip(batch.indices.tolist(), batch.lengths.tolist(), strict=True))
    for _, batch in validated:
        assert batch.lengths.tolist() == [samples[i] for i in batch.indices.tolist()]
        assert batch.time_masks.shape[1] == batch.frequency_masks.shape[1] == 0
    assert sorted(i for _, batch in validated for i in batch.indices.tolist()) == list(range(18))


def test_learning_runs_in_training_mode_in_every_epoch(corpus, tmp_path, monkeypatch):
    modes, original = [], TrainingStep.forward

    def recorded(self, batch, windows):
        modes.append(self.model.training and self.model.encoder.training)
        return original(self, batch, windows)

    monkeypatch.setattr(TrainingStep, "forward", recorded)
    train(recipe(tmp_path, epochs=2), [corpus], [corpus], tmp_path / "run")
    assert modes == [True] * 10


def test_every_process_draws_its_own_dropout_in_every_step(corpus, tmp_path, monkeypatch):
    """Or two would learn without the same units. Each is alone here, so that none waits for the other's gradients."""
    seeds, original = [], TrainingStep.forward

    def recorded(self, batch, windows):
        seeds.append(torch.initial_seed())  # of what dropout draws from
        return original(self, batch, windows)

    monkeypatch.setattr(TrainingStep, "forward", recorded)
    for rank in (0, 1, 0):

        @contextmanager
        def joined(device, rank=rank):
            yield Processes(rank=rank)

        monkeypatch.setattr(training.trainer, "joined_processes", joined)
        run = tmp_path / str(len(seeds))
        train(recipe(tmp_path, "model.dropout=0.3"), [corpus], [corpus], run)
    assert len(set(seeds[:10])) == 10
    assert seeds[10:] == seeds[:5]


def test_validation_is_the_plain_model_in_evaluation_mode(corpus):
    """With dropout and batch normalisation: no randomness, no statistics moved, the loss of one utterance a time."""
    model, dataset = speech(corpus, model="lstm, lookahead, 1d, fc")
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = []
    for _ in range(2):
        model.train()
        loader = valid_loader(dataset, read(batch_size=5), Processes())
        results.append(validate(model, loader, dataset.corpus, Processes(), "fp32"))
    assert results[0] == results[1]
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        alone = [float(negative_log_likelihood(model, dataset[[(0, i)]])) for i in range(18)]
    assert results[0].loss == pytest.approx(np.mean(alone), rel=1e-4)


def test_an_utterance_too_short_for_its_text_has_no_share_in_the_validation_loss(corpus, tmp_path):
    """No output is its text, so its loss is infinite; it counts as wrong."""
    lines = corpus.read_text().splitlines()[:4]
    crowded = json.dumps({**json.loads(lines[0]), "text": "abc" * 60})
    found = []
    for name, texts in (("four", lines), ("five", [*lines, crowded])):
        (corpus.parent / f"{name}.jsonl").write_text("\n".join(texts))
        model, dataset = speech(corpus.parent / f"{name}.jsonl")
        loader = valid_loader(dataset, read(batch_size=5), Processes())
        found.append(validate(model, loader, dataset.corpus, Processes(), "fp32"))
    four, five = found
    assert five.loss == pytest.approx(four.loss, rel=1e-4)
    assert (four.short, five.short) == (0, 1)
    assert five.errors.words == four.errors.words + 1


def test_validation_takes_no_more_at_once_than_training(corpus):
    _, dataset = speech(corpus)
    longest = max(dataset.corpus.durations_s)
    for settings, count, most, most_s in (
        ({"batch_size": 5}, 1, 5, math.inf),
        ({"batch_size": 5}, 2, 3, math.inf),
        ({"batch_size": 18, "batch_seconds": 4 * longest}, 1, 18, 4 * longest),
        ({"batch_size": 18, "batch_seconds": 4 * longest}, 2, 9, 2 * longest),
        ({"batch_size": 18, "batch_seconds": longest / 9}, 1, 18, longest),
    ):
        every = []
        for rank in range(count):
            share = Processes(rank=rank, count=count)
            for batch in valid_loader(dataset, read(**settings), share).sampler:
                assert len(batch) <= most
                assert len(batch) * max(dataset.corpus.durations_s[i] for _, i in batch) <= most_s * (1 + 1e-9)
                every += [i for _, i in batch]
        assert sorted(every) == list(range(18))


@pytest.mark.parametrize("normalization", ["none", "utterance"])
def test_masks_leave_the_padding_alone(corpus, normalization):
    """An utterance's loss is its own, whatever is hidden and whoever is in its batch."""
    masks = {"frequency_masks": 2, "time_masks": 1}
    model, dataset = speech(corpus, feature=FeatureConfig(normalization=normalization), **masks)
    step = TrainingStep(model.eval(), "fp32", AugmentConfig(**masks))
    order = np.argsort(dataset.corpus.durations_s)
    shortest, longest = (1, int(order[0])), (1, int(order[-1]))
    with torch.no_grad():
        alone, together = step(dataset[[shortest]]), step(dataset[[shortest, longest]])
    assert float(together[0]) == pytest.approx(float(alone[0]), rel=1e-5)


def negative_log_likelihood(model, batch, features=None):
    """The CTC loss of one utterance, by PyTorch's function on the model's own log-probabilities."""
    if features is None:
        log_probs, frames = model(batch.audio, batch.lengths)
    else:
        logits, frames = model.encoder(features, model.frontend.frames(batch.lengths))
        log_probs = logits.log_softmax(-1)
    return torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, frames, batch.target_lengths, reduction="sum"
    )


@pytest.mark.parametrize(("normalization", "hidden"), [("utterance", 0.0), ("none", math.log(1e-6))])
@torch.no_grad()
def test_the_step_hides_what_the_masks_say(corpus, normalization, hidden):
    """Behind the mean, or behind silence where features are not normalised."""
    feature = FeatureConfig(spectrum="log_mel", mel_bands=40, fft_size=512, normalization=normalization, floor=1e-6)
    masks = {"time_masks": 2, "time_mask_frames": 30, "time_mask_share": 0.9, "frequency_masks": 2}
    model, dataset = speech(corpus, feature=feature, **masks)
    masked, plain = dataset[[(1, 3)]], dataset[[(0, 3)]]
    assert torch.equal(masked.audio, plain.audio)
    features, _ = model.frontend(masked.audio, masked.lengths)
    for start, end in masked.time_masks[0].tolist():
        features[:, :, start:end] = hidden
    for start, end in masked.frequency_masks[0].tolist():
        features[:, start:end] = hidden
    step = TrainingStep(model, "fp32", AugmentConfig())
    expected = float(negative_log_likelihood(model, masked, features))
    assert float(step(masked)) == pytest.approx(expected, rel=1e-5)
    assert float(step(plain)) == pytest.approx(float(negative_log_likelihood(model, plain)), rel=1e-5)
    assert abs(float(step(plain)) - expected) > 1e-2


@torch.no_grad()
def test_the_step_adds_the_noise_that_was_drawn_and_hides_behind_none(corpus):
    """Gaussian noise of the utterance's own seed, by PyTorch's generator; what masks cover is the mean, without any."""
    noise = {"feature_noise": "gaussian", "feature_noise_probability": 1.0, "feature_noise_deviation": 0.5}
    model, dataset = speech(corpus, time_masks=1, time_mask_frames=30, time_mask_share=0.9, **noise)
    batch = dataset[[(1, 3)]]
    ((start, end),) = batch.time_masks[0].tolist()
    assert end > start
    features, frames = model.frontend(batch.audio, batch.lengths)
    assert features.shape[2] == int(frames) > end - start
    generator = torch.Generator().manual_seed(int(batch.noise_seeds))
    features = features + 0.5 * torch.randn(features.shape[1:], generator=generator)
    features[:, :, start:end] = 0.0
    step = TrainingStep(model, "fp32", dataset.augmenters[1].config)
    expected = float(negative_log_likelihood(model, batch, features))
    assert float(step(batch)) == pytest.approx(expected, rel=1e-5)
    silent = batch._replace(noise_seeds=torch.zeros_like(batch.noise_seeds))
    assert abs(float(step(silent)) - expected) > 1e-2


@pytest.mark.parametrize("drawn", [(1, 4), (4, 1), (0, 0)])
@torch.no_grad()
def test_a_step_hears_by_other_windows_as_a_network_that_has_them(corpus, drawn):
    model, dataset = speech(corpus, model="gru, two directions by windows, 2d")
    size, context = drawn
    config = msgspec.structs.replace(model.metadata.model, window=size, window_context=context)
    other = DeepSpeech2(msgspec.structs.replace(model.metadata, model=config)).eval()
    other.load_state_dict(model.state_dict())
    batch = dataset[[(1, 0), (1, 3)]]
    found = TrainingStep(model, "fp32", AugmentConfig())(batch, drawn)
    torch.testing.assert_close(found, TrainingStep(other, "fp32", AugmentConfig())(batch))
    assert (found - TrainingStep(model, "fp32", AugmentConfig())(batch)).abs().min() > 1e-3


def test_windows_are_drawn_for_each_step_anew(corpus, tmp_path, monkeypatch):
    """Not once an epoch, and in another order each time; validation has the network's own."""
    heard, original = [], Encoder.forward

    def recorded(self, features, frames, windows=None):
        heard.append(windows if self.training else "own" if windows is None else "another")
        return original(self, features, frames, windows)

    monkeypatch.setattr(Encoder, "forward", recorded)
    windows = ["model.window=2", "model.window_context=3", "augment.windows=[[2, 3], [1, 9], [0, 0]]"]
    train(recipe(tmp_path, *windows, epochs=6), [corpus], [corpus], tmp_path / "run")
    assert set(heard) == {(2, 3), (1, 9), (0, 0), "own"}
    learnt = [one for one in heard if one != "own"]
    assert len(learnt) == 30
    assert min(learnt.count(one) for one in set(learnt)) >= 5
    epochs = [tuple(learnt[start : start + 5]) for start in range(0, 30, 5)]
    assert len(set(epochs)) == 6
    assert all(len(set(epoch)) > 1 for epoch in epochs)


TWO_VIEWS = {"time_masks": 2, "time_mask_frames": 30, "time_mask_share": 0.9, "frequency_masks": 1}


def one_view(batch, number):
    """The batch as it is with the masks of one of its two views."""
    time, frequency = batch.time_masks, batch.frequency_masks
    assert time.shape[1:] == (4, 2)
    assert frequency.shape[1:] == (2, 2)
    part = {"time_masks": time[:, 2 * number :][:, :2], "frequency_masks": frequency[:, number:][:, :1]}
    return batch._replace(**part)


@torch.no_grad()
def test_two_views_cost_their_mean_loss_and_how_far_they_are_apart(corpus):
    """By PyTorch's own Kullback-Leibler divergence, frame by frame, of what the plain model says to each view."""
    model, dataset = speech(corpus, **TWO_VIEWS, consistency=0.2)
    batch = dataset[[(1, 3), (1, 0)]]
    assert not torch.equal(one_view(batch, 0).time_masks, one_view(batch, 1).time_masks)
    plain = TrainingStep(model, "fp32", AugmentConfig())
    heard, kept = [], model.encoder.forward
    model.encoder.forward = lambda *inputs: heard.append(kept(*inputs)) or heard[-1]
    losses = [plain(one_view(batch, number)) for number in (0, 1)]
    model.encoder.forward = kept
    (one, lengths), (other, _) = [(logits.log_softmax(-1), lengths) for logits, lengths in heard]
    apart = torch.zeros(2)
    for row, length in enumerate(lengths.tolist()):
        for a, b in ((one, other), (other, one)):
            target, learner = a[row, :length], b[row, :length]
            apart[row] += 0.5 * torch.nn.functional.kl_div(learner, target, reduction="sum", log_target=True)
    assert (apart > 1e-3).all()
    assert lengths[0] != lengths[1]
    found = TrainingStep(model, "fp32", dataset.augmenters[1].config)(batch)
    torch.testing.assert_close(found, (losses[0] + losses[1]) / 2 + 0.2 * apart, rtol=1e-5, atol=1e-5)


def test_a_view_learns_from_the_other_which_stands_still():
    """The gradient of cross-entropy against fixed targets, p - q in each frame, half of it; none beyond the end."""
    logits = torch.randn(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    disagreement(*logits.log_softmax(-1), torch.tensor([3])).sum().backward()
    p, q = logits.detach().softmax(-1)
    expected = 0.5 * torch.stack([p - q, q - p])
    expected[:, :, 3:] = 0
    torch.testing.assert_close(logits.grad, expected)


def test_views_without_masks_differ_by_dropout_alone(corpus):
    model, dataset = speech(corpus, consistency=1.0)
    batch = dataset[[(1, 0), (1, 1)]]
    step = TrainingStep(model, "fp32", dataset.augmenters[1].config)
    alone = TrainingStep(model, "fp32", AugmentConfig())
    torch.testing.assert_close(step(batch), alone(batch))


@pytest.mark.parametrize(
    "config",
    [
        FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="global"),
        FeatureConfig(center=True, normalization="global"),
        FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="global", tail_ms=250.0),
    ],
    ids=["log_mel", "log_power, centred", "log_mel, tail"],
)
def test_statistics_are_those_of_all_frames_together(corpus, config):
    """But for those of a tail, which is no sound of the training set."""
    utterances, heard = read_manifest(corpus)[:7], msgspec.structs.replace(config, tail_ms=0.0)
    frames = np.concatenate([reference(load_audio(u.path, 16000), heard) for u in utterances], axis=1)  # (F, T)
    statistics = feature_statistics(utterances, config)
    assert np.abs(np.array(statistics.mean) - frames.mean(axis=1)).max() < 1e-3
    # the floor of the deviation is added: at most a hundredth
    assert np.abs(np.array(statistics.deviation) - frames.std(axis=1) - 0.005).max() < 0.006
    assert frames.std(axis=1).min() > 0.1


def test_processes_share_the_recordings_of_the_statistics(corpus):
    config = FeatureConfig(spectrum="log_mel", mel_bands=20, fft_size=512, normalization="global")
    utterances = read_manifest(corpus)[:7]
    parts: list[list[torch.Tensor]] = [[], []]

    class Apart(Processes):
        def sum(self, values):
            parts[self.rank].append(values.clone())
            return values

    for rank in (0, 1):
        feature_statistics(utterances, config, Apart(rank=rank, count=2))
    sums = (one + other for one, other in zip(*parts, strict=True))

    class Together(Processes):
        def sum(self, values):
            return next(sums)

    shared, alone = feature_statistics(utterances, config, Together(count=2)), feature_statistics(utterances, config)
    assert np.allclose(shared.mean, alone.mean, rtol=1e-12)
    assert np.allclose(shared.deviation, alone.deviation, rtol=1e-12)


def test_statistics_of_many_recordings_are_those_of_some_evenly_spread(corpus, monkeypatch):
    config = FeatureConfig(normalization="global")
    utterances = read_manifest(corpus)[:7]
    some = feature_statistics(utterances[::3], config)
    monkeypatch.setattr(training.statistics, "HEARD", 3)
    assert feature_statistics(utterances, config) == some


def test_deviation_of_silence_is_not_zero(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 16000)
    config = FeatureConfig(normalization="global")
    statistics = feature_statistics([Utterance(tmp_path / "silence.wav", 0.5, "")], config)
    assert min(statistics.deviation) >= 1e-3
    assert np.allclose(statistics.mean, np.log(config.floor), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_clipped_to_the_norm(corpus, tmp_path, precision):
    """In fp16, too, where they arrive multiplied by the loss scale."""
    settings = [f"precision={precision}", "optimizer.clip_norm=1e-3"]
    with Steps() as steps:
        train(recipe(tmp_path, *settings, epochs=3), [corpus], [corpus], tmp_path / "run")
    norms = [float(torch.cat([g.flatten() for g in gradient]).norm()) for gradient in steps.gradients]
    assert len(norms) >= 5
    assert norms == pytest.approx([1e-3] * len(norms), rel=0.01)


def test_weight_decay_shrinks_matrices_and_leaves_vectors(corpus, tmp_path):
    """The learning rate is too small to learn: decoupled decay by rate times weight decay is all there is."""
    with Steps() as steps:
        settings = ["optimizer.learning_rate=1e-9", "optimizer.weight_decay=1e8"]
        train(recipe(tmp_path, *settings), [corpus], [corpus], tmp_path / "run")
    assert len(steps.rates) == 5
    assert max(steps.rates) > 0.5e-9
    for before, after, rate in zip(steps.before, steps.after, steps.rates, strict=True):
        for old, new in zip(before, after, strict=True):
            kept = 1 - rate * 1e8 if old.dim() > 1 else 1.0
            assert torch.allclose(new, kept * old, rtol=1e-5, atol=1e-7)


def test_a_step_descends_the_mean_over_its_utterances(corpus, tmp_path, batches_read):
    """Whatever the batch's size: 18 utterances in batches of up to 4 are batches of 4 and 3."""
    settings = ["model.batch_norm=false", "optimizer.clip_norm=1e9", "optimizer.learning_rate=1e-12"]
    train(recipe(tmp_path, *settings), [corpus], [corpus], tmp_path / "first")
    batches_read.clear()
    with Steps() as steps:
        plain = recipe(tmp_path, *settings)
        train(plain, [corpus], [corpus], tmp_path / "second", init_from=tmp_path / "first/last.pt")
    checkpoint = load_checkpoint(tmp_path / "first/last.pt")
    model = checkpoint.model()
    dataset = Speech(survey([corpus], "en", None).corpus, checkpoint.metadata, None, seed=1)
    sizes = set()
    learnt = [keys for keys, _ in batches_read if keys[0][0]]  # others are validated
    for gradient, keys in zip(steps.gradients, learnt, strict=True):
        sizes.add(len(keys))
        model.zero_grad()
        for key in keys:
            (negative_log_likelihood(model, dataset[[key]]) / len(keys)).backward()
        ours = sorted(model.parameters(), key=lambda p: p.dim() <= 1)  # as the optimizer groups them
        for got, parameter in zip(gradient, ours, strict=True):
            assert torch.allclose(got, parameter.grad, rtol=1e-3, atol=1e-4 * float(parameter.grad.abs().max()))
    assert len(sizes) > 1


def test_an_utterance_too_short_for_its_text_counts_nothing(corpus):
    _, dataset = speech(corpus)
    batch = dataset[[(0, 0), (0, 1), (0, 2)]]
    lengths = torch.tensor([20, int(batch.target_lengths[1]) - 1, 15])
    logits = torch.randn(3, 20, 29, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = ctc_losses(logits.log_softmax(-1), lengths, batch, 0).sum()
    loss.backward()
    ends = batch.target_lengths.cumsum(0).tolist()
    others = [
        torch.nn.functional.ctc_loss(
            logits[row].detach().log_softmax(-1)[:, None],
            batch.targets[ends[row] - int(batch.target_lengths[row]) : ends[row]][None],
            lengths[row : row + 1],
            batch.target_lengths[row : row + 1],
            reduction="sum",
        )
        for row in (0, 2)
    ]
    assert float(loss.detach()) == pytest.approx(float(sum(others)), rel=1e-5)
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_runs_in_half_precision_and_the_loss_in_float32(corpus, monkeypatch, precision, dtype):
    model, dataset = speech(corpus)
    seen, outputs, original = [], [], torch.nn.functional.ctc_loss
    model.encoder.output.register_forward_hook(lambda *call: outputs.append(call[-1].dtype))

    def recorded(log_probs, *arguments, **keywords):
        seen.append(log_probs.detach())
        return original(log_probs, *arguments, **keywords)

    monkeypatch.setattr(torch.nn.functional, "ctc_loss", recorded)
    TrainingStep(model, precision, AugmentConfig())(dataset[[(1, 0), (1, 1)]]).sum().backward()
    loader = valid_loader(dataset, read(batch_size=18), Processes())
    validate(model, loader, dataset.corpus, Processes(), precision)
    assert outputs == [dtype, dtype]
    assert [log_probs.dtype for log_probs in seen] == [torch.float32, torch.float32]
    for log_probs in seen:  # computed in float32, not rounded to half first
        assert (log_probs.double().exp().sum(-1) - 1).abs().max() < 1e-5


def test_best_is_the_lowest_word_error_rate_also_across_a_resume(corpus, tmp_path, monkeypatch):
    """Word errors of 10 by epoch, the process killed in the third: 5, 2, (killed) 4, 3, 1, 6."""
    word_errors = iter([5, 2, None, 4, 3, 1, 6])
    best_before = []

    class KilledError(Exception):
        pass

    def best_epoch():
        path = tmp_path / "run/best.pt"
        return load_checkpoint(path).metadata.provenance.epochs if path.exists() else None

    def scripted(*_):
        best_before.append(best_epoch())
        wrong = next(word_errors)
        if wrong is None:
            raise KilledError
        return Validation(loss=1.0, errors=Errors(wrong, 10, 1, 10), blank_rate=0.5, output_length=3.0)

    monkeypatch.setattr(training.trainer, "validate", scripted)
    plain = recipe(tmp_path, epochs=6)
    with pytest.raises(KilledError):
        train(plain, [corpus], [corpus], tmp_path / "run")
    train(plain, [corpus], [corpus], tmp_path / "run", resume=True)
    assert best_before == [None, 1, 2, 2, 2, 2, 5]
    assert best_epoch() == 5
    assert load_checkpoint(tmp_path / "run/best.pt").metadata.provenance.valid_wer == 0.1
    assert load_checkpoint(tmp_path / "run/last.pt").metadata.provenance.epochs == 6
