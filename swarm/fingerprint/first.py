"""The fingerprint of version 0.1, by which the journals of that time know their experiments.

It must not change: a swarm that was begun with it finds its own changes again by it.
"""

from __future__ import annotations

import ast

from swarm.fingerprint import folding

DIGITS = 20

# What the grammar records but no program can notice.
_IGNORED_FIELDS = frozenset({"kind", "type_comment", "type_ignores"})


def written(tree: ast.Module) -> str:
    """The tree as text, without docstrings and with its numbers folded."""
    return _canonical(_Simplified().visit(tree))


class _Simplified(ast.NodeTransformer):
    """Rewrites a tree to the simplest one of the same meaning."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                kept = [
                    statement for statement in statements if not folding.does_nothing(statement)
                ]
                setattr(node, block, kept)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node if isinstance(node.op, ast.Not) else folding.unary(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        value = folding.calculated(node.op, folding.number(node.left), folding.number(node.right))
        return node if value is None else ast.Constant(value)


def _canonical(value: object) -> str:
    """Write a tree down, the same in every version of Python (`ast.dump` changes its form)."""
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={_canonical(field)}"
            for name, field in ast.iter_fields(value)
            if name not in _IGNORED_FIELDS and field is not None and field != []
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if type(value) is int:
        return hex(value)  # decimal has a limit of digits
    return repr(value)
