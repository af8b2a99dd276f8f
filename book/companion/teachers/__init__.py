"""The Transformers trained for this book."""
