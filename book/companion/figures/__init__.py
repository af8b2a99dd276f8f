"""Figures and tables of the book, drawn from records."""
