"""What tokens keep and learn through depth, and whether attention says what passes between them."""
