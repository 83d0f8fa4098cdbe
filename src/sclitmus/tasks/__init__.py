"""One file, one question. A task never learns which method it is looking at."""
