"""Windows of an image whose early layers are computed once: shared windows and what they are made of."""
