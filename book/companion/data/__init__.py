"""What is read: pictures, reviews, tokens, and changed examples."""
