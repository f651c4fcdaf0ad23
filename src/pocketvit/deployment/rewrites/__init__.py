"""Exact rewrites: the same function with fewer parameters, multiplications and passes over memory.

Each rewrite is a function that changes a frozen copy of a network and says where. It applies only where the
algebra is exact: layers are merged when the run shows that nothing else reads what passes between them. In
real numbers the rewritten network computes what the trained one computes; in float64 they agree to 1e-9.

`merging` puts one layer into another; `replacing` puts a module made for inference in place of a trained one.
"""

from pocketvit.deployment.rewrites.rewriting import REWRITES, Rewrite, apply_rewrites, rewrite_for_inference

__all__ = ["REWRITES", "Rewrite", "apply_rewrites", "rewrite_for_inference"]
