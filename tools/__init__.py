"""Everything else one runs: thin scripts over utils, as `python -m tools.NAME`."""
