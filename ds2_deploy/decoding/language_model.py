"""N-gram language models for the beam search: ARPA files and KenLM's binaries, in whatever case they are written.

KenLM (Heafield 2011, "KenLM: Faster and smaller language model queries") does the counting; here is what it takes to
ask it about a model's own words.
"""

import bisect
import codecs
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from ds2_deploy.errors import LanguageModelError
from ds2_deploy.extras import require
from ds2_deploy.files import read_text
from ds2_deploy.structs import read_struct
from ds2_deploy.text.alphabet import Alphabet

FILES = ("lm.bin", "lm.arpa")
"""In a folder of a language model, the first that is there."""
WORDS_FILE = "words.txt"
"""Beside a binary, which does not tell its words."""
SETTINGS_FILE = "decoder.json"
PICTURE = "lm-tune.png"
"""What ds2 lm-tune draws."""
BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")
"""How files of gzip, bzip2, xz and zip begin: public language models come as .arpa.gz."""
BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MARKS = {"<s>", "</s>", "<unk>", "<UNK>"}
FEWEST = 0.5
"""Share of a language model's words that an alphabet must be able to spell."""
MAX_ALPHA, MAX_BETA, MAX_WIDTH = 10.0, 20.0, 10_000


class LmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """decoder.json: what `ds2 lm-tune` found best with the language model of its folder."""

    alpha: Annotated[float, msgspec.Meta(ge=0, le=MAX_ALPHA)]
    """Weight of its logarithms."""
    beta: Annotated[float, msgspec.Meta(ge=-MAX_BETA, le=MAX_BETA)]
    """What each word adds."""
    beam_width: Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)]


class LmFiles(NamedTuple):
    """A language model on disk."""

    model: Path
    words: Path | None
    settings: LmSettings | None


def find_language_model(path: Path) -> LmFiles:
    """`path` is an ARPA file, a KenLM binary, or a folder of one with its words and settings."""
    if not path.exists():
        raise LanguageModelError(f"There is no language model at {path}.")
    folder = path if path.is_dir() else path.parent
    model = path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), None)
    if not path.is_dir() and model is None:
        raise LanguageModelError(f"{path} is neither a file nor a folder: it is no language model.")
    if model is None:
        raise LanguageModelError(f"The folder {path} holds neither {' nor '.join(FILES)}: it is no language model.")
    words, settings = folder / WORDS_FILE, folder / SETTINGS_FILE
    found = None
    if path.is_dir() and settings.is_file():
        cure = "; let ds2 lm-tune write it again, or remove it"
        found = read_struct(settings, LmSettings, LanguageModelError, "cannot be read", cure)
    return LmFiles(model, words if words.is_file() else None, found)


def words_of_model(files: LmFiles) -> list[str]:
    """All words that it knows, without its marks."""
    with files.model.open("rb") as stream:
        begin = stream.read(len(BINARY_MAGIC))
    if begin.startswith(PACKED):
        raise LanguageModelError(f"{files.model} is packed: unpack it first.")
    if begin.startswith(BYTE_ORDER_MARKS):
        raise LanguageModelError(f"{files.model} begins with a byte order mark: save it as UTF-8 without one.")
    if begin != BINARY_MAGIC:
        found = list(dict.fromkeys(_arpa_words(files.model)))
    elif files.words:
        found = sorted(set(_fields(read_text(files.words, LanguageModelError))))
    else:
        raise LanguageModelError(
            f"{files.model} is a binary, which does not tell its words: list them in {WORDS_FILE} beside it."
        )
    words = [word for word in found if word not in MARKS]
    if not words:
        raise LanguageModelError(f"{files.model} knows no word.")
    return words


def _fields(text: str) -> list[str]:
    """What ASCII spaces part, as KenLM has it: a word of the web may hold others."""
    return re.findall(r"[^ \t\n\v\f\r]+", text)


COUNT = re.compile(r"ngram\b(?!\s*\d+\s*=\s*\d+\s*$)")
"""Of the n-grams of an order, where it is no number."""


def _arpa_words(path: Path) -> Iterator[str]:
    """The unigrams of an ARPA file."""
    within = False
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("\\1-grams:"):
                    within = True
                elif within and line.startswith("\\"):
                    return
                elif within and line.strip():
                    yield _fields(line)[1]
                elif COUNT.match(line) and not within:
                    raise LanguageModelError(f"{path} is damaged: it says {line.strip()!r}.")  # KenLM would crash
    except (UnicodeDecodeError, IndexError) as error:
        raise LanguageModelError(f"{path} is neither an ARPA file nor a KenLM binary.") from error
    if not within:
        raise LanguageModelError(f"{path} is neither an ARPA file nor a KenLM binary: it has no section \\1-grams.")
    raise LanguageModelError(f"{path} is cut off: nothing follows its 1-grams.")


def _composed(word: str) -> str:
    """Accents in one sign with their letters, as training has them: a language may be written otherwise."""
    return unicodedata.normalize("NFC", word)


FORMS: tuple[Callable[[str], str], ...] = (
    str, str.lower, str.upper, _composed, lambda word: _composed(word.lower()), lambda word: _composed(word.upper()),
)  # fmt: skip
"""In which a word is looked for in an alphabet, the one it has first."""


def with_apostrophe(word: str, letters: Container[str]) -> str:
    """A word with the apostrophe that these letters have, the typewriter's or the printer's."""
    return word if "’" in letters else word.replace("’", "'")


def spelled(words: Sequence[str], alphabet: Alphabet, source: Path) -> dict[str, str]:
    """Words as the alphabet writes them -> as the language model does: public ones are often in capitals.

    LanguageModelError where the alphabet can write less than FEWEST of them in any case.
    """
    letters = {label for i, label in enumerate(alphabet.labels) if i != alphabet.blank}
    can_write: Callable[[str], bool] = letters.__contains__ if alphabet.label_is_word else letters.issuperset
    best: list[tuple[str, str]] = []
    for form in FORMS:
        ours = [(ours, word) for word in words if can_write(ours := form(with_apostrophe(word, letters)))]
        best = max(best, ours, key=len)
        if len(best) == len(words):  # no other form can write more
            break
    if len(best) < FEWEST * len(words):
        known = {word for _, word in best}
        strange = next(word for word in words if word not in known)
        raise LanguageModelError(
            f"The language model {source} has another alphabet than the model, which can write {len(best)} of its "
            f"{len(words)} words and not, for one, {strange!r}."
        )
    spellings = dict(best)
    return spellings | {word: word for word in words if word in spellings}  # of several forms, the very one


class NGramScorer:
    """What pyctcdecode asks of a language model, in natural logarithms: alpha · ln P(word | before) + beta."""

    def __init__(self, model: Any, words: dict[str, str], alpha: float, beta: float, unknown: float) -> None:
        self._kenlm = require("kenlm")
        self._model, self._words, self._sorted = model, words, sorted(words)
        self._alpha, self._beta, self._unknown = alpha * math.log(10), beta, unknown  # KenLM's logarithms are of ten

    def weighing(self, alpha: float, beta: float) -> "NGramScorer":
        """The same with other weights."""
        other = copy(self)
        other._alpha, other._beta = alpha * math.log(10), beta
        return other

    @property
    def order(self) -> int:
        return int(self._model.order)

    def get_start_state(self) -> Any:
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def score_partial_token(self, partial_token: str) -> float:
        """Of the beginning of a word: nothing where a word begins like that, else as an unknown one."""
        place = bisect.bisect_left(self._sorted, partial_token)
        known = place < len(self._sorted) and self._sorted[place].startswith(partial_token)
        return 0.0 if known else self._unknown

    def score(
        self, prev_state: Any, word: str, is_last_word: bool = False, *, known: bool = False
    ) -> tuple[float, Any]:
        """Of a word, and of the end where it is the last; a text that ends in a space ends in an empty word.

        `known`: not to be punished for being unknown.
        """
        state, total = prev_state, 0.0
        if word:
            state = self._kenlm.State()
            total = self._beta + self._alpha * self._model.BaseScore(prev_state, self._words.get(word, word), state)
            total += 0.0 if known or word in self._words else self._unknown
        if is_last_word:
            total += self._alpha * self._model.BaseScore(state, "</s>", self._kenlm.State())
        return total, state


class HotWordScorer:
    """A language model, or none, for which some words and phrases weigh more, whether it knows them or not.

    The beginning of one has its share of the weight already, or the search would drop it; a phrase that does not go on
    gives it back.
    """

    def __init__(self, weights: Mapping[str, float], lm: NGramScorer | None) -> None:
        self._lm = lm
        self.order = lm.order if lm else 1
        self._phrases: dict[str, list[Phrase]] = defaultdict(list)  # by their first words
        self._shares: dict[str, float] = defaultdict(float)  # of all beginnings of their words
        for phrase, weight in weights.items():
            words = tuple(phrase.split())
            self._phrases[words[0]].append((words, weight))
            for word in words:
                for end in range(len(word) + 1):
                    share = weight / len(words) * end / len(word)
                    self._shares[word[:end]] = max(self._shares[word[:end]], share)
        self._known = {word for phrase in weights for word in phrase.split()}

    def get_start_state(self) -> "_Begun":
        return _Begun(self._lm.get_start_state() if self._lm else None, (), 0.0)

    def score_partial_token(self, partial_token: str) -> float:
        """Of the beginning of a word."""
        if partial_token in self._shares:
            return self._shares[partial_token]
        return self._lm.score_partial_token(partial_token) if self._lm else 0.0

    def score(self, prev_state: "_Begun", word: str, is_last_word: bool = False) -> tuple[float, "_Begun"]:
        """Of a word, and of the end where it is the last."""
        total, state = 0.0, None
        if self._lm:
            total, state = self._lm.score(prev_state.state, word, is_last_word, known=word in self._known)
        new = ((phrase, 0) for phrase in self._phrases.get(word, ()))
        heard = [(one, count + 1) for one, count in (*prev_state.phrases, *new) if one[0][count] == word]
        whole = max((weight for (words, weight), count in heard if count == len(words)), default=0.0)
        begun = tuple((one, count) for one, count in heard if count < len(one[0])) if not is_last_word else ()
        share = max((weight * count / len(words) for (words, weight), count in begun), default=0.0)
        return total + whole + share - prev_state.share, _Begun(state, begun, share)


Phrase = tuple[tuple[str, ...], float]
"""Its words, most often one, and its weight."""


class _Begun(NamedTuple):
    """How far a text has come."""

    state: Any
    """Of the language model."""
    phrases: tuple[tuple[Phrase, int], ...]
    """Those that its last words begin, and how many words of each."""
    share: float
    """Of their weights, which the score has already."""


class BoundaryScorer:
    """A language model of labels, for which a boundary counts when a label follows that is none: as in a written text,
    there is none around it, and one where the search has several in a row."""

    def __init__(self, boundary: str, lm: NGramScorer) -> None:
        self._boundary, self._lm = boundary, lm
        self.order = lm.order

    def get_start_state(self) -> "_Bounded":
        return _Bounded(self._lm.get_start_state(), begun=False, waiting=False)

    def score_partial_token(self, partial_token: str) -> float:
        return self._lm.score_partial_token(partial_token)

    def score(self, prev_state: "_Bounded", word: str, is_last_word: bool = False) -> tuple[float, "_Bounded"]:
        """Of a label, with the boundary that waited for it, and of the end where it is the last."""
        total, (state, begun, waiting) = 0.0, prev_state
        said = word not in ("", self._boundary)
        if said and waiting:
            total, state = self._lm.score(state, self._boundary)
        more, state = self._lm.score(state, word if said else "", is_last_word)
        waiting = begun and not said and (waiting or word == self._boundary)
        return total + more, _Bounded(state, begun or said, waiting)


class _Bounded(NamedTuple):
    """How far a text has come."""

    state: Any
    """Of the language model."""
    begun: bool
    """Whether a label came that is no boundary."""
    waiting: bool
    """Whether boundaries came after it."""


def unreadable(path: Path, error: Exception) -> LanguageModelError:
    """What KenLM said, in a line, without its own lines of code."""
    said = " ".join(str(error).split())
    reason = re.sub(r"^\w+(?: because `[^']*')?\. ", "", said.rpartition(" threw ")[2])
    return LanguageModelError(f"KenLM cannot read {path}: {reason.removesuffix(')').rstrip('.')}.")


def load_scorer(files: LmFiles, alphabet: Alphabet, alpha: float, beta: float, unknown: float) -> NGramScorer:
    """The language model of `files` for a model with this alphabet."""
    kenlm = require("kenlm")
    words = spelled(words_of_model(files), alphabet, files.model)
    try:
        config = kenlm.Config()
        config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        model = kenlm.Model(str(files.model), config)
    except (OSError, RuntimeError, ValueError) as error:  # the last where it cannot even say so in UTF-8
        raise unreadable(files.model, error) from error
    return NGramScorer(model, words, alpha, beta, unknown)
