"""Structs as JSON: read with errors that say what to do, written for people, with a number for infinity."""

import math
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from ds2_deploy.errors import DS2Error, reason_of
from ds2_deploy.files import read_bytes

Kind = TypeVar("Kind")

INFINITE = sys.float_info.max
"""What stands for infinity in reports, 1.8e308."""


def read_struct(path: Path, kind: type[Kind], error: type[DS2Error], refusal: str, cure: str = "") -> Kind:
    """The JSON of a file as `kind`; `error` where it cannot be read, or says "PATH `refusal`: reason`cure`."."""
    return parse_struct(read_bytes(path, error), kind, error, f"{path} {refusal}", cure)


def parse_struct(content: str | bytes, kind: type[Kind], error: type[DS2Error], refusal: str, cure: str = "") -> Kind:
    """JSON as `kind`; `error` says "`refusal`: reason`cure`." where it is none: damaged, or of other fields."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError) as cause:
        raise error(f"{refusal}: {reason_of(cause)}{cure}.") from cause


def struct_json(value: msgspec.Struct, indent: int = 2) -> str:
    """JSON for people to read, without a line feed at its end; `parse_struct` reads it back, given finite numbers."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()


def as_finite(value: float) -> float:
    """A number that JSON can hold: INFINITE for infinities and NaN, which would become null."""
    return value if math.isfinite(value) else INFINITE
