"""Relevance through a vision transformer: rules on plain tensors, the capture of a forward pass, propagation back."""
