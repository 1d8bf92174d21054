"""Make ds2_deploy/text/cmudict.txt.gz anew: the first pronunciation of every word in CMUdict, without stress.

    .venv/bin/python samples/make_cmudict.py cmudict.dict

cmudict.dict is the CMU Pronouncing Dictionary (https://github.com/cmusphinx/cmudict); the file in the repository was
made from the one in the Python package cmudict 1.1.3, of which nothing but that data is used. Its licence is
ds2_deploy/text/cmudict.LICENSE. The same input gives the same bytes.
"""

import argparse
import gzip
import re
from pathlib import Path

OUT = Path(__file__).parent.parent / "ds2_deploy/text/cmudict.txt.gz"


def reduced(dictionary: str) -> str:
    """A line `word phonemes` per word, sorted; words with anything but letters and apostrophes are left out.

    `a.` and `x-ray` are never looked up, because texts are cut at what is neither letter nor apostrophe.
    """
    first: dict[str, str] = {}
    for line in dictionary.splitlines():
        word, _, phonemes = line.partition("#")[0].strip().partition(" ")
        if re.fullmatch("[a-z']+", word):  # later pronunciations are called word(2)
            first.setdefault(word, re.sub("[0-2]", "", phonemes))
    return "".join(f"{word} {phonemes}\n" for word, phonemes in sorted(first.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", type=Path, help="cmudict.dict")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    text = reduced(arguments.dictionary.read_text(encoding="utf-8"))
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{arguments.out}: {text.count(chr(10)):,} words, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
