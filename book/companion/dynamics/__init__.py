"""The dynamics of real models: what they are shown, and how they are changed."""
