"""Frames in, pages out: the report, its figures and its tables. A new report runs nothing."""
