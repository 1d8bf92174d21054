"""What weights have learnt from, over all the trainings that they went through. No torch."""

from typing import NamedTuple


class Learnt(NamedTuple):
    """Manifests that weights have learnt from, in their order, and the hours of them all."""

    manifests: dict[str, None]
    """Folder and file name of each, once."""
    hours: float
    """0: unknown, as of a mean of weights."""

    def plus(self, other: "Learnt") -> "Learnt":
        """Both; their hours are known where one has all of the other's manifests, or none of them."""
        both = self.manifests | other.manifests
        if whole := [one.hours for one in (self, other) if len(one.manifests) == len(both)]:
            return Learnt(both, max(whole))  # where one and the other are the same, one of them may know
        apart = len(both) == len(self.manifests) + len(other.manifests)
        return Learnt(both, self.hours + other.hours if apart and self.hours and other.hours else 0.0)
