"""`python -m ds2_deploy`, which torchrun can start: the same as `ds2`."""

from ds2_deploy.cli import main

main()
