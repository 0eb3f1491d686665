"""What the explorer's page (`wsss.explorer`) has to know of networks that segment, and of CNN classifiers."""
