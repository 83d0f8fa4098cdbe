"""Foundation models, run frozen: one file per model, and what they share."""
