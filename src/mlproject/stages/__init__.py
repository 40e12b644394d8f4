"""One module an entry point: each composes the parts below, without arithmetic of its own."""
