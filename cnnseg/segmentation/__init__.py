"""Networks that segment: any decoder of segmentation-models-pytorch on any encoder, learnt from pseudo-masks."""
