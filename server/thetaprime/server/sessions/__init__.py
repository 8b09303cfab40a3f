"""Sessions, their uploads and their policies, as functions over the store."""
