"""Foreign checkpoints against a minimal re-statement of the networks that they were saved from."""

import collections
import enum
import math
import os
from dataclasses import dataclass

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ds2_deploy.errors import ModelError, ModelNotFoundError
from ds2_deploy.importing import import_checkpoint
from ds2_deploy.importing.unpickler import Stub, read_foreign
from ds2_deploy.model.checkpoint import Checkpoint, load_checkpoint
from ds2_deploy.model.config import ConvLayer, ModelConfig
from ds2_deploy.model.layers import MaskedConv, time_mask
from ds2_deploy.model_folder import open_model
from ds2_deploy.runtime.ort_backend import OrtBackend
from ds2_deploy.runtime.protocol import pad_batch
from ds2_deploy.runtime.torch_backend import TorchBackend
from export.exporter import export_model
from tests.tiny import MODELS, tiny_metadata, tiny_model

LABELS = "_'ABCDEFGH "
RATE, WINDOW_S, HOP_S = 8000, 0.02, 0.01
CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
LENGTHS = [8000, 6173, 2900, 801]


# --- deepspeech.pytorch, re-stated ------------------------------------------------------------------------------------


class Named(nn.Module):
    """A module with children of these names, so that the state dict has the published keys."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class DeepSpeech(nn.Module):
    """`forward(features (B, F, T), frames (B,))`, longest first -> log_probs (B, T, V), lengths (B,)."""

    def __init__(self, cell="gru", *, bidirectional=True, channels=3, hidden=10, layers=3, labels=11):
        super().__init__()
        self.bidirectional = bidirectional
        convolutions = nn.Sequential(
            nn.Conv2d(1, channels, (41, 11), (2, 2), (20, 5)), nn.BatchNorm2d(channels), nn.Hardtanh(0, 20),
            nn.Conv2d(channels, channels, (21, 11), (2, 1), (10, 5)), nn.BatchNorm2d(channels), nn.Hardtanh(0, 20),
        )  # fmt: skip
        self.conv = Named(seq_module=convolutions)
        bins = 21  # of 81
        self.rnns = nn.Sequential()
        for i in range(layers):
            parts = {"batch_norm": Named(module=nn.BatchNorm1d(hidden))} if i else {}
            rnn = CELLS[cell](hidden if i else channels * bins, hidden, bidirectional=bidirectional)
            self.rnns.append(Named(rnn=rnn, **parts))
        if not bidirectional:
            row = nn.Conv1d(hidden, hidden, 7, groups=hidden, bias=False)
            self.lookahead = nn.Sequential(Named(conv=row), nn.Hardtanh(0, 20))
        last = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, labels, bias=False))
        self.fc = nn.Sequential(Named(module=last))

    def forward(self, features, frames):
        x = features[:, None]
        lengths = (frames + 2 * 5 - 11) // 2 + 1
        for module in self.conv.seq_module:
            x = module(x)
            x = x * (torch.arange(x.shape[-1]) < lengths[:, None])[:, None, None]
        x = x.flatten(1, 2).permute(2, 0, 1)  # (T, B, C F)
        for layer in self.rnns:
            if hasattr(layer, "batch_norm"):
                x = layer.batch_norm.module(x.flatten(0, 1)).view(x.shape)
            x, _ = pad_packed_sequence(layer.rnn(pack_padded_sequence(x, lengths))[0])
            x = x.view(*x.shape[:2], -1, layer.rnn.hidden_size).sum(2)
        if not self.bidirectional:
            row = self.lookahead[0].conv
            x = self.lookahead[1](row(nn.functional.pad(x.permute(1, 2, 0), (0, 6)))).permute(2, 0, 1)
        x = self.fc[0].module(x.flatten(0, 1)).view(*x.shape[:2], -1)
        return x.log_softmax(-1).transpose(0, 1), lengths


def random_net(*arguments, seed=0, **keywords):
    """With weights that make labels differ."""
    torch.manual_seed(seed)
    net = randomized(DeepSpeech(*arguments, **keywords))
    nn.init.normal_(net.fc[0].module[1].weight, 0.0, 1.0)
    return net


def randomized(net):
    """In evaluation mode, with statistics that are not the defaults."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.5)
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.1, 2.0)
    return net.eval()


def spectrogram(samples, window):
    """(F, T): `window` a name, or a function of the length. Padded as librosa's `center` did before 0.9."""
    points = int(RATE * WINDOW_S)
    mirrored = np.pad(samples, points // 2, mode="reflect")
    spectrum = librosa.stft(mirrored, n_fft=points, hop_length=int(RATE * HOP_S), window=window, center=False)
    features = torch.from_numpy(np.log1p(np.abs(spectrum)))
    return (features - features.mean()) / features.std()


@torch.no_grad()
def their_log_probs(net, recordings, window="hamming"):
    """A (T, V) of each recording, through a padded batch; longest first."""
    features = [spectrogram(samples, window) for samples in recordings]
    frames = torch.tensor([f.shape[1] for f in features])
    batch = torch.stack([nn.functional.pad(f, (0, int(frames.max()) - f.shape[1])) for f in features])
    log_probs, lengths = net(batch, frames)
    return [row[:count].numpy() for row, count in zip(log_probs, lengths.tolist(), strict=True)]


def recordings(seed=0):
    """Noise under moving envelopes, on the grid of 16-bit integers; longest first."""
    rng = np.random.default_rng(seed)
    noise = [0.2 * rng.standard_normal(n) * (0.1 + np.sin(np.arange(n) / 500) ** 2) for n in LENGTHS]
    return [(np.round(x.clip(-1, 1) * 2**15) / 2**15).astype(np.float32) for x in noise]


def our_log_probs(backend, samples):
    emissions = backend.run(*pad_batch(samples))
    return [row[:count] for row, count in zip(emissions.log_probs, emissions.lengths.tolist(), strict=True)]


def assert_same(theirs, ours):
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 1e-4
    assert theirs[0].std(axis=0).max() > 0.1  # over time, or any network would do


# --- how the versions save --------------------------------------------------------------------------------------------


class WindowName(enum.Enum):
    hamming = "hamming"
    hann = "hann"
    bartlett = "bartlett"


class CellName(enum.Enum):
    lstm = nn.LSTM


@dataclass
class SpectConfig:
    sample_rate: int = RATE
    window_size: float = WINDOW_S
    window_stride: float = HOP_S
    window: WindowName = WindowName.hamming


class Node:
    """An OmegaConf node, which knows its container."""

    def __init__(self, value, parent):
        self._metadata, self._parent, self._val = {"optional": False}, parent, value


class DictConfig:
    """An OmegaConf container."""

    def __init__(self, **values):
        self._metadata, self._parent = {"object_type": SpectConfig}, None
        self._content = {name: Node(value, self) for name, value in values.items()}


class AttributeDict(dict):
    """Lightning's."""


class ModelCheckpoint:
    pass


def version_2(net, cell, *, window="hamming", labels=LABELS, **changes):
    audio = {"sample_rate": RATE, "window_size": WINDOW_S, "window_stride": HOP_S, "window": window, "noise_dir": None}
    return {
        "version": "0.0.1", "hidden_size": 10, "hidden_layers": 3, "rnn_type": cell, "audio_conf": audio,
        "labels": labels, "state_dict": net.state_dict(), "bidirectional": net.bidirectional,
        "optim_dict": {"state": {}, "param_groups": []}, "epoch": 7, "loss_results": torch.zeros(70), **changes,
    }  # fmt: skip


def version_21(net, cell, *, window="hamming", **changes):
    return version_2(net, cell, audio_conf=SpectConfig(window=WindowName(window)), amp=None, **changes)


def version_3(net, cell, *, window="hamming", labels=LABELS, **changes):
    spect = DictConfig(sample_rate=RATE, window_size=WINDOW_S, window_stride=HOP_S, window=WindowName(window))
    model = DictConfig(rnn_type=CellName.lstm, hidden_size=10, hidden_layers=3)
    hyper = AttributeDict(labels=list(labels), model_cfg=model, precision=16, optim_cfg=DictConfig(), spect_cfg=spect)
    return {
        "epoch": 7, "global_step": 99, "pytorch-lightning_version": "1.1.0",
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(9.5), "dirpath": ModelCheckpoint()}},
        "optimizer_states": [], "lr_schedulers": [collections.defaultdict(list)],
        "state_dict": net.state_dict(), "hparams_name": "kwargs", "hyper_parameters": hyper, **changes,
    }  # fmt: skip


def saved(content, path, *, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


NETWORKS = [
    (version_3, "lstm", True, "hamming", False),
    (version_3, "gru", False, "hann", False),
    (version_21, "gru", True, "hann", True),
    (version_2, "gru", True, "hamming", True),
    (version_2, "rnn", True, "hann", False),
    (version_2, "lstm", False, "hamming", True),
]


@pytest.mark.parametrize(("version", "cell", "bidirectional", "window", "legacy"), NETWORKS)
def test_deepspeech_pytorch_computes_the_same(version, cell, bidirectional, window, legacy, tmp_path):
    net = random_net(cell, bidirectional=bidirectional)
    path = saved(version(net, cell, window=window), tmp_path / "x.pth", legacy=legacy)
    checkpoint = import_checkpoint(path)
    symmetric = version is version_2
    theirs = their_log_probs(net, recordings(), getattr(scipy.signal.windows, window) if symmetric else window)
    backend = TorchBackend.of(checkpoint.model())
    assert_same(theirs, our_log_probs(backend, recordings()))
    assert checkpoint.metadata.alphabet.labels == ("<blank>", *LABELS[1:].lower())
    assert checkpoint.metadata.feature.symmetric_window == symmetric
    assert checkpoint.metadata.model.cell == cell
    assert checkpoint.metadata.provenance.epochs == 7


# --- the thesis' code, re-stated --------------------------------------------------------------------------------------

THESIS = {
    "conv_layers": [{"kernel": (41, 11), "stride": (2, 2), "num_chan": 2}, {"kernel": (21, 11), "stride": (2, 1),
                    "num_chan": 3}, {"kernel": (5, 11), "stride": (2, 1), "num_chan": 2}],
    "rec_number": 2, "rec_type": "lstm", "rec_bidirectional": True, "fc_layers_sizes": [30], "batch_norm": True,
    "fc_dropout": 0.5, "sound_features_size": 160, "sound_time_overlap": 5, "sound_time_length": 20, "characters": 29,
    "frequencies": 160,
}  # fmt: skip


class Same(nn.Module):
    """A convolution padded by what its input's own size wants, the odd zero behind."""

    def __init__(self, *arguments):
        super().__init__()
        self.layer = nn.Conv2d(*arguments)

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.layer.kernel_size[::-1], self.layer.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return self.layer(nn.functional.pad(x, pads))


class ThesisNet(nn.Module):
    """`forward(features (1, F, T)) -> log_probs (1, T, V)`."""

    def __init__(self, settings):
        super().__init__()
        channels, bins, layers = 1, settings["frequencies"], []
        for layer in settings["conv_layers"]:
            block = nn.Sequential(
                Same(channels, layer["num_chan"], layer["kernel"], layer["stride"]), nn.Hardtanh(0, 20)
            )
            channels, bins = layer["num_chan"], -(-bins // layer["stride"][0])
            layers.append(nn.Sequential(block, nn.BatchNorm2d(channels, eps=1e-4)) if settings["batch_norm"] else block)
        self.convs = Named(layers=nn.ModuleList(layers))
        size = bins * channels
        rnn = CELLS[settings["rec_type"]]
        recurrent = [rnn(size, size, batch_first=True, bidirectional=True) for _ in range(settings["rec_number"])]
        self.rec = Named(layers=nn.ModuleList(recurrent))
        hidden = []
        for width in settings["fc_layers_sizes"]:
            block = nn.Sequential(nn.Linear(size, width), nn.Hardtanh(0, 20))
            hidden.append(nn.Sequential(block, nn.Dropout(0.5)) if settings["fc_dropout"] else block)
            size = width
        self.fc = Named(layers=nn.ModuleList(hidden))
        self.probs = Named(linear=nn.Linear(size, settings["characters"]))

    def forward(self, x):
        x = x[:, None]
        for layer in self.convs.layers:
            x = layer(x)
        x = x.flatten(1, 2).transpose(1, 2)
        for layer in self.rec.layers:
            x = sum(layer(x)[0].chunk(2, dim=2))
        for layer in self.fc.layers:
            x = layer(x)
        return self.probs.linear(x).log_softmax(-1)


def thesis_features(samples):
    """(1, F, T)"""
    samples = samples / (np.abs(samples).max() + 1e-5)
    _, _, density = scipy.signal.spectrogram(
        samples, 16000, scipy.signal.get_window("hann", 320), 320, 80, detrend=False
    )
    level = 10 * np.log10(np.maximum(np.square(density), 1e-30))[:160]
    level = (level - level.mean(0)) / np.sqrt(level.std(0) ** 2 + 1e-4)
    return torch.from_numpy(level[None]).float()


def thesis_net(settings):
    torch.manual_seed(0)
    net = randomized(ThesisNet(settings))
    for weight in net.parameters():
        if weight.dim() > 1:
            weight.data *= 2.5  # what is drawn for layers this narrow lets little through
    return net


def thesis_file(net, settings, path):
    content = {"epoch": 9, "net_params": settings, "state_dict": net.state_dict(), "optimizer_steps": 5}
    return saved({**content, "optimizer_sd": {"state": {}}}, path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rec_type": "gru", "batch_norm": False, "fc_dropout": 0, "fc_layers_sizes": [20, 20]},
        {"conv_layers": [{"kernel": (5, 3), "stride": (1, 2), "num_chan": 1}], "rec_number": 1},
        {"conv_layers": [{"kernel": (7, 5), "stride": (2, 2), "num_chan": 2}] * 3, "rec_type": "gru"},
    ],
)
@torch.no_grad()
def test_the_thesis_code_computes_the_same(changes, tmp_path):
    settings = {**THESIS, **changes}
    net = thesis_net(settings)
    checkpoint = import_checkpoint(thesis_file(net, settings, tmp_path / "9-epoch.pt"))
    signals = [*recordings(), recordings()[0][:7801], recordings()[1][:400]]  # even and odd numbers of frames
    signals[2] = np.concatenate([signals[2], np.zeros(900, np.float32)])  # digital silence
    signals[1] = 1e-6 * signals[1]  # below the floor, were it not for the largest sample
    theirs = [net(thesis_features(samples.astype(np.float64)))[0].numpy() for samples in signals]
    assert {len(f[0, 0]) % 2 for f in map(thesis_features, signals)} == {0, 1}
    ours = our_log_probs(TorchBackend.of(checkpoint.model()), signals)
    assert_same(theirs, ours)
    assert checkpoint.metadata.alphabet.decode([8, 5, 12, 12, 15, 27, 28]) == "hello '"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rec_type": "rnn"}, "rec_type is 'rnn', a ReLU without a limit"),
        ({"rec_bidirectional": False}, "rec_bidirectional is false"),
        ({"fc_layers_sizes": [20, 30]}, r"fc_layers_sizes is \[20, 30\]"),
        ({"sound_features_size": 100}, "sound_features_size is 100, and only all 160"),
        ({"characters": 30}, "it has 30 outputs and 29 labels"),
        ({"conv_layers": [{"kernel": (4, 3), "stride": (1, 2), "num_chan": 1}]}, "kernels must be odd"),
        ({"conv_layers": [{"kernel": (5, 3), "stride": (1, 3), "num_chan": 1}]}, "strides 2 at most"),
    ],
)
def test_what_of_the_thesis_code_cannot_be_mapped(changes, message, tmp_path):
    settings = {
        **THESIS,
        "conv_layers": [{"kernel": (5, 3), "stride": (2, 2), "num_chan": 1}],
        "rec_number": 1,
        **changes,
    }
    with pytest.raises(ModelError, match=message):
        import_checkpoint(thesis_file(ThesisNet(settings), settings, tmp_path / "x.pt"))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.no_grad()
def test_same_convolutions_over_time_alone(kernel, stride):
    """In one dimension, in a batch: what the re-stated layer makes of each row by itself."""
    layer = ConvLayer(channels=4, kernel=(1, kernel), stride=(1, stride), same=True)
    ours = MaskedConv(3, layer, ModelConfig(conv_dims=1, conv=(layer,), batch_norm=False, relu_clip=1.0))
    theirs = Same(3, 4, (1, kernel), (1, stride))
    theirs.layer.weight.copy_(ours.conv.weight[:, :, None])
    theirs.layer.bias.copy_(ours.conv.bias)
    lengths = torch.arange(1, 9)
    x = torch.randn(8, 3, 8) * time_mask(lengths, 8)[:, None]
    together, counts = ours(x, lengths)
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone = theirs(x[row : row + 1, :, None, :length])[0, :, 0].clamp(0, 1)
        torch.testing.assert_close(together[row, :, :count], alone)


@torch.no_grad()
def test_the_thesis_code_exported(tmp_path):
    settings = {**THESIS, "rec_number": 1}
    net = thesis_net(settings)
    import_checkpoint(thesis_file(net, settings, tmp_path / "x.pt")).save(tmp_path / "best.pt")
    assert export_model(tmp_path / "best.pt", tmp_path / "model", precision="fp32").passed
    backend = OrtBackend(open_model(tmp_path / "model"), device="cpu", threads=1)
    theirs = [net(thesis_features(samples.astype(np.float64)))[0].numpy() for samples in recordings()]
    assert_same(theirs, our_log_probs(backend, recordings()))


def test_imported_exported_and_run(ds2, tmp_path):
    """The commands, one after the other, to a graph that gives what the original network gives."""
    net = random_net("lstm", bidirectional=False)
    path = saved(version_3(net, "lstm"), tmp_path / "an4.ckpt")
    imported = ds2("import", path, "--out", tmp_path / "run")
    assert imported.code == 0, imported.err
    rows = dict(line.split("  ", 1) for line in imported.out.splitlines())
    assert rows["recurrent"].strip() == "3 x unidirectional LSTM of 10"
    assert rows["front end"].strip() == (
        "log1p, 81 bins, hamming 20 ms every 10 ms, mirrored at the ends, normalised: utterance_sample"
    )
    assert rows["labels"].strip() == f"{len(LABELS)}, blank 0"
    assert load_checkpoint(tmp_path / "run/best.pt").training == {}
    assert ds2("import", path, "--out", tmp_path / "zh", "--language", "zh").code == 0
    assert load_checkpoint(tmp_path / "zh/best.pt").metadata.language == "zh"
    assert ds2("import", path, "--out", tmp_path / "xx", "--language", "xx").code == 2
    again = ds2("import", path, "--out", tmp_path / "run")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "already holds a training" in again.err
    exported = ds2("export", tmp_path / "run/best.pt", "--out", tmp_path / "model", "--precision", "fp32")
    assert exported.code == 0, exported.err
    backend = OrtBackend(open_model(tmp_path / "model"), device="cpu", threads=1)
    assert_same(their_log_probs(net, recordings()), our_log_probs(backend, recordings()))


def test_half_precision_weights_and_data_parallel_names(tmp_path):
    net = random_net("gru")
    path = saved(version_3(net, "gru"), tmp_path / "x.ckpt")
    renamed = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    other = saved(version_3(net, "gru", state_dict=renamed), tmp_path / "y.ckpt")
    weights = [import_checkpoint(p).weights for p in (path, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    half = saved(version_3(net.half(), "gru"), tmp_path / "z.ckpt")
    assert all(tensor.dtype == torch.float32 for tensor in import_checkpoint(half).weights.values())


def test_labels_in_small_letters_only_where_they_stay_apart(tmp_path):
    net = random_net("gru", labels=4)
    path = saved(version_2(net, "gru", labels="aA_ "), tmp_path / "x.pth")
    alphabet = import_checkpoint(path).metadata.alphabet
    assert (alphabet.labels, alphabet.blank) == (("a", "A", "<blank>", " "), 2)
    path = saved(version_2(net, "gru", labels="_Iİ "), tmp_path / "tr.pth")  # the small letter of one is two characters
    assert import_checkpoint(path).metadata.alphabet.labels == ("<blank>", "I", "İ", " ")


# --- files that are not to be trusted ---------------------------------------------------------------------------------


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
def test_a_foreign_checkpoint_cannot_run_code(legacy, tmp_path):
    mark = tmp_path / "exploded"
    bombs = [Bomb(os.system, f"touch {mark}"), Bomb(eval, f"open({str(mark)!r}, 'w')"), Bomb(os.mkdir, str(mark))]
    content = version_3(random_net("gru"), "gru", callbacks=bombs)
    read = read_foreign(saved(content, tmp_path / "x.ckpt", legacy=legacy))
    assert [(type(stub).__module__, type(stub).__name__) for stub in read["callbacks"]] == [
        ("posix", "system"), ("__builtin__", "eval"), ("posix", "mkdir"),
    ]  # fmt: skip
    assert all(isinstance(stub, Stub) for stub in read["callbacks"])
    assert import_checkpoint(tmp_path / "x.ckpt").metadata.model.cell == "gru"  # they are in nobody's way
    content["hyper_parameters"]["labels"] = bombs[0]
    with pytest.raises(ModelError, match="labels"):
        import_checkpoint(saved(content, tmp_path / "x.ckpt", legacy=legacy))
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_one_sentence(legacy, tmp_path):
    path = saved(version_2(random_net("gru"), "gru"), tmp_path / "x.pth", legacy=legacy)
    whole = path.read_bytes()
    for length in [0, 1, 20, 500, *np.linspace(1000, len(whole) - 1, 40).astype(int)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"x\.pth is not a checkpoint of PyTorch, or it is damaged\.$"):
            import_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_any_changed_byte_is_one_sentence_or_harmless(legacy, tmp_path):
    rng = np.random.default_rng(0)
    content = {"state_dict": {"a": torch.zeros(2)}, "audio_conf": {}, "labels": "_"}
    path = saved(content, tmp_path / "x.pth", legacy=legacy)
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 if legacy else 3):
        path.write_bytes(whole[:place] + bytes([rng.integers(256)]) + whole[place + 1 :])
        with pytest.raises(ModelError):  # never anything else
            import_checkpoint(path)


def test_settings_that_hold_themselves(tmp_path):
    content = version_3(random_net("gru"), "gru")
    node = content["hyper_parameters"]["spect_cfg"]._content["sample_rate"]
    node._val = node
    with pytest.raises(ModelError, match="its setting sample_rate is missing"):
        import_checkpoint(saved(content, tmp_path / "x.ckpt"))


def test_no_tensor_reaches_beyond_its_storage(tmp_path):
    for place in [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (4, 1)), (-1, (1,), (1,))]:
        storage = torch.storage.TypedStorage([0.0] * 4, _internal=True)
        torch.save({"a": Bomb(torch._utils._rebuild_tensor_v2, storage, *place, False, {})}, tmp_path / "x.pt")
        with pytest.raises(ModelError, match="damaged"):
            read_foreign(tmp_path / "x.pt")


def test_views_of_one_number(tmp_path):
    """As `expand` makes them: nobody's concern beside the weights, and no weights."""
    content = version_2(random_net("gru"), "gru") | {"loss_results": torch.zeros(1).expand(10**12)}
    assert import_checkpoint(saved(content, tmp_path / "x.pth")).metadata.model.cell == "gru"
    content["state_dict"]["fc.0.module.1.weight"] = torch.zeros(1, 1).expand(10**6, 10**6)
    with pytest.raises(ModelError, match=r"its weights fc\.0\.module\.1\.weight are not all in the file"):
        import_checkpoint(saved(content, tmp_path / "x.pth"))


def test_a_dictionary_with_attributes(tmp_path):
    content = collections.OrderedDict(version_2(random_net("gru"), "gru"))
    content.keys = 5
    assert import_checkpoint(saved(content, tmp_path / "x.pth")).metadata.model.cell == "gru"


# --- what cannot be mapped --------------------------------------------------------------------------------------------


def without(content, name):
    return {**content, "state_dict": {key: value for key, value in content["state_dict"].items() if key != name}}


def with_weight(content, name, tensor):
    return {**content, "state_dict": {**content["state_dict"], name: tensor}}


REFUSED = {
    "holds none of the layouts that are known: ds2 import reads deepspeech.pytorch": lambda c: {"state_dict": {}},
    "its setting window is 'bartlett', and only hann and hamming": lambda c: version_3(NET, "gru", window="bartlett"),
    "its setting labels is .*, without the blank '_'": lambda c: {**c, "labels": "ABC"},
    "its setting sample_rate is missing": lambda c: {**c, "audio_conf": {"window": "hann"}},
    "its setting window_size is '20'": lambda c: {**c, "audio_conf": {**c["audio_conf"], "window_size": "20"}},
    "cannot be imported: ": lambda c: {**c, "audio_conf": {**c["audio_conf"], "sample_rate": 0}},
    "its weights encoder.* are not all finite": lambda c: with_weight(
        c, "fc.0.module.0.bias", torch.full((10,), math.nan)
    ),
    "it has 11 outputs and 3 labels": lambda c: {**c, "labels": "_AB"},
    "holds .*twice": lambda c: {**c, "labels": "_AAABCDEFG "},
    "it has no weights rnns.1.rnn.bias_hh_l0": lambda c: without(c, "rnns.1.rnn.bias_hh_l0"),
    "it has no weights conv.seq_module.0.weight of 4 dim": lambda c: with_weight(
        c, "conv.seq_module.0.weight", torch.zeros(3)
    ),
    "its weights rnns.0.batch_norm.module.weight belong to no known part": lambda c: with_weight(
        c, "rnns.0.batch_norm.module.weight", torch.zeros(3)
    ),
    "reads 63 values per frame, and the convolutions give 123: earlier versions": lambda c: {
        **c, "audio_conf": {**c["audio_conf"], "sample_rate": 16000}
    },
    "of no known cell": lambda c: with_weight(c, "rnns.0.rnn.weight_hh_l0", torch.zeros(20, 10)),
    "has not 10 channels": lambda c: with_weight(c, "fc.0.module.0.bias", torch.zeros(9)),
}  # fmt: skip
NET = random_net("gru")


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_mapped_is_named(message, tmp_path):
    path = saved(REFUSED[message](version_2(NET, "gru")), tmp_path / "x.pth")
    with pytest.raises(ModelError, match=message) as error:
        import_checkpoint(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_no_file_and_ours(tmp_path):
    with pytest.raises(ModelNotFoundError, match="There is no checkpoint"):
        import_checkpoint(tmp_path / "x.pth")
    model = tiny_model(tiny_metadata(MODELS["gru, two directions, 2d"]))
    Checkpoint(metadata=model.metadata, weights=model.state_dict()).save(tmp_path / "x.pt")
    with pytest.raises(ModelError, match="is a checkpoint of ds2 already"):
        import_checkpoint(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ModelError, match="holds none of the layouts"):
        import_checkpoint(tmp_path / "x.pt")
