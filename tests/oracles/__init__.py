"""Models that others computed: tiny, random, and held against transformers and llama.cpp.

`make oracles` records fixtures/; the suite replays them without torch. See README.rst.
"""
