"""Pretrained models, from pinned packages."""
