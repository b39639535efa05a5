"""The parts of EoMT that have peers: of each the options, what all sides get, our side, and how results agree."""
