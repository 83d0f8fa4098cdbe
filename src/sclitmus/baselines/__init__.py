"""Controls and simple methods: one file, one method. None of them knows which task asks."""
