"""How well confidence and localisation of a detector agree, and what its errors cost."""
