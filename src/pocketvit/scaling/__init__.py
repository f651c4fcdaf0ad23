"""Choosing an architecture for a budget."""

from pocketvit.scaling.budget import Budget, Candidate, Choice, choose_model

__all__ = ["Budget", "Candidate", "Choice", "choose_model"]
