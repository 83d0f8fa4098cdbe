"""Assess an embedding of your own beside everything simple, from Python. Run me as I am."""

import numpy as np

import sclitmus
from sclitmus import catalog

# 700 real blood cells that come inside scanpy. Yours: sclitmus.read("my.h5ad", label=…, batch=…).
cells = catalog.load_dataset("pbmc68k_reduced")

# Stands for your model: any float array with one row per cell, in the cells' order.
mine = np.log1p(cells.counts[:, :64].toarray()).astype(np.float32)

results = sclitmus.run(cells, embeddings={"mine": mine}, out="sclitmus-quickstart")
for sentence in results.sentences():
    print("-", sentence)
print(results.report_path)
