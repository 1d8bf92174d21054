"""Cut sets of lhotse (https://lhotse.readthedocs.io, "Cuts"), read without lhotse."""

import json
from pathlib import Path
from typing import Any

from training.corpora.entry import FAULTS, Dropped, Entry, Items, Part, Reason, fault, lines_of
from training.corpora.plain import first_object

SAME_S = 1e-3
"""A cut that differs from its recording by less is the whole of it."""


def is_lhotse(source: Path) -> bool:
    return str(first_object(source).get("type", "")).endswith("Cut")


def read_lhotse(source: Path) -> Items:
    """JSON lines of MonoCuts: recording, start, duration and supervisions, whose times count from the cut's start.

    A supervision is the text of its cut; where there are several, each is an utterance of its own. One that goes
    beyond its cut, as in windows of a fixed length, is dropped: nobody knows which of its words are in the cut.
    """
    for number, line in lines_of(source):
        where = f"{source}, line {number}"
        try:
            cut = json.loads(line)
            if cut["type"] != "MonoCut":
                yield Dropped(where, Reason.MALFORMED, f"it is a {cut['type']}, and only MonoCuts are read")
            elif not cut["supervisions"]:
                yield Dropped(where, Reason.NO_TRANSCRIPT, f"cut {cut['id']}")
            else:
                yield from list(_entries(cut, source.parent))
        except FAULTS as error:
            yield Dropped(where, Reason.MALFORMED, fault(error))


def _entries(cut: dict[str, Any], folder: Path) -> Items:
    audio, channel = _audio_of(cut, folder)
    supervisions = cut["supervisions"]
    for supervision in supervisions:
        start_s, duration_s = float(cut["start"]), float(cut["duration"])
        from_s, said_s = float(supervision["start"]), float(supervision["duration"])  # within the cut
        if from_s < -SAME_S or from_s + said_s > duration_s + SAME_S:
            lasts = f"{from_s:.3f} to {from_s + said_s:.3f} s of a cut of {duration_s:.3f} s"
            yield Dropped(str(audio), Reason.BEYOND, f"supervision {supervision['id']}, {lasts}")
            continue
        if len(supervisions) > 1:
            start_s, duration_s = start_s + from_s, said_s
        whole = start_s < SAME_S and abs(duration_s - cut["recording"]["duration"]) < SAME_S and channel is None
        part = None if whole else Part(start_s, duration_s, channel)
        yield Entry(str(audio), str(supervision.get("text") or ""), str(supervision.get("speaker") or ""), part)


def _audio_of(cut: dict[str, Any], folder: Path) -> tuple[Path, int | None]:
    """The file of a cut, beside the cut set or from the current folder as lhotse has it; its channel, of several."""
    recording = cut["recording"]
    if recording.get("transforms"):
        raise ValueError(f"recording {recording['id']} is transformed, so its file holds other audio")
    source = next((source for source in recording["sources"] if cut["channel"] in source["channels"]), None)
    if source is None:
        raise ValueError(f"recording {recording['id']} has no channel {cut['channel']}")
    if source["type"] != "file":
        raise ValueError(f"recording {recording['id']} is a {source['type']}, not a file")
    path = Path(source["source"])
    channels = source["channels"]
    channel = channels.index(cut["channel"]) if len(channels) > 1 else None
    return folder / path if (folder / path).exists() else path, channel
