"""Sessions and their uploads and policies, as functions over the store."""
