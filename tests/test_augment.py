"""Variation of recordings: speed, masks, noise at its ratio, rooms that decay as drawn, noise on features."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ds2_deploy.errors import AudioError, ConfigError
from training.augment import (
    Augmenter,
    by_telephone,
    change_speed,
    draw_masks,
    followers,
    image_sources,
    measured_room,
    mixed,
    one_after_the_other,
    silence_s,
    simulated_room,
)
from training.recipe import AugmentConfig
from training.step import draw_noise, noisy

RATE = 16000


def speech(seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    return (
        0.1 * np.sin(2 * np.pi * 300 * t) * (1 + np.sin(2 * np.pi * 3 * t)) + 1e-3 * rng.standard_normal(len(t))
    ).astype(np.float32)


def frames(samples):
    return max(samples - 320, 0) // 160 + 1


def test_speed_changes_length_and_pitch():
    rate, factor = 16000, 1.25
    tone = np.sin(2 * np.pi * 400 * np.arange(rate) / rate).astype(np.float32)
    fast = change_speed(tone, factor)
    assert abs(len(fast) - rate / factor) <= 1
    peak = np.abs(np.fft.rfft(fast * np.hanning(len(fast)))).argmax() * rate / len(fast)
    assert abs(peak - 400 * factor) < 2


@pytest.mark.parametrize("samples", [0, 1, 999, 16000])
def test_a_telephone_keeps_length_and_lower_frequencies_alone(samples):
    t = np.arange(samples) / RATE
    low, high = (np.sin(2 * np.pi * hz * t).astype(np.float32) for hz in (700, 5500))
    heard = by_telephone(low + high, RATE)
    assert len(heard) == samples
    assert heard.dtype == np.float32
    middle = slice(2000, -2000)  # away from the filter's edges
    if samples == RATE:
        assert np.abs(heard - low)[middle].max() < 1e-3
    assert np.array_equal(by_telephone(low, 8000), low)  # has nothing above 4 kHz to lose


def test_a_telephone_takes_its_share_of_utterances():
    augmenter = Augmenter(AugmentConfig(telephone_probability=0.3), RATE)
    hiss = np.random.default_rng(1).standard_normal(RATE).astype(np.float32) * 0.1
    narrow = [not np.array_equal(augmenter.vary(hiss, (1, 1, i), 80, frames).audio, hiss) for i in range(400)]
    assert np.mean(narrow) == pytest.approx(0.3, abs=0.07)


def test_silence_lies_around_a_share_of_utterances():
    config = AugmentConfig(silence_probability=0.4, silence_s=(0.25, 0.5), time_masks=1)
    clean, around, masked = speech(), [], 0
    for index in range(400):
        varied = Augmenter(config, RATE).vary(clean, (1, 1, index), 80, frames)
        masked = max(masked, int(varied.time_masks.max()))
        if len(varied.audio) == len(clean):
            assert np.array_equal(varied.audio, clean)
            continue
        begins = np.flatnonzero(varied.audio == clean[0])
        before = next(int(i) for i in begins if np.array_equal(varied.audio[i : i + len(clean)], clean))
        after = len(varied.audio) - before - len(clean)
        assert (before, after) == tuple(int(s * RATE) for s in silence_s(config, (1, 1, index)))
        assert 0.25 * RATE - 1 <= min(before, after) <= max(before, after) <= 0.5 * RATE
        level = np.sqrt(np.mean(np.square(varied.audio[:before], dtype=np.float64)))
        around.append((before, after, level))
    assert len(around) / 400 == pytest.approx(0.4, abs=0.07)
    assert masked > frames(len(clean))  # what is hidden may lie in the silence, too
    hiss_db = [20 * np.log10(level) for *_, level in around if level]
    assert len(hiss_db) / len(around) == pytest.approx(0.5, abs=0.12)
    assert min(hiss_db) == pytest.approx(-90, abs=3)
    assert max(hiss_db) == pytest.approx(-50, abs=3)
    assert len({before for before, *_ in around}) > 100
    assert max(abs(before - after) for before, after, _ in around) > 0.15 * RATE  # drawn for each side


def test_levels_are_drawn_evenly_from_their_range():
    clean, gains_db = speech(0.1).astype(np.float64), []
    for index in range(400):
        augmenter = Augmenter(AugmentConfig(gain_db=(-12.0, 6.0)), RATE)
        heard = augmenter.vary(speech(0.1), (1, 1, index), 80, frames).audio
        factor = heard @ clean / (clean @ clean)
        assert np.allclose(heard, factor * clean, rtol=1e-5)
        gains_db.append(20 * np.log10(factor))
    assert -12 <= min(gains_db) < -11.5
    assert 5.5 < max(gains_db) <= 6 + 1e-6
    assert np.histogram(gains_db, 3, (-12, 6))[0] / 400 == pytest.approx([1 / 3] * 3, abs=0.08)


def test_others_follow_a_share_of_utterances():
    config = AugmentConfig(joined_probability=0.4, joined=3, pause_s=(0.5, 1.0))
    drawn = [followers(config, (1, 1, index), 50) for index in range(1000)]
    assert drawn == [followers(config, (1, 1, index), 50) for index in range(1000)]
    assert drawn != [followers(config, (1, 2, index), 50) for index in range(1000)]
    joined = [after for after in drawn if after.indices]
    assert len(joined) / 1000 == pytest.approx(0.4, abs=0.05)
    counts = np.bincount([len(after.indices) for after in joined], minlength=4) / len(joined)
    assert counts[1:] == pytest.approx([1 / 3] * 3, abs=0.08)
    assert {index for after in joined for index in after.indices} == set(range(50))
    pauses = [seconds for after in joined for seconds in after.pauses_s]
    assert len(pauses) == sum(len(after.indices) for after in joined)
    assert 0.5 <= min(pauses) < 0.55
    assert 0.95 < max(pauses) <= 1.0
    assert not followers(AugmentConfig(), (1, 1, 0), 50).indices


def test_recordings_follow_one_another_after_pauses_of_their_own_level():
    quiet = np.random.default_rng(0).standard_normal(RATE // 2).astype(np.float32)  # before and after what is said
    first, second = (
        np.concatenate([level * quiet, speech(seed=seed), level * quiet]) for seed, level in ((1, 5e-4), (2, 2e-4))
    )
    third = speech(0.3)
    heard = one_after_the_other([first, second, third], (0.5, 0.25), RATE, (1, 1, 1))
    pauses = heard[len(first) :][: RATE // 2], heard[-len(third) - RATE // 4 : -len(third)]
    assert np.array_equal(heard, np.concatenate([first, pauses[0], second, pauses[1], third]))
    assert [pause.std() for pause in pauses] == pytest.approx([5e-4, 2e-4], rel=0.2)
    assert np.array_equal(one_after_the_other([first], (), RATE, (1, 1, 1)), first)
    nothing = np.zeros(0, np.float32)
    assert np.array_equal(one_after_the_other([nothing, third], (0.5,), RATE, (1, 1, 1))[RATE // 2 :], third)


@pytest.mark.parametrize("size", [0, 1, 5, 100])
def test_masks_stay_inside(size):
    rng = np.random.default_rng(1)
    masks = np.concatenate([draw_masks(rng, 3, size, 7) for _ in range(200)])
    widths = masks[:, 1] - masks[:, 0]
    assert masks.min() >= 0
    assert masks.max() <= size
    assert set(widths) == set(range(min(7, size) + 1))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_comes_at_its_ratio_of_powers(snr_db):
    clean, noise = speech(), np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    added = mixed(clean, noise, snr_db).astype(np.float64) - clean
    assert 10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)
    assert np.corrcoef(added, noise)[0, 1] > 0.9999
    for silent in (mixed(clean, np.zeros_like(noise), snr_db), mixed(clean[:0], noise[:0], snr_db)):
        assert np.array_equal(silent, clean[: len(silent)])


@pytest.fixture
def noises(tmp_path):
    """A folder of a low and a high hum, one at another rate and shorter than the speech."""
    (tmp_path / "noise/deep").mkdir(parents=True)
    t = np.arange(5 * RATE) / RATE
    soundfile.write(tmp_path / "noise/low.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), RATE)
    soundfile.write(tmp_path / "noise/deep/high.wav", 0.5 * np.sin(2 * np.pi * 6000 * t[: RATE // 4]), RATE // 2)
    return tmp_path / "noise"


def test_noise_from_files_is_drawn_per_utterance_and_epoch(noises, tmp_path):
    config = AugmentConfig(noise=str(noises), noise_probability=0.5, snr_db=(5.0, 15.0))
    augmenter = Augmenter(config, RATE)
    clean, heard = speech(), set()
    for index in range(40):
        varied = augmenter.vary(clean, (1, 1, index), 80, frames).audio
        again = Augmenter(config, RATE).vary(clean, (1, 1, index), 80, frames).audio
        assert np.array_equal(varied, again)
        added = varied.astype(np.float64) - clean
        if not added.any():
            heard.add("none")
            continue
        spectrum = np.abs(np.fft.rfft(added * np.hanning(RATE)))
        assert 5 <= 10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(added**2)) <= 15
        heard.add({1000: "low", 3000: "high"}[round(int(spectrum.argmax()), -3)])
    assert heard == {"none", "low", "high"}
    line = {"audio_filepath": str(noises / "low.wav"), "duration": 5, "text": ""}
    (tmp_path / "noise.jsonl").write_text(json.dumps(line))
    assert Augmenter(AugmentConfig(noise=str(tmp_path / "noise.jsonl"), noise_probability=1), RATE).noises == (
        noises / "low.wav",
    )


def test_noise_that_is_not_there_or_not_audio(tmp_path):
    for source, said in ((tmp_path / "nothing", "must be a folder"), (tmp_path, "holds no recording")):
        with pytest.raises(ConfigError, match=f"augment.noise is .*{said}"):
            Augmenter(AugmentConfig(noise=str(source), noise_probability=1), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    augmenter = Augmenter(AugmentConfig(noise=str(tmp_path), noise_probability=1), RATE)
    with pytest.raises(AudioError, match="Cannot read the noise"):
        augmenter.vary(speech(), (1, 1, 1), 80, frames)


@pytest.mark.parametrize("decay_s", [0.2, 0.4, 0.8])
def test_a_room_falls_by_60_db_in_its_time(decay_s):
    slopes = []
    for seed in range(20):
        response = simulated_room(np.random.default_rng(seed), decay_s, RATE).astype(np.float64)
        energy = np.cumsum(response[::-1] ** 2)[::-1]  # Schroeder's integral
        level = 10 * np.log10(energy / energy[0])
        first, last = int(0.06 * RATE), int(0.6 * decay_s * RATE)  # the late part, before the end bends it
        slopes.append((level[last] - level[first]) / ((last - first) / RATE))
    assert -60 / np.median(slopes) == pytest.approx(decay_s, rel=0.1)


def test_a_room_starts_with_the_direct_sound_and_goes_on_as_it_began():
    """The late part has the power of the early one, whose images are counted one by one: no step between them."""
    early, late = [], []
    for seed in range(300):
        response = simulated_room(np.random.default_rng(seed), 5.0, RATE).astype(np.float64)
        assert response[0] > 0
        early.append(np.sum(response[int(0.03 * RATE) : int(0.05 * RATE)] ** 2))
        late.append(np.sum(response[int(0.05 * RATE) : int(0.07 * RATE)] ** 2))
    assert np.mean(late) / np.mean(early) == pytest.approx(1.0, abs=0.35)


def test_image_sources_of_a_room_by_counting():
    size, source, ear = np.array([4.0, 3.0, 2.5]), np.array([1.0, 1.0, 1.0]), np.array([3.0, 2.0, 1.5])
    distances, bounces = image_sources(size, source, ear, 6.0)
    expected = []
    for n in np.ndindex(9, 9, 9):
        for flip in np.ndindex(2, 2, 2):
            cell = np.array(n) - 4
            image = 2 * cell * size + np.where(flip, -source, source)
            reflections = int(np.abs(2 * cell - np.array(flip)).sum())
            if np.linalg.norm(image - ear) <= 6.0:
                expected.append((round(float(np.linalg.norm(image - ear)), 9), reflections))
    assert sorted(zip(distances.round(9), bounces, strict=True)) == sorted(expected)
    assert bounces[distances.argmin()] == 0


def test_reverberation_keeps_length_level_and_time():
    augmenter = Augmenter(AugmentConfig(reverb_probability=1.0, reverb_s=(0.2, 0.2)), RATE)
    clean = np.zeros(RATE, np.float32)
    clean[4000:4800] = np.random.default_rng(0).standard_normal(800)
    wet = augmenter.vary(clean, (1, 1, 1), 80, frames).audio
    assert len(wet) == len(clean)
    assert np.mean(wet.astype(np.float64) ** 2) == pytest.approx(np.mean(clean.astype(np.float64) ** 2), rel=1e-3)
    assert np.abs(wet[:4000]).max() < 1e-5
    lag = np.correlate(wet, clean, "full").argmax() - (len(clean) - 1)
    assert 0 <= lag < 160
    assert wet[4800:6400].any()


def test_rooms_from_files_begin_at_their_direct_sound(tmp_path):
    response = np.zeros(3000)
    response[1000], response[2600] = 1.0, 0.5
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    augmenter = Augmenter(AugmentConfig(reverb=str(tmp_path), reverb_probability=1.0), RATE)
    clean = speech(0.5)
    wet = augmenter.vary(clean, (1, 1, 1), 80, frames).audio
    expected = clean.astype(np.float64)
    expected[1600:] += 0.5 * clean[:-1600]
    expected *= np.sqrt(np.mean(clean.astype(np.float64) ** 2) / np.mean(expected**2))
    assert np.abs(wet - expected).max() < 1e-5


def test_of_several_microphones_in_a_room_the_first_hears(tmp_path):
    """Their mean, in which sound that comes later to one of them cancels some frequencies, is no place's response."""
    responses = np.zeros((3000, 2))
    responses[1000, 0], responses[1005, 1] = 1.0, -1.0
    soundfile.write(tmp_path / "room.wav", responses, RATE, subtype="FLOAT")
    assert np.flatnonzero(measured_room(tmp_path / "room.wav", RATE)).tolist() == [0]


@pytest.mark.parametrize("samples", [[], np.zeros(100)])
def test_a_room_without_sound_is_named(tmp_path, samples):
    soundfile.write(tmp_path / "room.wav", samples, RATE)
    augmenter = Augmenter(AugmentConfig(reverb=str(tmp_path), reverb_probability=1.0), RATE)
    with pytest.raises(AudioError, match=r"impulse response .*room\.wav: it is silent or empty"):
        augmenter.vary(speech(), (1, 1, 1), 80, frames)


def test_noise_from_a_file_that_does_not_know_its_length(tmp_path):
    """FLAC as it is written to a pipe: 36 bits of its header, the number of samples, are zero."""
    soundfile.write(tmp_path / "noise.flac", 0.1 * np.random.default_rng(3).standard_normal(RATE), RATE)
    content = bytearray((tmp_path / "noise.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "noise.flac").write_bytes(content)
    augmenter = Augmenter(AugmentConfig(noise=str(tmp_path), noise_probability=1, snr_db=(0.0, 0.0)), RATE)
    heard = [augmenter.vary(speech()[: RATE // 4], (1, 1, i), 80, frames).audio for i in range(2)]
    assert np.abs(heard[0] - speech()[: RATE // 4]).max() > 0.01
    assert np.abs(heard[0] - heard[1]).max() > 0.01  # from another place


def test_noise_that_is_no_number_or_next_to_nothing(tmp_path):
    for value in (np.nan, np.inf):
        soundfile.write(tmp_path / "noise.wav", np.full(RATE, value), RATE, subtype="FLOAT")
        augmenter = Augmenter(AugmentConfig(noise=str(tmp_path), noise_probability=1), RATE)
        with pytest.raises(AudioError, match=r"noise\.wav: it holds samples that are not finite"):
            augmenter.vary(speech(), (1, 1, 1), 80, frames)
    assert np.array_equal(mixed(speech(), np.full(RATE, 1e-44, np.float32), 10.0), speech())


@pytest.mark.parametrize(("name", "skewness"), [("gaussian", 0.0), ("gumbel", 1.1395)])
def test_noise_on_features_has_its_moments(name, skewness):
    drawn = draw_noise(name, (400, 500), torch.Generator().manual_seed(1)).double()
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)
    assert float((drawn**3).mean()) == pytest.approx(skewness, abs=0.05)


def test_noise_on_features_depends_on_the_seed_alone():
    augment = AugmentConfig(feature_noise="gumbel", feature_noise_deviation=0.5)
    features, lengths = torch.randn(3, 8, 20), torch.tensor([20, 11, 7])
    result = noisy(features, lengths, torch.tensor([5, 0, 6]), augment)
    assert torch.equal(result[1], features[1])
    assert torch.equal(result[2, :, 7:], features[2, :, 7:])
    alone = noisy(features[2:, :, :7], lengths[2:], torch.tensor([6]), augment)
    assert torch.equal(result[2, :, :7], alone[0])
    assert not torch.equal(result[0], features[0])
    assert noisy(features, lengths, torch.zeros(3, dtype=torch.int64), augment) is features


def test_feature_noise_is_drawn_for_its_share_of_utterances():
    augmenter = Augmenter(AugmentConfig(feature_noise="gaussian", feature_noise_probability=0.25), RATE)
    seeds = [augmenter.vary(speech(0.1), (1, 2, index), 80, frames).noise_seed for index in range(400)]
    assert 60 < sum(seed > 0 for seed in seeds) < 140
    assert len(set(seeds)) > 60
