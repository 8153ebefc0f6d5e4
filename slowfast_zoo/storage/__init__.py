"""Files of weights and where they come from: bytes in, tensors out. Nothing here knows a network."""
