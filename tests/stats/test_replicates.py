"""Records are reduced to exactly the values and deviations the definition says."""

import math

import numpy as np
import polars as pl
import pytest
from conftest import frame, record  # type: ignore[import-not-found]
