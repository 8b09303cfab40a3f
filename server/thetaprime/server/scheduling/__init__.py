"""Which tenant's work runs next, and how often a tenant may ask."""
