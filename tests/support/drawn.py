"""What a figure holds, by name."""


def named(axes, label):
    """Return the one line with a label."""
    (found,) = (line for line in axes.lines if line.get_label() == label)
    return found
