"""The commands of `ds2`, a module each."""
