"""Attention: how a model's is read and replaced, and what its maps say, without storing them where they are long."""
