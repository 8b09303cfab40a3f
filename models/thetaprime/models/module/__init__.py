"""Policies whose network is any `torch.nn.Module`: its forward pass as data, and the policy that runs it."""
