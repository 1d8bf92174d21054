"""`ds2 bench`: how fast a model runs here, by every backend, with what it takes to trust the figures.

plan of cells -> a process per backend, in turn within each cell -> rows -> checks -> JSON, CSV, Markdown, HTML
"""
