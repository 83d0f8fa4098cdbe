"""Solvers that methods and tasks share: arrays in, models out; they know no dataset and no task."""
