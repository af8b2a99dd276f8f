"""What residual connections and normalisation stabilise: Transformers trained with each switch on and off."""
