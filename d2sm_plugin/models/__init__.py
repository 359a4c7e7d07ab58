"""Models (``*_model.py``): the owners of networks, objectives, optimisers and the training step."""
