"""Tokens taken from maps row by row, as runtimes that keep channels last have them in memory.

`map.flatten(2)` has channels first; where maps are kept with channels last, all numbers change places for it,
and once more where something reads its transpose, a token a row.
"""

from __future__ import annotations

import torch
from torch import fx

__all__ = ["take_tokens_by_rows"]

aten = torch.ops.aten


def take_tokens_by_rows(graph_module: fx.GraphModule) -> None:
    """Let tokens of which anything reads the transpose be rows first: (B, H·W, C), then (B, C, H·W).

    The graph computes the same; products with a transposed matrix need no transposition.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if (
            node.target is aten.flatten.using_ints
            and node.args[1:] == (2,)
            and any(map(_transposes, node.users))
        ):
            with graph.inserting_after(node):
                last = graph.call_function(aten.permute.default, (node.args[0], [0, 2, 3, 1]))
            with graph.inserting_after(last):
                rows = graph.call_function(aten.flatten.using_ints, (last, 1, 2))
            with graph.inserting_after(rows):
                columns = graph.call_function(aten.transpose.int, (rows, 1, 2))
            for user in list(node.users):
                if _transposes(user):
                    user.replace_all_uses_with(rows)
                    graph.erase_node(user)
            node.replace_all_uses_with(columns)
            graph.erase_node(node)
    graph_module.recompile()


def _transposes(node: fx.Node) -> bool:
    return node.target is aten.transpose.int and node.args[1:] == (1, 2)
